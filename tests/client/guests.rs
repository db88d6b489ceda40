//! Guests: what they may do, where they may go, and how they become full users.

use serde_json::{Value, json};

use crate::harness::{Server, User, in_room, quoted, server_with};

async fn house() -> (Server, User, User) {
    let server = server_with(|config| config.registration.guests = true).await;
    let (ann, guest) = (server.with_user("ann").await, server.with_guest().await);
    (server, ann, guest)
}

fn open(guests: &str) -> Value {
    json!([
        { "type": "m.room.guest_access", "content": { "guest_access": guests } },
        { "type": "m.room.join_rules", "content": { "join_rule": "public" } },
    ])
}

#[tokio::test]
async fn a_guest_joins_where_guests_are_welcome_and_talks() {
    let (_, ann, guest) = house().await;
    let room = ann.create_room().with("initial_state", open("can_join")).await;
    assert_eq!(guest.get("/_matrix/client/v3/account/whoami").await.ok()["is_guest"], true);
    guest.post(&in_room(&room, "join"), json!({})).await.ok();
    guest.say(&room, "hello").await;
    // Any type, since version 1.2 of the specification.
    guest.send(&room, "org.example.wave", json!({})).await;
    assert_eq!(ann.read(&room).await, ["hello"]);
    guest.set(&room, "m.room.topic", "", json!({ "topic": "mine" })).await.is("403 M_FORBIDDEN");
    guest.leave(&room).await.ok();
}

#[tokio::test]
async fn a_guest_does_not_join_where_guests_are_not_welcome() {
    let (_, ann, guest) = house().await;
    for state in [open("forbidden"), open("perhaps")] {
        let room = ann.create_room().with("initial_state", state).await;
        guest.join(&room).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
        guest.post(&in_room(&room, "join"), json!({})).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
        let member = json!({ "membership": "join" });
        guest.set(&room, "m.room.member", guest.id.as_str(), member).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
    }
}

#[tokio::test]
async fn guests_go_when_the_room_no_longer_welcomes_them() {
    let (server, ann, guest) = house().await;
    let bob = server.with_user("bob").await;
    let room = ann.create_room().with("initial_state", open("can_join")).await;
    bob.join(&room).await.ok();
    guest.join(&room).await.ok();
    ann.set(&room, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await.ok();
    let members = ann.room(&room, "joined_members").await.ok();
    let mut joined: Vec<&String> = members["joined"].as_object().expect("members").keys().collect();
    joined.sort();
    assert_eq!(joined, ["@ann:localhost", "@bob:localhost"]);
    let gone = ann.state(&room, "m.room.member", guest.id.as_str()).await.ok();
    assert_eq!(gone["membership"], "leave");
    guest.join(&room).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
    ann.set(&room, "m.room.guest_access", "", json!({ "guest_access": "can_join" })).await.ok();
    guest.join(&room).await.ok();
}

#[tokio::test]
async fn what_is_for_accounts_is_not_for_guests() {
    let (_, ann, guest) = house().await;
    let room = ann.create_room().with("initial_state", open("can_join")).await;
    guest.join(&room).await.ok();
    let event = ann.say(&room, "hello").await;
    let forbidden = "403 M_GUEST_ACCESS_FORBIDDEN";
    guest.post("/_matrix/client/v3/createRoom", json!({})).await.is(forbidden);
    guest.invite(&room, &ann).await.is(forbidden);
    guest.kick(&room, &ann).await.is(forbidden);
    guest.put(&in_room(&room, &format!("redact/{}/1", quoted(&event))), json!({})).await.is(forbidden);
    guest.put(&in_room(&room, &format!("typing/{}", guest.id)), json!({ "typing": true })).await.is(forbidden);
    let data = format!("/_matrix/client/v3/user/{}/account_data/org.example", guest.id);
    guest.put(&data, json!({})).await.is(forbidden);
    guest.post("/_matrix/client/v3/account/deactivate", json!({})).await.is(forbidden);
    guest.post("/_matrix/client/v3/user_directory/search", json!({ "search_term": "a" })).await.is(forbidden);
    let profile = format!("/_matrix/client/v3/profile/{}", guest.id);
    guest.put(&format!("{profile}/displayname"), json!({ "displayname": "Visitor" })).await.ok();
    guest.put(&format!("{profile}/m.tz"), json!({ "m.tz": "Europe/Berlin" })).await.is(forbidden);
    guest.get("/_matrix/client/v3/devices").await.ok();
    guest.get("/_matrix/client/v3/sync").await.ok();
}

#[tokio::test]
async fn a_guest_becomes_a_full_user_and_stays_in_the_room() {
    let (server, ann, guest) = house().await;
    let room = ann.create_room().with("initial_state", open("can_join")).await;
    guest.join(&room).await.ok();
    let body = |name: &str| {
        json!({
            "username": name, "password": "secret", "guest_access_token": guest.token,
            "auth": { "type": "m.login.dummy" },
        })
    };
    let register = "/_matrix/client/v3/register";
    server.post(register, body("another")).await.is("403 M_FORBIDDEN");
    let made = server.post(register, body(guest.id.localpart())).await.ok();
    assert_eq!(made["user_id"], guest.id.as_str());
    let user = User { token: made["access_token"].as_str().expect("a token").to_owned(), ..guest.clone() };
    assert_eq!(user.get("/_matrix/client/v3/account/whoami").await.ok().get("is_guest"), None);
    user.post("/_matrix/client/v3/createRoom", json!({})).await.ok();
    ann.set(&room, "m.room.guest_access", "", json!({ "guest_access": "forbidden" })).await.ok();
    user.say(&room, "I live here now").await;
    server.post(register, body(guest.id.localpart())).await.is("403 M_FORBIDDEN");
}
