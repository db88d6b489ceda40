//! Sending and taking back.

use serde_json::json;

use crate::harness::{in_room, server};

#[tokio::test]
async fn a_repeated_transaction_is_the_same_event() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let path = in_room(&room, "send/m.room.message/same");
    let first = ann.put(&path, json!({ "msgtype": "m.text", "body": "one" })).await.ok();
    let again = ann.put(&path, json!({ "msgtype": "m.text", "body": "one" })).await.ok();
    assert_eq!(first["event_id"], again["event_id"]);
    // Another type, another room and another device are other transactions.
    let other = ann.put(&in_room(&room, "send/org.example/same"), json!({})).await.ok();
    assert_ne!(first["event_id"], other["event_id"]);
    let second = ann.create_room().await;
    ann.put(&in_room(&second, "send/m.room.message/same"), json!({ "body": "two" })).await.ok();
    assert_eq!(ann.read(&room).await, ["one"]);
    assert_eq!(ann.read(&second).await, ["two"]);
    let restarted = server.restart();
    let ann = crate::harness::User { server: restarted, ..ann };
    let again = ann.put(&path, json!({ "msgtype": "m.text", "body": "one" })).await.ok();
    assert_eq!(first["event_id"], again["event_id"]);
    let event = ann.room(&room, &format!("event/{}", first["event_id"].as_str().unwrap())).await.ok();
    assert_eq!(event["unsigned"]["transaction_id"], "same");
}

#[tokio::test]
async fn what_cannot_be_sent_leaves_no_trace() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().with("power_level_content_override", json!({ "events": { "org.high": 101 } })).await;
    let room11 = ann.create_room().with("room_version", "11").with("initial_state", json!([
        { "type": "m.room.power_levels", "content": { "users": { ann.id.as_str(): 50 }, "events": { "org.high": 100 } } },
    ])).await;
    let before = server.trace();
    let send = |rest: &str| in_room(&room, &format!("send/{rest}"));
    bob.put(&send("m.room.message/1"), json!({ "body": "x" })).await.is("403 M_FORBIDDEN");
    ann.put(&in_room(&room11, "send/org.high/1"), json!({})).await.is("403 M_FORBIDDEN");
    ann.put(&in_room("!nowhere:localhost", "send/m.room.message/1"), json!({})).await.is("403 M_FORBIDDEN");
    ann.put(&in_room("nowhere", "send/m.room.message/1"), json!({})).await.is("400 M_INVALID_PARAM");
    ann.put(&send("m.room.message/1"), json!({ "body": "x".repeat(66_000) })).await.is("413 M_TOO_LARGE");
    ann.put(&send(&format!("{}/1", "t".repeat(256))), json!({})).await.is("413 M_TOO_LARGE");
    ann.put(&send("m.room.message/1"), json!({ "number": 1.5 })).await.is("400 M_BAD_JSON");
    ann.put(&send("m.room.message/1"), json!({ "number": 1u64 << 60 })).await.is("400 M_BAD_JSON");
    ann.put(&send("m.room.message/1"), json!(["list"])).await.is("400 M_BAD_JSON");
    ann.ask(http::Method::PUT, &send("m.room.message/1"), "{").await.is("400 M_NOT_JSON");
    ann.put(&send(&format!("m.room.message/{}", "t".repeat(300))), json!({})).await.is("400 M_INVALID_PARAM");
    ann.put(&send("m.room.create/1"), json!({})).await.is("403 M_FORBIDDEN");
    ann.put(&send("m.room.redaction/1"), json!({})).await.is("400 M_BAD_JSON");
    assert_eq!(server.trace(), before);
}

#[tokio::test]
async fn a_redaction_may_come_by_either_endpoint_in_every_room() {
    for version in ["10", "11", "12"] {
        let (ann, bob) = server().await.with_users("ann", "bob").await;
        let room = ann.create_room().invite(&bob).with("room_version", version).await;
        bob.join(&room).await.ok();
        let one = ann.say(&room, "one").await;
        let two = ann.say(&room, "two").await;
        let redaction = ann.put(&in_room(&room, &format!("redact/{one}/t1")), json!({ "reason": "oops" })).await.ok();
        let again = ann.put(&in_room(&room, &format!("redact/{one}/t1")), json!({ "reason": "oops" })).await.ok();
        assert_eq!(redaction, again);
        ann.send(&room, "m.room.redaction", json!({ "redacts": two })).await;
        assert!(bob.read(&room).await.is_empty());
        let gone = bob.room(&room, &format!("event/{one}")).await.ok();
        assert_eq!(gone["content"], json!({}));
        let because = &gone["unsigned"]["redacted_because"];
        assert_eq!(because["event_id"], redaction["event_id"]);
        assert_eq!((&because["redacts"], &because["content"]["redacts"]), (&json!(one), &json!(one)));
        assert_eq!(because["content"]["reason"], "oops");
    }
}

#[tokio::test]
async fn only_the_powerful_take_back_what_others_have_said() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let hers = ann.say(&room, "hers").await;
    let his = bob.say(&room, "his").await;
    bob.put(&in_room(&room, &format!("redact/{hers}/1")), json!({})).await.is("403 M_FORBIDDEN");
    bob.put(&in_room(&room, "redact/$nothing/1"), json!({})).await.is("404 M_NOT_FOUND");
    ann.put(&in_room(&room, &format!("redact/{his}/1")), json!({})).await.ok();
    assert_eq!(ann.read(&room).await, ["hers"]);
}

#[tokio::test]
async fn the_same_reaction_counts_once() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let event = ann.say(&room, "hello").await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event, "key": "👍" } });
    let first = ann.send(&room, "m.reaction", reaction.clone()).await;
    let path = in_room(&room, "send/m.reaction/again");
    ann.put(&path, reaction.clone()).await.is("400 M_DUPLICATE_ANNOTATION");
    let other = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": event, "key": "👎" } });
    ann.send(&room, "m.reaction", other).await;
    ann.put(&in_room(&room, &format!("redact/{first}/1")), json!({})).await.ok();
    ann.put(&path, reaction).await.ok();
}
