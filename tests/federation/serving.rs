//! What a server tells others of its rooms: which events, which states, and to whom.

use std::time::Duration;

use http::Method;
use ingle::{protocol::event::Event, rooms::append::NewEvent};
use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    intake::{forge, message, send},
    rooms::{hears, join, public_room, say},
};
use crate::harness::{Answer, Server, User, network, quoted};

/// Ann on a, and Bob on b, in a room of Ann's.
struct Scene {
    a: Server,
    b: Server,
    ann: User,
    bob: User,
    id: OwnedRoomId,
}

async fn scene() -> Scene {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    // From now on b hears nothing on its own.
    b.is_heard().await;
    network.away(&b);
    Scene { a, b, ann, bob, id }
}

impl Scene {
    /// What b asks of a.
    async fn ask(&self, path: &str) -> Answer {
        self.b.ask_server(&self.a, Method::GET, &format!("/_matrix/federation/v1/{path}"), None).await
    }

    async fn missing(&self, latest: &str, body: Value) -> Answer {
        let mut body = body;
        body["latest_events"] = json!([latest]);
        body["earliest_events"].is_null().then(|| body["earliest_events"] = json!([]));
        let path = format!("/_matrix/federation/v1/get_missing_events/{}", quoted(self.id.as_str()));
        self.b.ask_server(&self.a, Method::POST, &path, Some(body)).await
    }
}

/// What events say, or what they are.
fn said(events: &Value) -> Vec<String> {
    let said = |event: &Value| event["content"]["body"].as_str().or(event["type"].as_str()).map(str::to_owned);
    events.as_array().expect("events").iter().filter_map(said).collect()
}

#[tokio::test]
async fn a_server_that_was_turned_out_learns_of_it_and_of_nothing_after() {
    let scene = scene().await;
    let (ann, room) = (&scene.ann, scene.id.as_str());
    say(ann, &scene.id, "before").await;
    ann.kick(room, &scene.bob).await.ok();
    let kick = ann.last(room).await;
    say(ann, &scene.id, "after").await;
    let after = ann.last(room).await;
    let gap = scene.missing(&kick, json!({ "limit": 1 })).await.ok();
    assert_eq!(said(&gap["events"]), ["before"]);
    let (id, at) = (quoted(room), quoted(&kick));
    let state = scene.ask(&format!("state/{id}?event_id={at}")).await.ok();
    assert!(said(&state["pdus"]).contains(&"m.room.member".to_owned()), "{state}");
    let ids = scene.ask(&format!("state_ids/{id}?event_id={at}")).await.ok();
    assert_eq!(ids["pdu_ids"].as_array().map(Vec::len), state["pdus"].as_array().map(Vec::len));
    assert_eq!(ids["auth_chain_ids"].as_array().map(Vec::len), state["auth_chain"].as_array().map(Vec::len));
    assert_eq!(said(&scene.ask(&format!("event/{at}")).await.ok()["pdus"]), ["m.room.member"]);
    let past = scene.ask(&format!("backfill/{id}?v={at}&limit=2")).await.ok();
    assert_eq!(said(&past["pdus"]), ["m.room.member", "before"]);
    scene.ask(&format!("event_auth/{id}/{at}")).await.ok();
    // What came then is not for that server any more.
    let at = quoted(&after);
    scene.missing(&after, json!({})).await.is("403 M_FORBIDDEN");
    scene.ask(&format!("event/{at}")).await.is("404 M_NOT_FOUND");
    for path in ["state/{id}?event_id={at}", "state_ids/{id}?event_id={at}", "backfill/{id}?v={at}&limit=2"] {
        scene.ask(&path.replace("{id}", &id).replace("{at}", &at)).await.is("403 M_FORBIDDEN");
    }
    scene.ask(&format!("timestamp_to_event/{id}?ts=0&dir=f")).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn an_invite_opens_no_room_to_a_server() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().await;
    ann.say(&room, "secret").await;
    ann.invite(&room, &bob).await.ok();
    let invite = ann.last(&room).await;
    let scene = Scene { a, b, ann, bob, id: room.as_str().try_into().expect("a room ID") };
    let (id, at) = (quoted(&room), quoted(&invite));
    assert_eq!(said(&scene.ask(&format!("event/{at}")).await.ok()["pdus"]), ["m.room.member"]);
    scene.missing(&invite, json!({})).await.is("403 M_FORBIDDEN");
    for path in [
        "state/{id}?event_id={at}",
        "state_ids/{id}?event_id={at}",
        "backfill/{id}?v={at}&limit=2",
        "event_auth/{id}/{at}",
    ] {
        scene.ask(&path.replace("{id}", &id).replace("{at}", &at)).await.is("403 M_FORBIDDEN");
    }
}

