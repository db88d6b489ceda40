//! Events that are sent later.

use std::time::Duration;

use ingle::rooms::delayed;
use serde_json::{Value, json};

use crate::harness::{Server, User, in_room, quoted, server, server_with};

const UNSTABLE: &str = "/_matrix/client/unstable/org.matrix.msc4140";
const STABLE: &str = "/_matrix/client/v1/delayed_events";

/// Leaves a message to be sent later; gives its ID.
async fn later(user: &User, room: &str, transaction: &str, text: &str, delay: u64) -> String {
    let path = format!("/_matrix/client/v3/rooms/{}/delayed_event/m.room.message/{transaction}", quoted(room));
    let body = json!({ "delay_ms": delay, "content": { "msgtype": "m.text", "body": text } });
    user.put(&path, body).await.ok()["delay_id"].as_str().expect("an ID").to_owned()
}

/// Lets time pass, and the server do what is due then.
async fn pass(server: &Server, milliseconds: u64) {
    server.later(Duration::from_millis(milliseconds));
    delayed::send_due(&server.ctx.rooms).await.expect("sent");
}

#[tokio::test]
async fn a_message_is_sent_when_its_time_has_come_and_once() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let second = later(&ann, &room, "b", "second", 5_000).await;
    let first = later(&ann, &room, "a", "first", 3_000).await;
    assert_eq!(later(&ann, &room, "a", "first", 3_000).await, first, "the same transaction");
    let waiting = ann.get(STABLE).await.ok();
    let ids: Vec<_> =
        waiting["delayed_events"].as_array().expect("a list").iter().map(|one| &one["delay_id"]).collect();
    assert_eq!(ids, [&json!(first), &json!(second)]);
    let one = &waiting["delayed_events"][0];
    assert_eq!(
        (&one["delay_ms"], &one["type"], &one["room_id"], &one["content"]["body"], &one["state_key"]),
        (&json!(3_000), &json!("m.room.message"), &json!(room), &json!("first"), &Value::Null)
    );
    pass(&server, 2_999).await;
    assert!(ann.read(&room).await.is_empty());
    // The program is started again, too late for both.
    let (server, mut again) = (server.restart(), ann.clone());
    again.server = server.clone();
    pass(&server, 10_000).await;
    pass(&server, 10_000).await;
    assert_eq!(again.read(&room).await, ["first", "second"]);
    assert_eq!(again.get(STABLE).await.ok(), json!({ "delayed_events": [] }));
    let ended = again.get(&format!("{STABLE}/{first}")).await.ok();
    assert!(ended["finalised_ts"].is_u64() && ended["error"].is_null());
    let event =
        again.room(&room, &format!("event/{}", quoted(ended["event_id"].as_str().expect("an event")))).await.ok();
    assert_eq!(event["unsigned"]["org.matrix.msc4140.delay_id"], first.as_str());
    let bob = server.with_user("bob").await;
    bob.get(&format!("{STABLE}/{first}")).await.is("404 M_NOT_FOUND");
    // A week later nobody remembers.
    pass(&server, 8 * 24 * 3_600_000).await;
    again.get(&format!("{STABLE}/{first}")).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn a_call_is_left_unless_the_client_says_that_it_is_there() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let member = in_room(&room, "state/org.matrix.msc3401.call.member/_ann_PHONE");
    ann.put(&member, json!({ "application": "m.call" })).await.ok();
    let asked = ann.put(&format!("{member}?org.matrix.msc4140.delay=8000"), json!({})).await.ok();
    let id = asked["delay_id"].as_str().expect("an ID");
    assert!(asked["event_id"].is_null());
    let restart = format!("{UNSTABLE}/delayed_events/{id}");
    for way in 0..4 {
        pass(&server, 7_000).await;
        match way {
            0 => ann.post(&restart, json!({ "action": "restart" })).await.ok(),
            // A relay, which has no token.
            1 => server.post(&format!("{restart}/restart"), json!({})).await.ok(),
            2 => ann.post(&format!("{STABLE}/{id}/restart"), json!({})).await.ok(),
            _ => {
                bob.post(&format!("{STABLE}/{id}/cancel"), json!({})).await.is("404 M_NOT_FOUND");
                server.post(&format!("{STABLE}/{id}/cancel"), json!({})).await.is("401 M_MISSING_TOKEN")
            }
        };
    }
    let state = async || ann.state(&room, "org.matrix.msc3401.call.member", "_ann_PHONE").await.ok();
    assert_eq!(state().await, json!({ "application": "m.call" }));
    pass(&server, 1_000).await;
    assert_eq!(state().await, json!({}));
}

