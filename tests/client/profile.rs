//! Profiles.

use serde_json::{Value, json};

use crate::harness::{User, server};

fn path(user: &User, field: &str) -> String {
    format!("/_matrix/client/v3/profile/{}/{field}", user.id)
}

#[tokio::test]
async fn everybody_can_read_what_somebody_says_of_themselves() {
    let ann = server().await.with_user("ann").await;
    ann.put(&path(&ann, "displayname"), json!({ "displayname": "Ann" })).await.ok();
    ann.put(&path(&ann, "avatar_url"), json!({ "avatar_url": "mxc://localhost/a" })).await.ok();
    let zone = path(&ann, "m.tz").replace("/v3/", "/unstable/uk.tcpip.msc4133/");
    ann.put(&zone, json!({ "m.tz": "Europe/Rome" })).await.ok();
    ann.put(&path(&ann, "org.example.pet"), json!({ "org.example.pet": { "kind": "cat" } })).await.ok();
    let server = &ann.server;
    assert_eq!(server.get(&path(&ann, "displayname")).await.ok(), json!({ "displayname": "Ann" }));
    assert_eq!(
        server.get("/_matrix/client/r0/profile/@ann:localhost").await.ok(),
        json!({
            "displayname": "Ann",
            "avatar_url": "mxc://localhost/a",
            "m.tz": "Europe/Rome",
            "org.example.pet": { "kind": "cat" },
        })
    );
}

#[tokio::test]
async fn a_field_can_be_removed() {
    let ann = server().await.with_user("ann").await;
    let name = path(&ann, "displayname");
    for nothing in [json!({ "displayname": "" }), json!({ "displayname": null }), json!({})] {
        ann.put(&name, json!({ "displayname": "Ann" })).await.ok();
        ann.put(&name, nothing).await.ok();
        ann.get(&name).await.is("404 M_NOT_FOUND");
    }
    ann.put(&name, json!({ "displayname": "Ann" })).await.ok();
    for _ in 0..2 {
        ann.delete(&name, Value::Null).await.ok();
    }
    assert_eq!(ann.get("/_matrix/client/v3/profile/@ann:localhost").await.ok(), json!({}));
}

#[tokio::test]
async fn nobody_changes_another_ones_profile() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    bob.put(&path(&ann, "displayname"), json!({ "displayname": "Bob" })).await.is("403 M_FORBIDDEN");
    bob.delete(&path(&ann, "displayname"), json!({})).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn whoever_is_not_known_has_no_profile() {
    let server = server().await;
    server.get("/_matrix/client/v3/profile/@nobody:localhost").await.is("404 M_NOT_FOUND");
    server.get("/_matrix/client/v3/profile/nobody").await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn what_does_not_fit_is_refused() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    let put = async |field: &str, value: Value| ann.put(&path(&ann, field), json!({ field: value })).await;
    put("displayname", json!(5)).await.is("400 M_BAD_JSON");
    put("displayname", json!("a".repeat(300))).await.is("400 M_INVALID_PARAM");
    put("avatar_url", json!("http://example.org/a.png")).await.is("400 M_INVALID_PARAM");
    put("m.tz", json!({})).await.is("400 M_BAD_JSON");
    put("Weird!Name", json!("a")).await.is("400 M_INVALID_PARAM");
    put(&format!("org.{}", "a".repeat(255)), json!("a")).await.is("400 M_KEY_TOO_LARGE");
    put("org.example.large", json!("a".repeat(70_000))).await.is("400 M_PROFILE_TOO_LARGE");
    ann.put(&path(&ann, "m.tz"), json!({ "other": "a" })).await.is("400 M_MISSING_PARAM");
    assert_eq!(ann.server.trace(), before);
}