#[tokio::test]
async fn what_was_rejected_is_not_handed_on_and_hides_nothing_behind_it() {
    let scene = scene().await;
    let Scene { a, b, ann, bob, id } = &scene;
    say(ann, id, "first").await;
    let topic = NewEvent::state(&bob.id, "m.room.topic", "", Default::default());
    let first: Event = a
        .ctx
        .rooms
        .by_id((&*ann.last(id.as_str()).await).try_into().expect("an ID"))
        .expect("rows")
        .expect("it")
        .event
        .as_ref()
        .clone();
    let rejected = forge(bob, id, topic, &[&first]);
    let next = forge(bob, id, message(bob, "next"), &[&rejected]);
    assert_eq!(send(b, a, "t1", &[&rejected]).await.len(), 1);
    assert_eq!(send(b, a, "t2", &[&next]).await, Vec::<String>::new());
    hears(a, id, &["first", "next"]).await;
    let path = format!("backfill/{}?v={}&limit=3", quoted(id.as_str()), quoted(next.event_id.as_str()));
    assert_eq!(said(&scene.ask(&path).await.ok()["pdus"]), ["next", "first"]);
    let gap = scene.missing(next.event_id.as_str(), json!({ "limit": 2 })).await.ok();
    assert_eq!(said(&gap["events"]), ["first"]);
}

#[tokio::test]
async fn a_gap_is_told_oldest_first_within_its_bounds() {
    let scene = scene().await;
    let (ann, room) = (&scene.ann, scene.id.as_str());
    let mut ids = Vec::new();
    for text in ["one", "two", "three", "four"] {
        say(ann, &scene.id, text).await;
        ids.push(ann.last(room).await);
    }
    let gap = scene.missing(&ids[3], json!({ "earliest_events": [ids[0]] })).await.ok();
    assert_eq!(said(&gap["events"]), ["two", "three"]);
    // The nearest, if there are more than are wanted.
    let gap = scene.missing(&ids[3], json!({ "limit": 2 })).await.ok();
    assert_eq!(said(&gap["events"]), ["two", "three"]);
    assert_eq!(scene.missing(&ids[3], json!({})).await.ok()["events"].as_array().map(Vec::len), Some(10));
    assert_eq!(scene.missing(&ids[3], json!({ "limit": 0 })).await.ok()["events"], json!([]));
    let all = scene.missing(&ids[3], json!({ "limit": 1u64 << 50 })).await.ok();
    assert!(all["events"].as_array().is_some_and(|all| all.len() > 8), "{all}");
    let depth = scene.ask(&format!("event/{}", quoted(&ids[1]))).await.ok()["pdus"][0]["depth"].clone();
    let deep = scene.missing(&ids[3], json!({ "min_depth": depth })).await.ok();
    assert_eq!(said(&deep["events"]), ["two", "three"]);
    scene.missing(&ids[3], json!({ "limit": -1 })).await.is("400 M_BAD_JSON");
    assert_eq!(scene.missing("$nothing", json!({})).await.ok()["events"], json!([]));
    let id = quoted(room);
    for (path, expected) in [
        ("backfill/{id}?v={one}", "400 M_MISSING_PARAM"),
        ("backfill/{id}?v={one}&limit=-1", "400 M_INVALID_PARAM"),
        ("backfill/{id}?v={one}&limit=all", "400 M_INVALID_PARAM"),
        ("backfill/!nowhere:a.example?v={one}&limit=1", "404 M_NOT_FOUND"),
        ("state/{id}", "400 M_MISSING_PARAM"),
        ("state_ids/{id}", "400 M_MISSING_PARAM"),
        ("state_ids/{id}?event_id=$nothing", "404 M_NOT_FOUND"),
        ("state/!nowhere:a.example?event_id={one}", "404 M_NOT_FOUND"),
        ("event/$nothing", "404 M_NOT_FOUND"),
        ("event_auth/{id}/$nothing", "404 M_NOT_FOUND"),
        ("timestamp_to_event/{id}?dir=f", "400 M_MISSING_PARAM"),
        ("timestamp_to_event/{id}?ts=9000000000000&dir=f", "404 M_NOT_FOUND"),
    ] {
        let path = path.replace("{id}", &id).replace("{one}", &quoted(&ids[0]));
        assert_eq!(scene.ask(&path).await.summary(), expected, "{path}");
    }
}