#[tokio::test]
async fn what_was_called_off_is_never_sent_and_what_was_sent_early_not_twice() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let (off, now) = (later(&ann, &room, "a", "off", 1_000).await, later(&ann, &room, "b", "now", 1_000).await);
    for _ in 0..2 {
        ann.post(&format!("{STABLE}/{off}/cancel"), json!({})).await.ok();
        ann.post(&format!("{UNSTABLE}/delayed_events/{now}/send"), json!({})).await.ok();
    }
    for (id, action) in [(&off, "send"), (&off, "restart"), (&now, "cancel"), (&now, "restart")] {
        ann.post(&format!("{STABLE}/{id}/{action}"), json!({})).await.is("409 M_UNKNOWN");
    }
    pass(&server, 60_000).await;
    assert_eq!(ann.read(&room).await, ["now"]);
    ann.post(&format!("{STABLE}/nothing/send"), json!({})).await.is("404 M_NOT_FOUND");
    ann.post(&format!("{STABLE}/{off}/forget"), json!({})).await.is("404 M_UNRECOGNIZED");
}

#[tokio::test]
async fn whether_it_may_be_sent_is_decided_when_it_is() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    let path = format!("{UNSTABLE}/rooms/{}/delayed_event/m.room.name/t1", quoted(&room));
    let body = json!({ "delay": 1_000, "state_key": "", "content": { "name": "Bob's" } });
    bob.put(&path, body.clone()).await.is("403 M_FORBIDDEN");
    bob.join(&room).await.ok();
    let id = bob.put(&path, body).await.ok()["delay_id"].clone();
    let id = id.as_str().expect("an ID");
    bob.post(&format!("{STABLE}/{id}/send"), json!({})).await.is("403 M_FORBIDDEN");
    pass(&server, 2_000).await;
    assert_eq!(bob.get(&format!("{STABLE}/{id}")).await.ok()["error"]["errcode"], "M_FORBIDDEN");
    bob.post(&format!("{STABLE}/{id}/cancel"), json!({})).await.ok();
}

#[tokio::test]
async fn delays_and_numbers_are_bounded() {
    let server = server_with(|config| config.rooms.max_event_delay = Duration::from_secs(60)).await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let path = |n: usize| format!("/_matrix/client/v3/rooms/{}/delayed_event/m.room.message/{n}", quoted(&room));
    let old = in_room(&room, "send/m.room.message/x?org.matrix.msc4140.delay=60001");
    let limits = json!({ "max_delay_ms": 60_000, "max_scheduled": 100 });
    assert_eq!(ann.get("/_matrix/client/v3/capabilities").await.ok()["capabilities"]["m.delayed_events"], limits);
    let before = server.trace();
    ann.put(&path(0), json!({ "delay_ms": 60_001, "content": {} })).await.is("403 M_FORBIDDEN");
    let refused = ann.put(&old, json!({})).await.is("400 M_UNKNOWN");
    assert_eq!(refused["org.matrix.msc4140.errcode"], "M_MAX_DELAY_EXCEEDED");
    assert_eq!(refused["org.matrix.msc4140.max_delay"], 60_000);
    ann.put(&path(0), json!({ "delay_ms": 0, "content": {} })).await.is("400 M_INVALID_PARAM");
    ann.put(&path(0), json!({ "content": {} })).await.is("400 M_BAD_JSON");
    ann.put(&path(0), json!({ "delay_ms": 5, "content": 7 })).await.is("400 M_BAD_JSON");
    ann.put(&path(0), json!({ "delay_ms": 5, "content": { "x": "y".repeat(70_000) } })).await.is("413 M_TOO_LARGE");
    assert_eq!(server.trace(), before);
    for n in 0..100 {
        ann.put(&path(n), json!({ "delay_ms": 30_000, "content": {} })).await.ok();
    }
    let full = ann.put(&path(100), json!({ "delay_ms": 30_000, "content": {} })).await;
    assert_eq!(full.header("Retry-After"), "30");
    full.is("429 M_LIMIT_EXCEEDED");
    pass(&server, 30_000).await;
    ann.put(&path(100), json!({ "delay_ms": 30_000, "content": {} })).await.ok();
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let server = server_with(|config| config.rooms.max_event_delay = Duration::ZERO).await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let features = &server.get("/_matrix/client/versions").await.ok()["unstable_features"];
    assert_eq!(features["org.matrix.msc4140"], false);
    let path = in_room(&room, "send/m.room.message/x?org.matrix.msc4140.delay=1");
    ann.put(&path, json!({ "body": "at once" })).await.is("400 M_UNKNOWN");
    assert!(ann.read(&room).await.is_empty());
}
