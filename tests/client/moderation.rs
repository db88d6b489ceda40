//! Locking and suspending accounts.

use ingle::users::accounts;
use serde_json::json;

use crate::harness::{User, server};

async fn cast() -> (User, User) {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let users = &ann.server.ctx.users;
    let number = users.identify(&ann.token).expect("a user").number;
    accounts::change(users, number, |account| account.admin = true).await.expect("a change");
    (ann, bob)
}

#[tokio::test]
async fn an_admin_locks_an_account_and_opens_it_again() {
    let (ann, bob) = cast().await;
    let path = "/_matrix/client/v1/admin/lock/@bob:localhost";
    ann.put(path, json!({ "locked": true })).await.ok();
    assert_eq!(ann.get(path).await.ok()["locked"], true);
    bob.get("/_matrix/client/v3/devices").await.is("401 M_USER_LOCKED");
    bob.post("/_matrix/client/v3/account/deactivate", json!({})).await.is("401 M_USER_LOCKED");
    ann.put(path, json!({ "locked": false })).await.ok();
    bob.get("/_matrix/client/v3/devices").await.ok();
}

#[tokio::test]
async fn a_suspended_user_reads_and_says_nothing_new() {
    let (ann, bob) = cast().await;
    let path = "/_matrix/client/v1/admin/suspend/@bob:localhost";
    ann.put(path, json!({ "suspended": true })).await.ok();
    let name = "/_matrix/client/v3/profile/@bob:localhost/displayname";
    bob.put(name, json!({ "displayname": "Bob" })).await.is("403 M_USER_SUSPENDED");
    bob.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(ann.get(path).await.ok()["suspended"], true);
}

#[tokio::test]
async fn only_admins_moderate_and_never_each_other() {
    let (ann, bob) = cast().await;
    let lock = |name: &str| format!("/_matrix/client/v1/admin/lock/{name}");
    let before = ann.server.trace();
    bob.put(&lock("@bob:localhost"), json!({ "locked": true })).await.is("403 M_FORBIDDEN");
    bob.get(&lock("@bob:localhost")).await.is("403 M_FORBIDDEN");
    ann.put(&lock("@ann:localhost"), json!({ "locked": true })).await.is("403 M_FORBIDDEN");
    ann.get(&lock("@ann:localhost")).await.ok();
    ann.put(&lock("@nobody:localhost"), json!({ "locked": true })).await.is("404 M_NOT_FOUND");
    ann.put(&lock("@cem:elsewhere.org"), json!({ "locked": true })).await.is("400 M_INVALID_PARAM");
    assert_eq!(ann.server.trace(), before);
    let capabilities = "/_matrix/client/v3/capabilities";
    assert_eq!(ann.get(capabilities).await.ok()["capabilities"]["m.account_moderation"]["lock"], true);
    assert_eq!(bob.get(capabilities).await.ok()["capabilities"].get("m.account_moderation"), None);
}

#[tokio::test]
async fn it_is_told_from_where_somebody_was_last_seen() {
    let (ann, bob) = cast().await;
    let request = http::Request::get("/_matrix/client/v3/account/whoami")
        .header("authorization", format!("Bearer {}", bob.token))
        .header("user-agent", "Lamp/1.0")
        .header("x-forwarded-for", "192.0.2.7")
        .extension(ingle::http::Peer { address: Some([127, 0, 0, 1].into()), tls: false });
    bob.server.send(request.body(Default::default()).expect("a request")).await.ok();
    let path = "/_matrix/client/r0/admin/whois/@bob:localhost";
    for asks in [&ann, &bob] {
        let told = asks.get(path).await.ok();
        let connection = &told["devices"][bob.device.as_str()]["sessions"][0]["connections"][0];
        assert_eq!((&connection["ip"], &connection["user_agent"]), (&json!("192.0.2.7"), &json!("Lamp/1.0")));
        assert!(connection["last_seen"].is_u64() && told["user_id"] == "@bob:localhost");
    }
    bob.get("/_matrix/client/v3/admin/whois/@ann:localhost").await.is("403 M_FORBIDDEN");
    ann.get("/_matrix/client/v3/admin/whois/@nobody:localhost").await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn admins_do_not_look_after_each_other() {
    let (ann, bob) = cast().await;
    let number = ann.server.ctx.users.identify(&bob.token).expect("a user").number;
    accounts::change(&ann.server.ctx.users, number, |account| account.admin = true).await.expect("a change");
    for what in ["lock", "suspend"] {
        ann.get(&format!("/_matrix/client/v1/admin/{what}/@bob:localhost")).await.is("403 M_FORBIDDEN");
    }
}
