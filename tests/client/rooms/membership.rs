//! Who comes and who goes.

use serde_json::json;

use crate::harness::{in_room, quoted, server};

#[tokio::test]
async fn a_private_room_needs_an_invitation() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let before = server.trace();
    bob.join(&room).await.is("403 M_FORBIDDEN");
    bob.leave(&room).await.ok();
    bob.invite(&room, &ann).await.is("403 M_FORBIDDEN");
    assert_eq!(server.trace(), before);
    ann.invite(&room, &bob).await.ok();
    let answer = bob.post(&in_room(&room, "join"), json!({ "reason": "hungry" })).await.ok();
    assert_eq!(answer["room_id"], room);
    assert_eq!(bob.get("/_matrix/client/v3/joined_rooms").await.ok()["joined_rooms"], json!([room]));
    let member = ann.state(&room, "m.room.member", bob.id.as_str()).await.ok();
    assert_eq!(member["reason"], "hungry");
    let before = server.trace();
    bob.join(&room).await.ok();
    assert_eq!(server.trace(), before, "joining twice changes nothing");
    ann.invite(&room, &bob).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn a_room_nobody_knows_cannot_be_entered() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let before = server.trace();
    ann.join("!nowhere:localhost").await.is("404 M_NOT_FOUND");
    ann.join("#nowhere:localhost").await.is("404 M_NOT_FOUND");
    ann.join("nowhere").await.is("400 M_INVALID_PARAM");
    ann.leave("!nowhere:localhost").await.is("404 M_NOT_FOUND");
    ann.post("/_matrix/client/v3/knock/!nowhere:localhost", json!({})).await.is("404 M_NOT_FOUND");
    ann.post(&in_room("!nowhere:localhost", "invite"), json!({ "user_id": "@bob:localhost" }))
        .await
        .is("403 M_FORBIDDEN");
    ann.post(&in_room("!nowhere:localhost", "forget"), json!({})).await.is("404 M_NOT_FOUND");
    assert_eq!(server.trace(), before);
}

#[tokio::test]
async fn power_decides_who_removes_whom() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let cat = server.with_user("cat").await;
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join(&room).await.ok();
    cat.join(&room).await.ok();
    bob.kick(&room, &cat).await.is("403 M_FORBIDDEN");
    bob.ban(&room, &ann).await.is("403 M_FORBIDDEN");
    ann.kick(&room, &cat).await.ok();
    cat.join(&room).await.ok();
    ann.ban(&room, &cat).await.ok();
    cat.join(&room).await.is("403 M_FORBIDDEN");
    ann.kick(&room, &cat).await.is("403 M_FORBIDDEN");
    ann.invite(&room, &cat).await.is("403 M_FORBIDDEN");
    ann.post(&in_room(&room, "unban"), json!({ "user_id": cat.id })).await.ok();
    ann.post(&in_room(&room, "unban"), json!({ "user_id": cat.id })).await.is("403 M_BAD_STATE");
    cat.join(&room).await.ok();
}

#[tokio::test]
async fn who_knocks_is_let_in_by_an_invitation() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "knock" } }]);
    let room = ann.create_room().with("initial_state", rules).await;
    bob.join(&room).await.is("403 M_FORBIDDEN");
    bob.post(&format!("/_matrix/client/v3/knock/{}", quoted(&room)), json!({ "reason": "it is me" })).await.ok();
    assert_eq!(ann.state(&room, "m.room.member", bob.id.as_str()).await.ok()["membership"], "knock");
    bob.join(&room).await.is("403 M_FORBIDDEN");
    ann.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    bob.post(&format!("/_matrix/client/v3/knock/{}", quoted(&room)), json!({})).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn members_of_a_space_may_enter_its_rooms() {
    for version in ["8", "10", "12"] {
        let server = server().await;
        let (ann, bob) = server.with_users("ann", "bob").await;
        let space = ann.create_room().with("preset", "public_chat").await;
        let allow = json!([{ "type": "m.room_membership", "room_id": space }]);
        let rules = json!([{ "type": "m.room.join_rules", "content": { "join_rule": "restricted", "allow": allow } }]);
        let room = ann.create_room().with("initial_state", rules).with("room_version", version).await;
        bob.join(&room).await.is("403 M_FORBIDDEN");
        bob.join(&space).await.ok();
        bob.join(&room).await.ok();
        let member = ann.state(&room, "m.room.member", bob.id.as_str()).await.ok();
        assert_eq!(member["join_authorised_via_users_server"], ann.id.as_str());
    }
}

#[tokio::test]
async fn a_room_is_forgotten_only_after_it_was_left() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    let forget = in_room(&room, "forget");
    bob.post(&forget, json!({})).await.is("400 M_UNKNOWN");
    bob.join(&room).await.ok();
    ann.say(&room, "hello").await;
    bob.post(&forget, json!({})).await.is("400 M_UNKNOWN");
    bob.leave(&room).await.ok();
    assert_eq!(bob.read(&room).await, ["hello"]);
    bob.post(&forget, json!({})).await.ok();
    bob.room(&room, "messages?dir=b").await.is("403 M_FORBIDDEN");
    bob.room(&room, "state").await.is("403 M_FORBIDDEN");
    ann.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    assert_eq!(bob.read(&room).await, ["hello"]);
}

#[tokio::test]
async fn the_members_of_a_room_are_told_apart_by_membership_and_time() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let cat = server.with_user("cat").await;
    let room = ann.create_room().invite(&bob).invite(&cat).await;
    let early = ann.room(&room, "messages?dir=b&limit=1").await.ok()["start"].as_str().unwrap_or_default().to_owned();
    bob.join(&room).await.ok();
    let names = async |query: &str| {
        let answer = ann.room(&room, &format!("members{query}")).await.ok();
        let mut names: Vec<_> = answer["chunk"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["state_key"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names.join(" ").replace(":localhost", "")
    };
    assert_eq!(names("").await, "@ann @bob @cat");
    assert_eq!(names("?membership=join").await, "@ann @bob");
    assert_eq!(names("?not_membership=join").await, "@cat");
    assert_eq!(names(&format!("?membership=join&at={early}")).await, "@ann");
    ann.room(&room, "members?at=nonsense").await.is("400 M_INVALID_PARAM");
    cat.room(&room, "members").await.is("403 M_FORBIDDEN");
    cat.room(&room, "joined_members").await.is("403 M_FORBIDDEN");
    let joined = bob.room(&room, "joined_members").await.ok();
    assert_eq!(joined["joined"].as_object().map(|joined| joined.len()), Some(2));
}
