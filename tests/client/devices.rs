//! Devices.

use serde_json::json;

use crate::harness::{User, server};

const DEVICES: &str = "/_matrix/client/v3/devices";

fn path(user: &User) -> String {
    format!("{DEVICES}/{}", user.device)
}

#[tokio::test]
async fn devices_are_listed_with_when_they_were_seen() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    let answer = ann.get(DEVICES).await.ok();
    let devices = answer["devices"].as_array().expect("a list");
    assert_eq!(devices.len(), 2);
    let own = devices.iter().find(|device| device["device_id"] == ann.device.as_str()).expect("a device");
    assert_eq!(own["last_seen_ts"], ann.server.ctx.clock.now());
    assert_eq!(ann.get(&path(&phone)).await.ok()["device_id"], phone.device.as_str());
}

#[tokio::test]
async fn a_device_can_have_a_name() {
    let ann = server().await.with_user("ann").await;
    ann.put(&path(&ann), json!({ "display_name": "Kitchen" })).await.ok();
    ann.put(&path(&ann), json!({})).await.ok();
    assert_eq!(ann.get(&path(&ann)).await.ok()["display_name"], "Kitchen");
    ann.put(&path(&ann), json!({ "display_name": "a".repeat(300) })).await.is("413 M_TOO_LARGE");
}

#[tokio::test]
async fn somebody_elses_device_is_not_there() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let before = ann.server.trace();
    bob.get(&path(&ann)).await.is("404 M_NOT_FOUND");
    bob.put(&path(&ann), json!({ "display_name": "mine" })).await.is("404 M_NOT_FOUND");
    bob.put(&path(&ann), json!({})).await.is("404 M_NOT_FOUND");
    assert_eq!(ann.server.trace(), before);
    bob.delete(&path(&ann), json!({ "auth": bob.proof() })).await.ok();
    bob.post("/_matrix/client/v3/delete_devices", json!({ "devices": [ann.device], "auth": bob.proof() })).await.ok();
    ann.get(&path(&ann)).await.ok();
}

#[tokio::test]
async fn a_device_is_deleted_with_its_token_by_whoever_knows_the_password() {
    let ann = server().await.with_user("ann").await;
    let (phone, tablet) = (ann.log_in().await, ann.log_in().await);
    let session = ann.ask(http::Method::DELETE, &path(&phone), "").await.is("401")["session"].clone();
    // As old libraries send it.
    let old = json!({ "type": "m.login.password", "user": "ann", "password": ann.password(), "session": session });
    ann.delete(&path(&tablet), json!({ "auth": old })).await.is("403 M_FORBIDDEN");
    ann.delete(&path(&phone), json!({ "auth": old })).await.ok();
    phone.get(DEVICES).await.is("401 M_UNKNOWN_TOKEN");
    ann.get(&path(&phone)).await.is("404 M_NOT_FOUND");
    tablet.get(DEVICES).await.ok();
}

#[tokio::test]
async fn several_devices_are_deleted_at_once() {
    let ann = server().await.with_user("ann").await;
    let (phone, tablet) = (ann.log_in().await, ann.log_in().await);
    let body = json!({ "devices": [phone.device, tablet.device, "NOSUCH"], "auth": ann.proof() });
    ann.post("/_matrix/client/v3/delete_devices", body).await.ok();
    for user in [phone, tablet] {
        user.get(DEVICES).await.is("401 M_UNKNOWN_TOKEN");
    }
    ann.get(DEVICES).await.ok();
}
