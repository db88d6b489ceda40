//! Account data and tags.

use ingle::store::schema::numbers;
use ruma::RoomId;
use serde_json::json;

use crate::harness::{User, server};

const ROOM: &str = "!room:localhost";

/// A room of which the server knows the ID; more is not needed here.
async fn know_room(ann: &User) {
    let mut write = ann.server.ctx.store.write();
    numbers::room(&mut write, &RoomId::parse(ROOM).expect("a room ID")).expect("a number");
    write.commit().expect("a commit").published().await.expect("a row");
}

fn global(user: &User, kind: &str) -> String {
    format!("/_matrix/client/v3/user/{}/account_data/{kind}", user.id)
}

fn in_room(user: &User, rest: &str) -> String {
    format!("/_matrix/client/v3/user/{}/rooms/{ROOM}/{rest}", user.id)
}

#[tokio::test]
async fn what_is_kept_comes_back_as_it_was() {
    let ann = server().await.with_user("ann").await;
    know_room(&ann).await;
    for path in [global(&ann, "org.example"), in_room(&ann, "account_data/org.example")] {
        ann.get(&path).await.is("404 M_NOT_FOUND");
        ann.put(&path, json!({ "a": [1.5, null] })).await.ok();
        ann.put(&path, json!({ "b": 2 })).await.ok();
        assert_eq!(ann.get(&path).await.ok(), json!({ "b": 2 }));
    }
}

#[tokio::test]
async fn it_is_nobody_elses_business() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let before = ann.server.trace();
    bob.put(&global(&ann, "org.example"), json!({})).await.is("403 M_FORBIDDEN");
    bob.get(&global(&ann, "org.example")).await.is("403 M_FORBIDDEN");
    bob.get(&in_room(&ann, "tags")).await.is("403 M_FORBIDDEN");
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn what_the_server_keeps_itself_is_not_for_clients() {
    let ann = server().await.with_user("ann").await;
    know_room(&ann).await;
    ann.put(&global(&ann, "m.push_rules"), json!({})).await.is("405 M_BAD_JSON");
    ann.put(&in_room(&ann, "account_data/m.fully_read"), json!({})).await.is("405 M_BAD_JSON");
}

#[tokio::test]
async fn a_room_that_nobody_knows_keeps_nothing() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    ann.put(&in_room(&ann, "account_data/org.example"), json!({})).await.is("404 M_NOT_FOUND");
    ann.put(&in_room(&ann, "tags/u.work"), json!({})).await.is("404 M_NOT_FOUND");
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn too_much_is_refused() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    ann.put(&global(&ann, "org.example"), json!({ "a": "a".repeat(100_000) })).await.is("413 M_TOO_LARGE");
    ann.put(&global(&ann, &"a".repeat(256)), json!({})).await.is("400 M_INVALID_PARAM");
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn a_room_can_be_tagged() {
    let ann = server().await.with_user("ann").await;
    know_room(&ann).await;
    assert_eq!(ann.get(&in_room(&ann, "tags")).await.ok(), json!({ "tags": {} }));
    ann.put(&in_room(&ann, "tags/m.favourite"), json!({ "order": 0.5 })).await.ok();
    ann.put(&in_room(&ann, "tags/u.work"), json!({})).await.ok();
    ann.delete(&in_room(&ann, "tags/u.nothing"), json!({})).await.ok();
    let tags = json!({ "tags": { "m.favourite": { "order": 0.5 }, "u.work": {} } });
    assert_eq!(ann.get(&in_room(&ann, "tags")).await.ok(), tags);
    assert_eq!(ann.get(&in_room(&ann, "account_data/m.tag")).await.ok(), tags);
    ann.delete(&in_room(&ann, "tags/m.favourite"), json!({})).await.ok();
    assert_eq!(ann.get(&in_room(&ann, "tags")).await.ok(), json!({ "tags": { "u.work": {} } }));
}
