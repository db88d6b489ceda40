//! Making accounts.

use ingle::store::schema::users::{REGISTRATION_TOKENS, RegistrationTokenRow};
use serde_json::{Value, json};

use crate::harness::{Server, server, server_with};

const REGISTER: &str = "/_matrix/client/v3/register";
const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

fn ann(auth: Value) -> Value {
    json!({ "username": "ann", "password": "secret", "auth": auth })
}

fn dummy() -> Value {
    json!({ "type": "m.login.dummy" })
}

#[tokio::test]
async fn an_empty_request_is_answered_with_what_must_be_proved() {
    let server = server().await;
    let before = server.trace();
    let answer = server.ask(http::Method::POST, "/_matrix/client/r0/register", None, "").await.is("401");
    assert_eq!(answer["flows"], json!([{ "stages": ["m.login.dummy"] }]));
    assert!(answer["session"].is_string());
    assert_eq!(server.trace(), before);
}

#[tokio::test]
async fn whoever_proves_nothing_as_asked_gets_an_account() {
    let server = server().await;
    let session = server.post(REGISTER, ann(Value::Null)).await.is("401")["session"].clone();
    let auth = json!({ "type": "m.login.dummy", "session": session });
    let answer = server.post(REGISTER, ann(auth)).await.ok();
    assert_eq!(answer["user_id"], "@ann:localhost");
    let token = answer["access_token"].as_str().expect("a token");
    let whoami = server.ask(http::Method::GET, WHOAMI, Some(token), "").await.ok();
    assert_eq!(whoami["device_id"], answer["device_id"]);
}

#[tokio::test]
async fn the_first_request_may_bring_the_proof() {
    let server = server().await;
    server.post(REGISTER, ann(dummy())).await.ok();
    server.post(REGISTER, ann(dummy())).await.is("400 M_USER_IN_USE");
    server.post(REGISTER, ann(Value::Null)).await.is("400 M_USER_IN_USE");
}

#[tokio::test]
async fn a_session_makes_one_account() {
    let server = server().await;
    let session = server.post(REGISTER, json!({})).await.is("401")["session"].clone();
    let auth = json!({ "type": "m.login.dummy", "session": session });
    server.post(REGISTER, ann(auth.clone())).await.ok();
    let bob = json!({ "username": "bob", "password": "secret", "auth": auth });
    let again = server.post(REGISTER, bob).await.is("401 M_UNKNOWN");
    assert_ne!(again["session"], session);
}

#[tokio::test]
async fn a_login_can_wait() {
    let server = server().await;
    let mut body = ann(dummy());
    body["inhibit_login"] = true.into();
    let answer = server.post(REGISTER, body).await.ok();
    assert_eq!(answer.get("access_token").or(answer.get("device_id")), None);
}

#[tokio::test]
async fn names_follow_the_rules() {
    let server = server().await;
    let before = server.trace();
    for name in ["", "ann smith", "änn", "_bridge", "ann:b", &"a".repeat(300)] {
        let body = json!({ "username": name, "password": "secret", "auth": dummy() });
        server.post(REGISTER, body).await.is("400 M_INVALID_USERNAME");
    }
    server.post(REGISTER, json!({ "username": "ann", "auth": dummy() })).await.is("400 M_MISSING_PARAM");
    let empty = json!({ "username": "ann", "password": "", "auth": dummy() });
    server.post(REGISTER, empty).await.is("400 M_WEAK_PASSWORD");
    assert_eq!(server.trace(), before);
    let answer = server.post(REGISTER, json!({ "password": "secret", "auth": dummy() })).await.ok();
    assert!(answer["user_id"].as_str().is_some_and(|id| id.ends_with(":localhost")));
}

#[tokio::test]
async fn capitals_in_a_name_become_small() {
    let server = server().await;
    let body = json!({ "username": "Ann", "password": "secret", "auth": dummy() });
    assert_eq!(server.post(REGISTER, body.clone()).await.ok()["user_id"], "@ann:localhost");
    server.post(REGISTER, body).await.is("400 M_USER_IN_USE");
    server.get("/_matrix/client/v3/register/available?username=ANN").await.is("400 M_USER_IN_USE");
}