#[tokio::test]
async fn an_event_of_another_room_is_not_looked_at_from_this_one() {
    let scene = scene().await;
    let (ann, room) = (&scene.ann, quoted(scene.id.as_str()));
    let secret = ann.create_room().await;
    let event = ann.say(&secret, "secret").await;
    let event = quoted(&event);
    scene.ask(&format!("event/{event}")).await.is("404 M_NOT_FOUND");
    scene.ask(&format!("event_auth/{room}/{event}")).await.is("404 M_NOT_FOUND");
    scene.ask(&format!("state_ids/{room}?event_id={event}")).await.is("404 M_NOT_FOUND");
    assert_eq!(scene.ask(&format!("backfill/{room}?v={event}&limit=5")).await.ok()["pdus"], json!([]));
    scene.ask(&format!("state_ids/{}?event_id={event}", quoted(&secret))).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn what_a_servers_users_may_not_read_is_told_without_its_content() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    let room = id.as_str();
    ann.set(room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await.ok();
    let hidden = ann.say(room, "hidden").await;
    join(&bob, &id, &a).await;
    let seen = ann.say(room, "seen").await;
    let scene = Scene { a, b, ann, bob, id: id.clone() };
    let event = async |id: &str| scene.ask(&format!("event/{}", quoted(id))).await.ok()["pdus"].clone();
    assert_eq!(said(&event(&seen).await), ["seen"]);
    assert_eq!(said(&event(&hidden).await), ["m.room.message"]);
    let past = scene.ask(&format!("backfill/{}?v={}&limit=3", quoted(room), quoted(&seen))).await.ok();
    assert_eq!(said(&past["pdus"]), ["seen", "m.room.member", "m.room.message"]);
    let gap = scene.missing(&seen, json!({ "limit": 2 })).await.ok();
    assert_eq!(said(&gap["events"]), ["m.room.message", "m.room.member"]);
}

#[tokio::test]
async fn an_event_is_found_by_its_time_though_clocks_differ() {
    let scene = scene().await;
    let Scene { a, b, ann, bob, id } = &scene;
    let start = a.ctx.clock.now();
    let mut ids = Vec::new();
    for text in ["one", "two", "three", "four", "five", "six"] {
        a.later(Duration::from_secs(100));
        say(ann, id, text).await;
        ids.push(ann.last(id.as_str()).await);
    }
    // Two from the far future and the far past, in the middle of the present.
    for (time, text) in [(start + 70_000_000, "future"), (1, "past")] {
        let mut wrong = message(bob, text);
        wrong.timestamp = Some(ruma::MilliSecondsSinceUnixEpoch(ruma::UInt::new_saturating(time)));
        assert_eq!(send(b, a, text, &[&forge(bob, id, wrong, &[])]).await, Vec::<String>::new());
    }
    let found = async |seconds: u64, dir: &str| {
        let moment = start + seconds * 1_000;
        let path = format!("timestamp_to_event/{}?ts={moment}&dir={dir}", quoted(id.as_str()));
        let theirs = scene.ask(&path).await.ok();
        let path = format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={moment}&dir={dir}", quoted(id.as_str()));
        let ours = ann.get(&path).await.ok();
        assert_eq!(theirs["event_id"], ours["event_id"]);
        ids.iter().position(|id| theirs["event_id"] == **id)
    };
    assert_eq!([found(250, "f").await, found(250, "b").await], [Some(2), Some(1)]);
    assert_eq!([found(300, "f").await, found(300, "b").await], [Some(2), Some(2)]);
    assert_eq!([found(600, "f").await, found(601, "b").await], [Some(5), Some(5)]);
    // Only the one from the future is after that.
    assert_eq!(found(601, "f").await, None);
}

#[tokio::test]
async fn a_transaction_may_be_as_large_as_its_events() {
    let scene = scene().await;
    let Scene { a, b, bob, id, .. } = &scene;
    let text = "x".repeat(60_000);
    let mut events = vec![forge(bob, id, message(bob, &text), &[])];
    for _ in 1..20 {
        events.push(forge(bob, id, message(bob, &text), &[&events[events.len() - 1]]));
    }
    assert_eq!(send(b, a, "large", &events.iter().collect::<Vec<_>>()).await, Vec::<String>::new());
}
