//! Events that come from another server: promised, waited for, refused.

use http::{Method, StatusCode};
use ingle::{
    protocol::{canonical, event::Event},
    rooms::append::{self, NewEvent},
    store::schema::{events::Standing, federation::INBOX},
};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::rooms::{hears, join, messages, public_room, room, say, state};
use crate::harness::{Answer, Server, User, network};

/// An event that a user's server signs, and that it does not put into the room. Without `after` it builds on
/// the end of the room.
pub(super) fn forge(user: &User, id: &OwnedRoomId, new: NewEvent, after: &[&Event]) -> Event {
    let (rooms, room) = (&user.server.ctx.rooms, room(&user.server, id));
    let mut draft = rooms.decide(&room).draft(new).expect("a draft");
    if !after.is_empty() {
        draft.prev_events = after.iter().map(|event| event.event_id.clone()).collect();
        draft.depth = after.iter().map(|event| event.depth).max().expect("an event") + 1;
    }
    append::sign(rooms, draft, room.rules).expect("an event")
}

pub(super) fn message(user: &User, text: &str) -> NewEvent {
    let content = canonical::to_object(&json!({ "msgtype": "m.text", "body": text })).expect("content");
    NewEvent::message(&user.id, "m.room.message", content)
}

fn topic(user: &User, text: &str) -> NewEvent {
    let content = canonical::to_object(&json!({ "topic": text })).expect("content");
    NewEvent::state(&user.id, "m.room.topic", "", content)
}

/// Sends a transaction from one server to another.
async fn transact(from: &Server, to: &Server, name: &str, events: &[&Event], edus: Value) -> Answer {
    let pdus: Vec<Value> =
        events.iter().map(|event| serde_json::from_str(event.json()).expect("an event is JSON")).collect();
    let body = json!({
        "origin": from.ctx.config.server_name,
        "origin_server_ts": from.ctx.clock.now(),
        "pdus": pdus,
        "edus": edus,
    });
    from.ask_server(to, Method::PUT, &format!("/_matrix/federation/v1/send/{name}"), Some(body)).await
}

/// Sends events, and says for which there was an error.
pub(super) async fn send(from: &Server, to: &Server, name: &str, events: &[&Event]) -> Vec<String> {
    let results = transact(from, to, name, events, json!([])).await.ok();
    let result = |event: &&Event| results["pdus"][event.event_id.as_str()]["error"].as_str().map(str::to_owned);
    for event in events {
        assert!(results["pdus"][event.event_id.as_str()].is_object(), "a result for every event: {results}");
    }
    events.iter().filter_map(result).collect()
}

fn waiting(server: &Server) -> Vec<OwnedEventId> {
    server.ctx.store.scan(INBOX, &()).map(|row| row.expect("a row").1.id).collect()
}

/// Waits until so many events wait.
pub(super) async fn waits(server: &Server, count: usize, failures: u32) {
    let mut log = server.ctx.store.watch();
    let rows = || -> Vec<u32> { server.ctx.store.scan(INBOX, &()).map(|row| row.expect("a row").1.failures).collect() };
    let done = async {
        while rows().len() != count || rows().iter().any(|failed| *failed < failures) {
            log.changed().await.expect("the server runs");
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(20), done).await;
    assert!(in_time.is_ok(), "{:?} wait instead of {count}", waiting(server));
}

pub(super) fn standing(server: &Server, event: &Event) -> Option<Standing> {
    server.ctx.rooms.by_id(&event.event_id).expect("the store works").map(|known| known.standing)
}

#[tokio::test]
async fn an_event_whose_forerunner_nobody_has_waits_for_it() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    let one = forge(&bob, &id, message(&bob, "one"), &[]);
    let two = forge(&bob, &id, message(&bob, "two"), &[&one]);
    let three = forge(&bob, &id, message(&bob, "three"), &[&two]);
    assert_eq!(send(&b, &a, "t1", &[&three]).await, Vec::<String>::new());
    assert_eq!(send(&b, &a, "t2", &[&two]).await, Vec::<String>::new());
    // Both are promised; nobody can complete them yet.
    waits(&a, 2, 1).await;
    assert_eq!(messages(&a, &id), Vec::<String>::new());
    // A promise survives: the program is started again, and finds them.
    let a = network.restart(&a).await;
    assert_eq!(waiting(&a).len(), 2);
    assert_eq!(send(&b, &a, "t3", &[&one]).await, Vec::<String>::new());
    waits(&a, 0, 0).await;
    assert_eq!(messages(&a, &id), ["one", "two", "three"]);
}

