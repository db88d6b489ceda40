//! Logging in and out.

use std::time::Duration;

use ingle::users::accounts;
use serde_json::json;

use crate::harness::{User, server, server_with};

const LOGIN: &str = "/_matrix/client/v3/login";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn the_ways_to_log_in_are_listed() {
    let answer = server().await.get("/_matrix/client/r0/login").await.ok();
    assert_eq!(answer["flows"][0]["type"], "m.login.password");
}

#[tokio::test]
async fn a_user_can_be_named_in_every_way_that_clients_know() {
    let ann = server().await.with_user("ann").await;
    let (kind, password) = ("m.login.password", ann.password());
    for name in ["ann", "@ann:localhost", "Ann", " ann "] {
        let identifier = json!({ "type": "m.id.user", "user": name });
        let body = json!({ "type": kind, "identifier": identifier, "password": password });
        assert_eq!(ann.server.post(LOGIN, body).await.ok()["user_id"], "@ann:localhost");
        let old = json!({ "type": kind, "user": name, "password": password });
        ann.server.post("/_matrix/client/r0/login", old).await.ok();
    }
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_name_look_alike() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    for (user, password) in [("ann", "wrong"), ("nobody", "wrong"), ("@ann:elsewhere.org", "ann's password")] {
        let body = json!({ "type": "m.login.password", "user": user, "password": password });
        ann.server.post(LOGIN, body).await.is("403 M_FORBIDDEN");
    }
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn a_device_that_logs_in_again_keeps_its_id_and_loses_its_old_token() {
    let ann = server().await.with_user("ann").await;
    let mut body = ann.proof();
    body["device_id"] = json!(ann.device);
    assert_eq!(ann.server.post(LOGIN, body).await.ok()["device_id"], ann.device.as_str());
    ann.get(WHOAMI).await.is("401 M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn whoever_guesses_is_slowed_down_and_the_family_is_not() {
    let server = server_with(|config| config.limits.enabled = true).await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let guess = |user: &User| json!({ "type": "m.login.password", "user": user.id, "password": "guess" });
    let mut guesses = 0;
    while server.post(LOGIN, guess(&ann)).await.summary() == "403 M_FORBIDDEN" {
        guesses += 1;
        assert!(guesses < 100);
    }
    assert!(guesses <= 10);
    server.post(LOGIN, ann.proof()).await.is("429 M_LIMIT_EXCEEDED");
    server.post(LOGIN, bob.proof()).await.ok();
    server.later(Duration::from_secs(60));
    server.post(LOGIN, ann.proof()).await.ok();
}

#[tokio::test]
async fn logging_out_ends_the_token_and_the_device() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    phone.post("/_matrix/client/v3/logout", json!({})).await.ok();
    phone.get(WHOAMI).await.is("401 M_UNKNOWN_TOKEN");
    let devices = ann.get("/_matrix/client/v3/devices").await.ok();
    assert_eq!(devices["devices"].as_array().map(Vec::len), Some(1));
    let phone = ann.log_in().await;
    ann.ask(http::Method::POST, "/_matrix/client/r0/logout/all", "").await.ok();
    for user in [&ann, &phone] {
        user.get(WHOAMI).await.is("401 M_UNKNOWN_TOKEN");
    }
}

#[tokio::test]
async fn a_token_is_known_after_a_restart_unless_it_has_ended() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    phone.post("/_matrix/client/v3/logout", json!({})).await.ok();
    let server = ann.server.restart();
    server.ask(http::Method::GET, WHOAMI, Some(&ann.token), "").await.ok();
    server.ask(http::Method::GET, WHOAMI, Some(&phone.token), "").await.is("401 M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_device_that_is_logged_in_lets_another_one_in() {
    let ann = server().await.with_user("ann").await;
    let path = "/_matrix/client/v1/login/get_token";
    ann.post(path, json!({})).await.is("401");
    let token = ann.post(path, json!({ "auth": ann.proof() })).await.ok()["login_token"].clone();
    let body = json!({ "type": "m.login.token", "token": token });
    assert_eq!(ann.server.post(LOGIN, body.clone()).await.ok()["user_id"], "@ann:localhost");
    ann.server.post(LOGIN, body).await.is("403 M_FORBIDDEN");
    let token = ann.post(path, json!({ "auth": ann.proof() })).await.ok()["login_token"].clone();
    ann.server.later(Duration::from_secs(121));
    ann.server.post(LOGIN, json!({ "type": "m.login.token", "token": token })).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn an_access_token_that_has_ended_can_be_refreshed() {
    let ann = server().await.with_user("ann").await;
    let mut body = ann.proof();
    body["refresh_token"] = true.into();
    let login = ann.server.post(LOGIN, body).await.ok();
    let whoami = async |token: &serde_json::Value| ann.server.ask(http::Method::GET, WHOAMI, token.as_str(), "").await;
    let refresh = async |token: &serde_json::Value| {
        ann.server.post("/_matrix/client/v3/refresh", json!({ "refresh_token": token })).await
    };
    whoami(&login["access_token"]).await.ok();
    ann.server.later(Duration::from_millis(login["expires_in_ms"].as_u64().expect("a time")));
    assert_eq!(whoami(&login["access_token"]).await.is("401 M_UNKNOWN_TOKEN")["soft_logout"], true);

    // The answer is lost on the way: the client asks again with the old token.
    let lost = refresh(&login["refresh_token"]).await.ok();
    let second = refresh(&login["refresh_token"]).await.ok();
    refresh(&lost["refresh_token"]).await.is("401 M_UNKNOWN_TOKEN");
    whoami(&second["access_token"]).await.ok();
    // What was used has replaced what was before.
    tokio::task::yield_now().await;
    refresh(&login["refresh_token"]).await.is("401 M_UNKNOWN_TOKEN");
    let third = refresh(&second["refresh_token"]).await.ok();
    let fourth = refresh(&third["refresh_token"]).await.ok();
    refresh(&second["refresh_token"]).await.is("401 M_UNKNOWN_TOKEN");
    whoami(&fourth["access_token"]).await.ok();
    refresh(&json!("nonsense")).await.is("401 M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_locked_user_can_do_nothing_but_log_out() {
    let ann = server().await.with_user("ann").await;
    let number = ann.server.ctx.users.identify(&ann.token).expect("a user").number;
    accounts::change(&ann.server.ctx.users, number, |account| account.locked = true).await.expect("a change");
    assert_eq!(ann.get(WHOAMI).await.is("401 M_USER_LOCKED")["soft_logout"], true);
    ann.post("/_matrix/client/v3/logout", json!({})).await.ok();
}
