//! The state of a room.

use serde_json::json;

use crate::harness::{in_room, quoted, server};

#[tokio::test]
async fn an_empty_state_key_may_be_left_out() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().await;
    for (n, path) in ["state/m.room.name", "state/m.room.name/"].into_iter().enumerate() {
        let id = ann.put(&in_room(&room, path), json!({ "name": n.to_string() })).await.ok();
        for path in ["state/m.room.name", "state/m.room.name/"] {
            assert_eq!(ann.room(&room, path).await.ok(), json!({ "name": n.to_string() }));
            let event = ann.room(&room, &format!("{path}?format=event")).await.ok();
            assert_eq!((&event["event_id"], &event["state_key"]), (&id["event_id"], &json!("")));
            assert_eq!(event["room_id"], room);
        }
    }
    ann.set(&room, "org.example", "a/b ü", json!({ "x": 1 })).await.ok();
    assert_eq!(ann.state(&room, "org.example", "a/b ü").await.ok(), json!({ "x": 1 }));
    ann.state(&room, "org.example", "").await.is("404 M_NOT_FOUND");
    let r0 = format!("/_matrix/client/r0/rooms/{}/state/m.room.name", quoted(&room));
    ann.get(&r0).await.ok();
}

#[tokio::test]
async fn who_has_left_sees_the_state_as_it_was() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let cat = server.with_user("cat").await;
    let room = ann.create_room().invite(&bob).with("name", "before").await;
    bob.state(&room, "m.room.name", "").await.is("403 M_FORBIDDEN");
    bob.join(&room).await.ok();
    bob.leave(&room).await.ok();
    ann.set(&room, "m.room.name", "", json!({ "name": "after" })).await.ok();
    assert_eq!(bob.state(&room, "m.room.name", "").await.ok()["name"], "before");
    assert_eq!(ann.state(&room, "m.room.name", "").await.ok()["name"], "after");
    ann.ban(&room, &bob).await.ok();
    assert_eq!(bob.state(&room, "m.room.name", "").await.ok()["name"], "before");
    let state = bob.room(&room, "state").await.ok();
    let names: Vec<_> = state.as_array().unwrap().iter().filter(|event| event["type"] == "m.room.name").collect();
    assert_eq!(names[0]["content"]["name"], "before");
    let members = bob.room(&room, "members?membership=join").await.ok();
    assert_eq!(members["chunk"].as_array().map(Vec::len), Some(1));
    cat.room(&room, "state").await.is("403 M_FORBIDDEN");
    let open = json!({ "history_visibility": "world_readable" });
    ann.set(&room, "m.room.history_visibility", "", open).await.ok();
    assert_eq!(cat.state(&room, "m.room.name", "").await.ok()["name"], "after");
}

#[tokio::test]
async fn who_may_not_change_the_state_does_not() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    let before = server.trace();
    bob.set(&room, "m.room.name", "", json!({ "name": "mine" })).await.is("403 M_FORBIDDEN");
    ann.set(&room, "org.example", "@bob:localhost", json!({})).await.is("403 M_FORBIDDEN");
    ann.set(&room, "m.room.power_levels", "", json!({ "ban": "fifty" })).await.is("403 M_FORBIDDEN");
    ann.set(&room, "m.room.create", "", json!({})).await.is("403 M_FORBIDDEN");
    ann.set(&room, "org.example", &"k".repeat(256), json!({})).await.is("413 M_TOO_LARGE");
    ann.set(&room, "m.room.member", "nobody", json!({ "membership": "join" })).await.is("403 M_FORBIDDEN");
    assert_eq!(server.trace(), before);
    // Declining by the state endpoint is as good as by its own.
    bob.set(&room, "m.room.member", bob.id.as_str(), json!({ "membership": "leave" })).await.ok();
}

#[tokio::test]
async fn a_canonical_alias_must_be_the_rooms() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().with("room_alias_name", "kitchen").await;
    ann.create_room().with("room_alias_name", "cellar").await;
    let before = server.trace();
    let set = async |content| ann.set(&room, "m.room.canonical_alias", "", content).await;
    set(json!({ "alias": "#cellar:localhost" })).await.is("400 M_BAD_ALIAS");
    set(json!({ "alias": "#nothing:localhost" })).await.is("400 M_BAD_ALIAS");
    set(json!({ "alias": "kitchen" })).await.is("400 M_INVALID_PARAM");
    set(json!({ "alt_aliases": ["#kitchen:localhost", "#cellar:localhost"] })).await.is("400 M_BAD_ALIAS");
    set(json!({ "alt_aliases": "#kitchen:localhost" })).await.is("400 M_INVALID_PARAM");
    assert_eq!(server.trace(), before);
    set(json!({ "alt_aliases": ["#kitchen:localhost"] })).await.ok();
    // What was there before is not looked at again.
    ann.delete("/_matrix/client/v3/directory/room/%23kitchen:localhost", json!({})).await.ok();
    assert_eq!(ann.state(&room, "m.room.canonical_alias", "").await.ok(), json!({ "alt_aliases": [] }));
    set(json!({})).await.ok();
}