#[tokio::test]
async fn what_an_event_waited_for_lets_it_in_at_once() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    let one = forge(&bob, &id, message(&bob, "one"), &[]);
    let two = forge(&bob, &id, message(&bob, "two"), &[&one]);
    assert_eq!(send(&b, &a, "t1", &[&two]).await, Vec::<String>::new());
    waits(&a, 1, 1).await;
    assert_eq!(send(&b, &a, "t2", &[&one]).await, Vec::<String>::new());
    hears(&a, &id, &["one", "two"]).await;
    waits(&a, 0, 0).await;
}

#[tokio::test]
async fn a_transaction_is_taken_in_once() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    let one = forge(&bob, &id, message(&bob, "one"), &[]);
    let two = forge(&bob, &id, message(&bob, "two"), &[&one]);
    let first = transact(&b, &a, "same", &[&one], json!([])).await.ok();
    assert_eq!(transact(&b, &a, "same", &[&one, &two], json!([])).await.ok(), first);
    assert_eq!(messages(&a, &id), ["one"]);
    assert_eq!(send(&b, &a, "other", &[&one, &two]).await, Vec::<String>::new());
    assert_eq!(messages(&a, &id), ["one", "two"]);
    let many: Vec<&Event> = std::iter::repeat_n(&one, 51).collect();
    transact(&b, &a, "many", &many, json!([])).await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn every_event_of_a_transaction_has_a_result_of_its_own() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    let good = forge(&bob, &id, message(&bob, "good"), &[]);
    let forbidden = forge(&bob, &id, topic(&bob, "mine"), &[&good]);
    let unsigned = {
        let mut pdu = forge(&bob, &id, message(&bob, "unsigned"), &[&good]).to_object();
        pdu.insert("signatures".to_owned(), canonical::Value::Object(Default::default()));
        Event::from_object(pdu, room(&b, &id).rules).expect("an event")
    };
    let errors = send(&b, &a, "t", &[&good, &forbidden, &unsigned]).await;
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("power level"), "{errors:?}");
    assert!(errors[1].contains("has not signed"), "{errors:?}");
    assert_eq!(standing(&a, &forbidden), Some(Standing::Rejected));
    assert_eq!(standing(&a, &unsigned), None);
    assert_eq!(messages(&a, &id), ["good"]);
}

#[tokio::test]
async fn a_server_that_is_kept_out_is_told_so_for_every_event() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    let one = forge(&bob, &id, message(&bob, "one"), &[]);
    let acl = json!({ "allow": ["*"], "deny": ["b.example"] });
    ann.put(&format!("/_matrix/client/v3/rooms/{id}/state/m.room.server_acl/"), acl).await.ok();
    let typing = json!([{ "edu_type": "m.typing", "content":
        { "room_id": id, "user_id": bob.id, "typing": true } }]);
    let answer = transact(&b, &a, "t", &[&one], typing).await.ok();
    let error = answer["pdus"][one.event_id.as_str()]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("may not take part"), "{answer}");
    assert_eq!(messages(&a, &id), Vec::<String>::new());
    assert_eq!(a.ctx.store.live().typing_since(room(&a, &id).number, 0).unwrap_or_default(), []);
}

#[tokio::test]
async fn what_builds_on_a_rejected_event_is_judged_for_itself() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    say(&bob, &id, "hello").await;
    hears(&a, &id, &["hello"]).await;
    let rejected = forge(&bob, &id, topic(&bob, "mine"), &[]);
    let next = forge(&bob, &id, message(&bob, "next"), &[&rejected]);
    let last = forge(&bob, &id, message(&bob, "last"), &[&next]);
    assert_eq!(send(&b, &a, "t1", &[&rejected]).await.len(), 1);
    assert_eq!(send(&b, &a, "t2", &[&next]).await, Vec::<String>::new());
    assert_eq!(messages(&a, &id), ["hello", "next"]);
    // The end of the room before the rejected event is an end no more.
    let ends = a.ctx.rooms.published(room(&a, &id).number).expect("a room").extremities;
    assert_eq!(ends.len(), 1);
    assert_eq!(send(&b, &a, "t3", &[&last]).await, Vec::<String>::new());
    assert_eq!(messages(&a, &id), ["hello", "next", "last"]);
    assert!(!state(&a, &id).contains(&rejected.event_id.to_string()));
}

