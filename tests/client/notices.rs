//! What the server itself tells its people.

use ingle::admin::notices;
use serde_json::{Value, json};

use crate::harness::{Server, in_room, quoted, server, server_with};

async fn tell(server: &Server, names: &[&str], everyone: bool, text: &str) -> Result<usize, String> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let told = notices::send(&server.ctx.rooms, &names, everyone, text).await;
    told.map(|told| told.len()).map_err(|error| error.errcode.into_owned())
}

/// The one room to which somebody is invited.
fn invited(sync: &Value) -> String {
    let rooms = sync["rooms"]["invite"].as_object().expect("an invitation");
    assert_eq!(rooms.len(), 1);
    rooms.keys().next().expect("a room").clone()
}

#[tokio::test]
async fn a_notice_comes_into_a_room_of_its_own() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    assert_eq!(tell(&server, &["ann"], false, "The server rests tonight").await, Ok(1));
    let room = invited(&ann.get("/_matrix/client/v3/sync").await.ok());
    let tags = format!("/_matrix/client/v3/user/{}/rooms/{}/tags", ann.id, quoted(&room));
    assert_eq!(ann.get(&tags).await.ok()["tags"], json!({ "m.server_notice": {} }));
    // Whatever else may be declined, this may not.
    ann.leave(&room).await.is("403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    let leave = json!({ "membership": "leave" });
    ann.set(&room, "m.room.member", ann.id.as_str(), leave).await.is("403 M_CANNOT_LEAVE_SERVER_NOTICE_ROOM");
    ann.join(&room).await.ok();
    assert_eq!(ann.read(&room).await, ["The server rests tonight"]);
    let page = ann.room(&room, "messages?dir=b&limit=2").await.ok();
    assert_eq!(page["chunk"][1]["content"]["msgtype"], "m.server_notice");
    let path = in_room(&room, "send/m.room.message/1");
    ann.put(&path, json!({ "body": "why?" })).await.is("403 M_FORBIDDEN");
    // The same room again, and who has left is invited again.
    tell(&server, &["ann"], false, "It is awake").await.expect("told");
    assert_eq!(ann.read(&room).await.len(), 2);
    ann.leave(&room).await.ok();
    tell(&server, &["ann"], false, "Good morning").await.expect("told");
    assert_eq!(invited(&ann.get("/_matrix/client/v3/sync").await.ok()), room);
    assert_eq!(bob.get("/_matrix/client/v3/sync").await.ok()["rooms"].get("invite"), None);
}

#[tokio::test]
async fn everybody_is_told_who_lives_here() {
    let server = server_with(|config| config.registration.guests = true).await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    server.with_guest().await;
    let block = format!("/_matrix/client/v3/user/{}/account_data/m.invite_permission_config", bob.id);
    bob.put(&block, json!({ "default_action": "block" })).await.ok();
    assert_eq!(tell(&server, &["ann"], true, "hello").await, Ok(2));
    assert_eq!(tell(&server, &[], true, "again").await, Ok(2), "the one who speaks is not told");
    for person in [&ann, &bob] {
        let room = invited(&person.get("/_matrix/client/v3/sync").await.ok());
        person.join(&room).await.ok();
        assert_eq!(person.read(&room).await, ["hello", "again"]);
    }
}

#[tokio::test]
async fn a_notice_for_nobody_or_by_somebody_else_is_not_sent() {
    let server = server().await;
    server.with_user("ann").await;
    assert_eq!(tell(&server, &["ann", "nobody"], false, "hello").await, Err("M_NOT_FOUND".to_owned()));
    assert_eq!(tell(&server, &["ann"], false, " ").await, Err("M_INVALID_PARAM".to_owned()));
    server.with_user("notices").await;
    let before = server.trace();
    assert_eq!(tell(&server, &["ann"], false, "hello").await, Err("M_INVALID_PARAM".to_owned()));
    assert_eq!(server.trace(), before);
}

#[tokio::test]
async fn notices_may_be_declined_where_the_admin_says_so() {
    let server = server_with(|config| {
        config.notices.may_decline = true;
        config.rooms.encryption_enabled_by_default = ingle::config::EncryptByDefault::All;
    })
    .await;
    let ann = server.with_user("ann").await;
    tell(&server, &["ann"], false, "hello").await.expect("told");
    let sync = ann.get("/_matrix/client/v3/sync").await.ok();
    let room = invited(&sync);
    assert!(!sync.to_string().contains("m.room.encryption"), "the server has no keys");
    ann.leave(&room).await.ok();
}
