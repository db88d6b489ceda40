//! Relations: edits, reactions, references and threads.

use serde_json::{Value, json};

use crate::harness::{User, bodies, quoted, server};

async fn relate(user: &User, room: &str, parent: &str, rel_type: &str, body: &str) -> String {
    let relation = json!({ "rel_type": rel_type, "event_id": parent });
    let content = json!({
        "msgtype": "m.text", "body": body, "m.relates_to": relation, "m.new_content": { "body": body },
    });
    user.send(room, "m.room.message", content).await
}

async fn relations(user: &User, room: &str, rest: &str) -> Value {
    user.get(&format!("/_matrix/client/v1/rooms/{}/relations/{rest}", quoted(room))).await.ok()
}

#[tokio::test]
async fn what_relates_to_an_event_is_listed_by_type_and_page() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().await;
    let root = ann.say(&room, "root").await;
    for n in 0..5 {
        relate(&ann, &room, &root, "m.thread", &n.to_string()).await;
    }
    let reference = relate(&ann, &room, &root, "m.reference", "see").await;
    relate(&ann, &room, &reference, "m.reference", "deep").await;
    assert_eq!(bodies(&relations(&ann, &room, &root).await["chunk"]), ["see", "4", "3", "2", "1", "0"]);
    assert_eq!(bodies(&relations(&ann, &room, &format!("{root}/m.reference")).await["chunk"]), ["see"]);
    let none = relations(&ann, &room, &format!("{root}/m.thread/m.sticker")).await;
    assert_eq!(none["chunk"], json!([]));
    let first = relations(&ann, &room, &format!("{root}/m.thread/m.room.message?dir=f&limit=3")).await;
    assert_eq!(bodies(&first["chunk"]), ["0", "1", "2"]);
    let rest = format!("{root}/m.thread?dir=f&from={}", first["next_batch"].as_str().unwrap());
    let second = relations(&ann, &room, &rest).await;
    assert_eq!(bodies(&second["chunk"]), ["3", "4"]);
    assert!(second["next_batch"].is_null());
    let deep = relations(&ann, &room, &format!("{root}?recurse=true&limit=2")).await;
    assert_eq!(bodies(&deep["chunk"]), ["deep", "see"]);
    assert_eq!(deep["recursion_depth"], 3);
}

#[tokio::test]
async fn an_event_comes_with_its_newest_edit_its_references_and_its_thread() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let root = ann.say(&room, "rot").await;
    relate(&ann, &room, &root, "m.replace", "root").await;
    let edit = relate(&ann, &room, &root, "m.replace", "root!").await;
    relate(&bob, &room, &root, "m.replace", "not his").await;
    let reference = relate(&bob, &room, &root, "m.reference", "see").await;
    let reply = relate(&bob, &room, &root, "m.thread", "replly").await;
    relate(&bob, &room, &reply, "m.replace", "reply").await;
    let bundle = async |user: &User| {
        let event = user.room(&room, &format!("event/{root}")).await.ok();
        assert_eq!(event["content"]["body"], "rot", "the content is left as it was");
        event["unsigned"]["m.relations"].clone()
    };
    let seen = bundle(&bob).await;
    // Two edits of one moment: the greater ID wins.
    assert_eq!(seen["m.replace"]["type"], "m.room.message");
    assert_eq!(seen["m.replace"]["sender"], ann.id.as_str());
    assert_eq!(seen["m.reference"]["chunk"], json!([{ "event_id": reference }]));
    let thread = &seen["m.thread"];
    assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(1), &json!(true)));
    assert_eq!(thread["latest_event"]["event_id"], reply);
    assert_eq!(thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["content"]["body"], "reply");
    ann.put(&crate::harness::in_room(&room, &format!("redact/{edit}/1")), json!({})).await.ok();
    assert_eq!(bundle(&ann).await["m.replace"]["content"]["body"], "root");
    bob.put(&crate::harness::in_room(&room, &format!("redact/{reply}/1")), json!({})).await.ok();
    assert!(bundle(&ann).await["m.thread"].is_null());
}

#[tokio::test]
async fn threads_are_listed_by_their_newest_reply() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let one = ann.say(&room, "one").await;
    let two = bob.say(&room, "two").await;
    relate(&ann, &room, &one, "m.thread", "to one").await;
    relate(&ann, &room, &two, "m.thread", "to two").await;
    let threads = async |user: &User, query: &str| {
        let path = format!("/_matrix/client/v1/rooms/{}/threads{query}", quoted(&room));
        user.get(&path).await.ok()
    };
    assert_eq!(bodies(&threads(&ann, "").await["chunk"]), ["two", "one"]);
    relate(&bob, &room, &one, "m.thread", "again").await;
    let first = threads(&ann, "?limit=1").await;
    assert_eq!(bodies(&first["chunk"]), ["one"]);
    let next = format!("?limit=1&from={}", first["next_batch"].as_str().unwrap());
    assert_eq!(bodies(&threads(&ann, &next).await["chunk"]), ["two"]);
    let third = ann.say(&room, "three").await;
    relate(&ann, &room, &third, "m.thread", "alone").await;
    assert_eq!(bodies(&threads(&bob, "?include=participated").await["chunk"]), ["one", "two"]);
}

#[tokio::test]
async fn a_new_name_is_shown_in_every_room() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let one = ann.create_room().invite(&bob).await;
    let two = ann.create_room().await;
    let name = |name: &str| json!({ "displayname": name });
    let path = format!("/_matrix/client/v3/profile/{}/displayname", ann.id);
    ann.put(&path, name("Ann of the garden")).await.ok();
    for room in [&one, &two] {
        let member = ann.state(room, "m.room.member", ann.id.as_str()).await.ok();
        assert_eq!(member, json!({ "membership": "join", "displayname": "Ann of the garden" }));
    }
    assert_eq!(ann.state(&one, "m.room.member", bob.id.as_str()).await.ok()["membership"], "invite");
}