#[tokio::test]
async fn what_does_not_come_by_itself_comes_with_the_state_that_it_belongs_to() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&bob, RoomVersionId::V11).await;
    join(&ann, &id, &b).await;
    say(&bob, &id, "hello").await;
    hears(&a, &id, &["hello"]).await;
    let unknown = forge(&bob, &id, topic(&bob, "new"), &[]);
    let lacking = forge(&bob, &id, message(&bob, "lacking"), &[&unknown]);
    network.answers(&b, "/_matrix/federation/v1/event/", |_| {
        (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "there is no such event for you" }))
    });
    let ids: Vec<String> = state(&b, &id).into_iter().chain([unknown.event_id.to_string()]).collect();
    network.answers(&b, "/_matrix/federation/v1/state_ids/", move |_| {
        (StatusCode::OK, json!({ "pdu_ids": ids, "auth_chain_ids": [] }))
    });
    let pdu: Value = serde_json::from_str(unknown.json()).expect("JSON");
    network.answers(&b, "/_matrix/federation/v1/state/", move |_| {
        (StatusCode::OK, json!({ "pdus": [pdu], "auth_chain": [] }))
    });
    assert_eq!(send(&b, &a, "t", &[&lacking]).await, Vec::<String>::new());
    hears(&a, &id, &["hello", "lacking"]).await;
    let rooms = &a.ctx.rooms;
    let before = rooms.by_id(&lacking.event_id).expect("rows").and_then(|known| known.before).expect("a place");
    let found = rooms.in_state(&rooms.state(before).expect("a state"), "m.room.topic", "").expect("rows");
    assert_eq!(found.map(|known| known.event.event_id.clone()), Some(unknown.event_id));
    let asked = network.asked(&b).into_iter().filter(|path| path.starts_with("/_matrix/federation/v1/state/"));
    assert_eq!(asked.count(), 1);
}

#[tokio::test]
async fn after_a_long_outage_newcomers_are_heard() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob, cat) = (a.with_user("ann").await, b.with_user("bob").await, b.with_user("cat").await);
    let id = public_room(&bob, RoomVersionId::V11).await;
    join(&ann, &id, &b).await;
    say(&bob, &id, "before").await;
    hears(&a, &id, &["before"]).await;
    let sync = "/_matrix/client/v3/sync?timeout=0";
    let since = ann.get(sync).await.ok()["next_batch"].as_str().expect("a token").to_owned();
    network.away(&a);
    cat.post(&format!("/_matrix/client/v3/rooms/{id}/join"), json!({})).await.ok();
    for number in 0..250 {
        say(&cat, &id, &number.to_string()).await;
    }
    network.back(&a);
    say(&cat, &id, "are you back?").await;
    let mut log = a.ctx.store.watch();
    let heard = async {
        while messages(&a, &id).last().is_none_or(|last| last != "are you back?") {
            log.changed().await.expect("the server runs");
        }
    };
    let in_time = tokio::time::timeout(std::time::Duration::from_secs(30), heard).await;
    assert!(in_time.is_ok(), "a has {:?}, and {:?} wait", messages(&a, &id), waiting(&a));
    assert_eq!(state(&a, &id), state(&b, &id));
    // Ann is told that something is missing, and finds it where she is told to look.
    let whole = "filter=%7B%22room%22%3A%7B%22timeline%22%3A%7B%22limit%22%3A500%7D%7D%7D";
    let room = ann.get(&format!("{sync}&since={since}&{whole}")).await.ok()["rooms"]["join"][id.as_str()].clone();
    assert_eq!(room["timeline"]["limited"], true);
    let bodies = |events: &Value| -> Vec<String> {
        let events = events.as_array().expect("events").iter();
        events.filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
    };
    let mut said = bodies(&room["timeline"]["events"]);
    let mut from = room["timeline"]["prev_batch"].as_str().expect("a token").to_owned();
    for _ in 0..10 {
        let path = format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=100&from={from}");
        let page = ann.get(&path).await.ok();
        let mut before = bodies(&page["chunk"]);
        before.reverse();
        said.splice(..0, before);
        let Some(end) = page["end"].as_str() else { break };
        from = end.to_owned();
    }
    let all: Vec<String> = ["before".to_owned()].into_iter().chain((0..250).map(|number| number.to_string())).collect();
    assert_eq!(said[..said.len() - 1], all);
}
