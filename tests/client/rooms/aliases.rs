//! Names of rooms.

use serde_json::json;

use crate::harness::{quoted, server};

fn path(alias: &str) -> String {
    format!("/_matrix/client/v3/directory/room/{}", quoted(alias))
}

#[tokio::test]
async fn a_name_is_given_looked_up_and_taken_away() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().with("preset", "public_chat").await;
    let kitchen = path("#kitchen:localhost");
    bob.put(&kitchen, json!({ "room_id": room })).await.is("403 M_FORBIDDEN");
    ann.put(&kitchen, json!({ "room_id": room })).await.ok();
    ann.put(&kitchen, json!({ "room_id": room })).await.is("409 M_UNKNOWN");
    let found = server.get(&kitchen).await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["localhost"] }));
    bob.join("#kitchen:localhost").await.ok();
    let aliases = bob.room(&room, "aliases").await.ok();
    assert_eq!(aliases["aliases"], json!(["#kitchen:localhost"]));
    ann.set(&room, "m.room.canonical_alias", "", json!({ "alias": "#kitchen:localhost" })).await.ok();
    bob.delete(&kitchen, json!({})).await.is("403 M_FORBIDDEN");
    ann.delete(&kitchen, json!({})).await.ok();
    assert_eq!(ann.state(&room, "m.room.canonical_alias", "").await.ok(), json!({}));
    server.get(&kitchen).await.is("404 M_NOT_FOUND");
    ann.delete(&kitchen, json!({})).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn a_bad_name_leaves_no_trace() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let before = server.trace();
    ann.put(&path("#kitchen:elsewhere"), json!({ "room_id": room })).await.is("400 M_INVALID_PARAM");
    ann.put(&path("kitchen"), json!({ "room_id": room })).await.is("400 M_INVALID_PARAM");
    ann.put(&path(&format!("#{}:localhost", "k".repeat(250))), json!({ "room_id": room }))
        .await
        .is("400 M_INVALID_PARAM");
    ann.put(&path("#kitchen:localhost"), json!({ "room_id": "kitchen" })).await.is("400 M_BAD_JSON");
    ann.put(&path("#kitchen:localhost"), json!({})).await.is("400 M_BAD_JSON");
    bob.room(&room, "aliases").await.is("403 M_FORBIDDEN");
    server.get(&path("kitchen")).await.is("400 M_INVALID_PARAM");
    assert_eq!(server.trace(), before);
}
