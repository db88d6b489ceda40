//! Receipts, read markers and typing.

use serde_json::json;

use crate::harness::{in_room, server};

#[tokio::test]
async fn a_receipt_is_for_an_event_of_the_room_and_its_thread() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let root = ann.say(&room, "root").await;
    let relation = json!({ "rel_type": "m.thread", "event_id": root });
    let reply = ann.send(&room, "m.room.message", json!({ "body": "reply", "m.relates_to": relation })).await;
    let before = server.trace();
    let mark =
        async |kind: &str, event: &str, body| ann.post(&in_room(&room, &format!("receipt/{kind}/{event}")), body).await;
    mark("m.read", "$nothing", json!({})).await.is("404 M_NOT_FOUND");
    mark("m.unheard", &root, json!({})).await.is("400 M_INVALID_PARAM");
    mark("m.read", &root, json!({ "thread_id": "" })).await.is("400 M_INVALID_PARAM");
    mark("m.read", &root, json!({ "thread_id": 7 })).await.is("400 M_INVALID_PARAM");
    mark("m.read", &reply, json!({ "thread_id": "main" })).await.is("400 M_INVALID_PARAM");
    mark("m.fully_read", &root, json!({ "thread_id": "main" })).await.is("400 M_INVALID_PARAM");
    bob.post(&in_room(&room, &format!("receipt/m.read/{root}")), json!({})).await.is("403 M_FORBIDDEN");
    assert_eq!(server.trace(), before);
    mark("m.read", &root, json!({ "thread_id": "main" })).await.ok();
    mark("m.read", &reply, json!({ "thread_id": root })).await.ok();
    mark("m.read.private", &reply, json!({})).await.ok();
    mark("m.fully_read", &reply, json!({})).await.ok();
    let before = server.trace();
    mark("m.read", &reply, json!({ "thread_id": root })).await.ok();
    assert_eq!(server.trace(), before, "the same again is no news");
}

#[tokio::test]
async fn markers_move_together() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().await;
    let event = ann.say(&room, "hello").await;
    let path = in_room(&room, "read_markers");
    ann.post(&path, json!({ "m.fully_read": event, "m.read": event, "m.read.private": event })).await.ok();
    ann.post(&path, json!({ "m.fully_read": "$nothing" })).await.is("404 M_NOT_FOUND");
    ann.post(&path, json!({})).await.ok();
}

#[tokio::test]
async fn everybody_types_as_themselves() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let path = in_room(&room, &format!("typing/{}", ann.id));
    let before = server.trace();
    ann.put(&path, json!({ "typing": true, "timeout": 5000 })).await.ok();
    ann.put(&path, json!({ "typing": false })).await.ok();
    ann.put(&path, json!({ "typing": "yes" })).await.is("400 M_BAD_JSON");
    bob.put(&path, json!({ "typing": true, "timeout": 5000 })).await.is("403 M_FORBIDDEN");
    let own = in_room(&room, &format!("typing/{}", bob.id));
    bob.put(&own, json!({ "typing": true, "timeout": 5000 })).await.is("403 M_FORBIDDEN");
    assert_eq!(server.trace(), before, "nobody remembers typing");
}
