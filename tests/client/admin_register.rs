//! Making accounts with the shared secret.

use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;

use crate::harness::{Server, server, server_with};

const PATH: &str = "/_synapse/admin/v1/register";

async fn with_secret() -> Server {
    server_with(|config| {
        config.registration.open = false;
        config.registration.shared_secret = Some("sesame".to_owned());
    })
    .await
}

fn mac(secret: &str, fields: &[&str]) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("a key");
    mac.update(fields.join("\0").as_bytes());
    mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
}

async fn request(server: &Server, name: &str, admin: bool) -> Value {
    let nonce = server.get(PATH).await.ok()["nonce"].as_str().expect("a nonce").to_owned();
    let mac = mac("sesame", &[&nonce, name, "secret", if admin { "admin" } else { "notadmin" }]);
    json!({ "nonce": nonce, "username": name, "password": "secret", "admin": admin, "mac": mac })
}

#[tokio::test]
async fn whoever_knows_the_secret_makes_accounts_and_admins() {
    let server = with_secret().await;
    for (name, admin) in [("ann", true), ("bob", false)] {
        let body = request(&server, name, admin).await;
        let answer = server.post(PATH, body).await.ok();
        assert_eq!(answer["user_id"], format!("@{name}:localhost"));
        let user = server.ctx.users.identify(answer["access_token"].as_str().expect("a token")).expect("a user");
        assert_eq!(user.admin, admin);
    }
}

#[tokio::test]
async fn a_nonce_is_good_once_and_for_a_minute() {
    let server = with_secret().await;
    let body = request(&server, "ann", false).await;
    server.post(PATH, body.clone()).await.ok();
    server.post(PATH, body).await.is("400 M_UNKNOWN");
    let body = request(&server, "bob", false).await;
    server.later(Duration::from_secs(61));
    server.post(PATH, body).await.is("400 M_UNKNOWN");
}

#[tokio::test]
async fn a_mac_that_does_not_fit_makes_no_account() {
    let server = with_secret().await;
    let before = server.trace();
    let mut body = request(&server, "ann", false).await;
    body["admin"] = true.into();
    server.post(PATH, body).await.is("403 M_FORBIDDEN");
    for mac in ["", "zz", "abc", "é"] {
        let mut body = request(&server, "ann", false).await;
        body["mac"] = mac.into();
        server.post(PATH, body).await.is("403 M_FORBIDDEN");
    }
    assert_eq!(server.trace(), before);
}

#[tokio::test]
async fn without_a_secret_there_is_no_such_way() {
    server().await.get(PATH).await.is("400 M_UNKNOWN");
}