#[tokio::test]
async fn a_free_name_is_told_from_a_taken_one() {
    let server = server().await;
    server.with_user("ann").await;
    let available = |name| format!("/_matrix/client/v3/register/available?username={name}");
    assert_eq!(server.get(&available("bob")).await.ok()["available"], true);
    server.get(&available("ann")).await.is("400 M_USER_IN_USE");
    server.get(&available("a%20b")).await.is("400 M_INVALID_USERNAME");
    server.get("/_matrix/client/v3/register/available").await.is("400 M_MISSING_PARAM");
}

#[tokio::test]
async fn a_closed_server_makes_no_accounts() {
    let server = server_with(|config| config.registration.open = false).await;
    server.post(REGISTER, ann(dummy())).await.is("403 M_FORBIDDEN");
    server.post(&format!("{REGISTER}?kind=guest"), json!({})).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
    server.get("/_matrix/client/v1/register/m.login.registration_token/validity?token=a").await.is("403 M_FORBIDDEN");
}

async fn with_tokens() -> Server {
    let server = server_with(|config| {
        config.registration.open = false;
        config.registration.tokens = vec!["house".to_owned()];
    })
    .await;
    let mut write = server.ctx.store.write();
    let row = RegistrationTokenRow { uses: Some(1), ..Default::default() };
    write.put(REGISTRATION_TOKENS, &"once".to_owned(), &row);
    let late = RegistrationTokenRow { expires: Some(server.ctx.clock.now()), ..Default::default() };
    write.put(REGISTRATION_TOKENS, &"late".to_owned(), &late);
    write.commit().expect("a commit").published().await.expect("a row");
    server
}

#[tokio::test]
async fn a_registration_token_opens_the_door_as_often_as_it_may() {
    let server = with_tokens().await;
    let with = |name: &str, token: &str| {
        let auth = json!({ "type": "m.login.registration_token", "token": token });
        json!({ "username": name, "password": "secret", "auth": auth })
    };
    let refused = server.post(REGISTER, with("ann", "wrong")).await.is("401 M_FORBIDDEN");
    assert_eq!(refused["flows"], json!([{ "stages": ["m.login.registration_token"] }]));
    server.post(REGISTER, with("ann", "late")).await.is("401 M_FORBIDDEN");
    server.post(REGISTER, with("ann", "once")).await.ok();
    server.post(REGISTER, with("bob", "once")).await.is("401 M_FORBIDDEN");
    for name in ["bob", "cem"] {
        server.post(REGISTER, with(name, "house")).await.ok();
    }
    server.post(REGISTER, ann(dummy())).await.is("400 M_USER_IN_USE");
    let dora = json!({ "username": "dora", "password": "secret", "auth": dummy() });
    server.post(REGISTER, dora).await.is("401 M_FORBIDDEN");
}

#[tokio::test]
async fn a_registration_token_can_be_tried_without_using_it() {
    let server = with_tokens().await;
    for (token, valid) in [("house", true), ("once", true), ("late", false), ("nonsense", false)] {
        let path = format!("/_matrix/client/v1/register/m.login.registration_token/validity?token={token}");
        assert_eq!(server.get(&path).await.ok()["valid"], valid, "{token}");
    }
}

#[tokio::test]
async fn a_guest_may_do_a_few_things_and_can_become_a_user() {
    let server = server_with(|config| config.registration.guests = true).await;
    let guest = server.post(&format!("{REGISTER}?kind=guest"), json!({ "username": "ignored" })).await.ok();
    let (id, token) = (guest["user_id"].as_str().expect("an ID"), guest["access_token"].as_str());
    let ask = |path: &'static str| server.ask(http::Method::GET, path, token, "");
    assert_eq!(ask(WHOAMI).await.ok()["is_guest"], true);
    ask("/_matrix/client/v3/account/3pid").await.is("403 M_GUEST_ACCESS_FORBIDDEN");

    let name = id.trim_start_matches('@').trim_end_matches(":localhost");
    let mut full = json!({ "username": name, "password": "secret", "auth": dummy(), "guest_access_token": token });
    let answer = server.post(REGISTER, full.clone()).await.ok();
    assert_eq!(answer["user_id"], *id);
    let ask = |path: &'static str| server.ask(http::Method::GET, path, answer["access_token"].as_str(), "");
    assert_ne!(ask(WHOAMI).await.ok()["is_guest"], true);
    full["auth"] = dummy();
    server.post(REGISTER, full).await.is("403 M_FORBIDDEN");
}
