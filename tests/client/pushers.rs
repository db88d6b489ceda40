//! Pushers.

use serde_json::{Value, json};

use crate::harness::{User, server, server_with};

const SET: &str = "/_matrix/client/v3/pushers/set";
const LIST: &str = "/_matrix/client/v3/pushers";

fn pusher() -> Value {
    json!({
        "pushkey": "KEY",
        "kind": "http",
        "app_id": "org.example",
        "app_display_name": "App",
        "device_display_name": "Phone",
        "profile_tag": "tag",
        "lang": "en",
        "data": { "url": "https://push.example.org/_matrix/push/v1/notify", "format": "event_id_only", "brand": 7 },
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut pusher = pusher();
    match field.split_once('.') {
        Some((object, field)) => pusher[object][field] = value,
        None => pusher[field] = value,
    }
    pusher
}

async fn count(user: &User) -> usize {
    user.get(LIST).await.ok()["pushers"].as_array().map_or(0, Vec::len)
}

#[tokio::test]
async fn a_pusher_is_set_listed_changed_and_removed() {
    let ann = server().await.with_user("ann").await;
    ann.post(SET, pusher()).await.ok();
    assert_eq!(ann.get(LIST).await.ok()["pushers"], json!([pusher()]));
    ann.post(SET, with("lang", json!("de"))).await.ok();
    assert_eq!(ann.get(LIST).await.ok()["pushers"], json!([with("lang", json!("de"))]));
    ann.post(SET, json!({ "kind": null, "app_id": "org.example", "pushkey": "KEY" })).await.ok();
    assert_eq!(ann.get(LIST).await.ok()["pushers"], json!([]));
    ann.post(SET, json!({ "kind": null, "app_id": "org.example", "pushkey": "KEY" })).await.ok();
}

#[tokio::test]
async fn one_device_has_one_user_unless_it_is_said_otherwise() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    ann.post(SET, pusher()).await.ok();
    bob.post(SET, with("append", json!(true))).await.ok();
    assert_eq!((count(&ann).await, count(&bob).await), (1, 1));
    bob.post(SET, with("append", json!(false))).await.ok();
    assert_eq!((count(&ann).await, count(&bob).await), (0, 1));
}

#[tokio::test]
async fn a_pusher_goes_with_its_device() {
    let ann = server().await.with_user("ann").await;
    let (phone, tablet) = (ann.log_in().await, ann.log_in().await);
    phone.post(SET, pusher()).await.ok();
    tablet.post(SET, with("pushkey", json!("OTHER"))).await.ok();
    ann.post(SET, with("pushkey", json!("MINE"))).await.ok();
    phone.post("/_matrix/client/v3/logout", json!({})).await.ok();
    assert_eq!(count(&ann).await, 2);
    let change = json!({ "new_password": "another long one", "logout_devices": true, "auth": ann.proof() });
    ann.post("/_matrix/client/v3/account/password", change).await.ok();
    assert_eq!(ann.get(LIST).await.ok()["pushers"][0]["pushkey"], "MINE");
    assert_eq!(count(&ann).await, 1);
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_no_trace() {
    let ann = server_with(|config| config.federation.allow_private_addresses = false).await.with_user("ann").await;
    let before = ann.server.trace();
    for field in ["kind", "app_id", "pushkey", "app_display_name", "device_display_name", "lang", "data"] {
        let mut incomplete = pusher();
        incomplete.as_object_mut().expect("an object").remove(field);
        ann.post(SET, incomplete).await.is("400 M_MISSING_PARAM");
    }
    ann.post(SET, with("data", json!({}))).await.is("400 M_MISSING_PARAM");
    for (field, value) in [
        ("kind", json!("email")),
        ("kind", json!("pigeon")),
        ("kind", json!(7)),
        ("app_id", json!("x".repeat(65))),
        ("app_id", json!("")),
        ("pushkey", json!("x".repeat(513))),
        ("pushkey", json!(7)),
        ("lang", json!(["en"])),
        ("append", json!("yes")),
        ("data", json!("https://push.example.org/_matrix/push/v1/notify")),
        ("data.url", json!("http://push.example.org/_matrix/push/v1/notify")),
        ("data.url", json!("https://push.example.org/notify")),
        ("data.url", json!("/_matrix/push/v1/notify")),
        ("data.url", json!("nonsense")),
        ("data.format", json!("everything")),
        ("data.brand", json!("x".repeat(10_000))),
    ] {
        ann.post(SET, with(field, value)).await.is("400 M_INVALID_PARAM");
    }
    assert_eq!(ann.server.trace(), before);
}
