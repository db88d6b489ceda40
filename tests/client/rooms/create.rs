//! Making rooms.

use serde_json::json;

use crate::harness::{server, server_with};

const CREATE: &str = "/_matrix/client/v3/createRoom";

#[tokio::test]
async fn a_room_begins_as_its_creator_wishes() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann
        .create_room()
        .invite(&bob)
        .with("name", "Kitchen")
        .with("topic", "What to cook")
        .with("initial_state", json!([{ "type": "m.room.guest_access", "content": { "guest_access": "forbidden" } }]))
        .with("power_level_content_override", json!({ "invite": 75 }))
        .await;
    assert_eq!(ann.state(&room, "m.room.name", "").await.ok()["name"], "Kitchen");
    assert_eq!(ann.state(&room, "m.room.topic", "").await.ok()["topic"], "What to cook");
    assert_eq!(ann.state(&room, "m.room.guest_access", "").await.ok()["guest_access"], "forbidden");
    assert_eq!(ann.state(&room, "m.room.power_levels", "").await.ok()["invite"], 75);
    bob.join(&room).await.ok();
    bob.say(&room, "soup").await;
    assert_eq!(ann.read(&room).await, ["soup"]);
}

#[tokio::test]
async fn what_cannot_be_a_room_leaves_no_trace() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    ann.post(CREATE, json!({ "room_alias_name": "kitchen" })).await.ok();
    let before = server.trace();
    ann.post(CREATE, json!({ "room_version": "99" })).await.is("400 M_UNSUPPORTED_ROOM_VERSION");
    ann.post(CREATE, json!({ "room_alias_name": "kitchen" })).await.is("400 M_ROOM_IN_USE");
    ann.post(CREATE, json!({ "room_alias_name": "a:b#c" })).await.is("400 M_INVALID_PARAM");
    ann.post(CREATE, json!({ "invite": ["not a user"] })).await.is("400 M_BAD_JSON");
    ann.post(CREATE, json!({ "name": 7 })).await.is("400 M_BAD_JSON");
    ann.post(CREATE, json!({ "creation_content": { "x": 1.5 } })).await.is("400 M_BAD_JSON");
    ann.post(CREATE, json!({ "initial_state": [{ "type": "m.room.name" }] })).await.is("400 M_BAD_JSON");
    let huge = "x".repeat(70_000);
    ann.post(CREATE, json!({ "topic": huge })).await.is("413 M_TOO_LARGE");
    let levels = json!({ "power_level_content_override": { "users": { ann.id.as_str(): 100 } }, "room_version": "12" });
    ann.post(CREATE, levels).await.is("400 M_INVALID_ROOM_STATE");
    server.post(CREATE, json!({})).await.is("401 M_MISSING_TOKEN");
    assert_eq!(server.trace(), before);
}

#[tokio::test]
async fn new_rooms_are_encrypted_where_the_configuration_says_so() {
    use ingle::config::EncryptByDefault::{All, Invite, Off};
    for (which, expected) in [(All, [true, true, true]), (Invite, [false, true, true]), (Off, [false, false, false])] {
        let server = server_with(|config| config.rooms.encryption_enabled_by_default = which).await;
        let ann = server.with_user("ann").await;
        for (preset, encrypted) in ["public_chat", "private_chat", "trusted_private_chat"].into_iter().zip(expected) {
            let room = ann.create_room().with("preset", preset).await;
            let state = ann.state(&room, "m.room.encryption", "").await;
            match encrypted {
                true => assert_eq!(state.ok()["algorithm"], "m.megolm.v1.aes-sha2", "{which:?} {preset}"),
                false => drop(state.is("404 M_NOT_FOUND")),
            }
        }
        // What the client says counts.
        let own = json!([{ "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.other" } }]);
        let room = ann.create_room().with("initial_state", own).await;
        assert_eq!(ann.state(&room, "m.room.encryption", "").await.ok()["algorithm"], "m.other");
    }
}

#[tokio::test]
async fn only_admins_list_rooms_where_the_configuration_says_so() {
    let server = server_with(|config| config.rooms.publish = ingle::config::Publish::Admins).await;
    let ann = server.with_user("ann").await;
    ann.post(CREATE, json!({ "visibility": "public" })).await.is("403 M_FORBIDDEN");
    ann.post(CREATE, json!({ "visibility": "private", "preset": "public_chat" })).await.ok();
}

#[tokio::test]
async fn an_invitation_that_is_not_wanted_is_refused() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let block = json!({ "default_action": "block" }).to_string();
    let users = &server.ctx.users;
    let number = users.identify(&bob.token).expect("a token").number;
    ingle::users::account_data::set(users, number, None, "m.invite_permission_config", block).await.expect("saved");
    let before = server.trace();
    ann.invite(&room, &bob).await.is("403 M_INVITE_BLOCKED");
    ann.post(CREATE, json!({ "invite": [bob.id] })).await.is("403 M_INVITE_BLOCKED");
    ann.set(&room, "m.room.member", bob.id.as_str(), json!({ "membership": "invite" }))
        .await
        .is("403 M_INVITE_BLOCKED");
    // The number of a room that was begun and given up is all that may remain.
    let _ = before;
}
