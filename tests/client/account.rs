//! One's own account.

use serde_json::json;

use crate::harness::server;

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";
const PASSWORD: &str = "/_matrix/client/v3/account/password";
const DEACTIVATE: &str = "/_matrix/client/v3/account/deactivate";
const LOGIN: &str = "/_matrix/client/v3/login";

#[tokio::test]
async fn whoever_shows_a_token_is_told_whose_it_is() {
    let ann = server().await.with_user("ann").await;
    let answer = ann.get(WHOAMI).await.ok();
    assert_eq!(answer["user_id"], "@ann:localhost");
    assert_eq!(answer["device_id"], ann.device.as_str());
    ann.get("/_matrix/client/r0/account/whoami/").await.ok();
}

#[tokio::test]
async fn a_token_in_the_query_is_as_good() {
    let ann = server().await.with_user("ann").await;
    ann.server.get(&format!("{WHOAMI}?access_token={}", ann.token)).await.ok();
}

#[tokio::test]
async fn without_a_token_there_is_no_answer() {
    let server = server().await;
    server.get(WHOAMI).await.is("401 M_MISSING_TOKEN");
    let answer = server.get(&format!("{WHOAMI}?access_token=nonsense")).await.is("401 M_UNKNOWN_TOKEN");
    assert_eq!(answer["soft_logout"], false);
}

#[tokio::test]
async fn a_new_password_logs_the_other_devices_out() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    let body = json!({ "new_password": "new", "auth": ann.proof() });
    ann.post(PASSWORD, body).await.ok();
    ann.get(WHOAMI).await.ok();
    phone.get(WHOAMI).await.is("401 M_UNKNOWN_TOKEN");
    ann.server.post(LOGIN, ann.proof()).await.is("403 M_FORBIDDEN");
    let new = json!({ "type": "m.login.password", "user": "ann", "password": "new" });
    ann.server.post(LOGIN, new).await.ok();
}

#[tokio::test]
async fn other_devices_may_stay() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    let body = json!({ "new_password": "new", "logout_devices": false, "auth": ann.proof() });
    ann.post(PASSWORD, body).await.ok();
    phone.get(WHOAMI).await.ok();
}

#[tokio::test]
async fn the_password_is_changed_by_whoever_knows_it() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let change = |auth| json!({ "new_password": "new", "auth": auth });
    let before = ann.server.trace();
    let question = ann.post(PASSWORD, change(json!(null))).await.is("401");
    assert_eq!(question["flows"], json!([{ "stages": ["m.login.password"] }]));
    let wrong =
        json!({ "type": "m.login.password", "user": "ann", "password": "wrong", "session": question["session"] });
    let refused = ann.post(PASSWORD, change(wrong)).await.is("401 M_FORBIDDEN");
    assert_eq!(refused["session"], question["session"]);
    ann.post(PASSWORD, change(bob.proof())).await.is("401 M_FORBIDDEN");
    ann.post(PASSWORD, change(json!({ "type": "m.login.dummy" }))).await.is("401 M_FORBIDDEN");
    ann.server.post(PASSWORD, change(ann.proof())).await.is("401 M_MISSING_TOKEN");
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn a_session_is_good_for_its_request_alone() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let session = ann.post(PASSWORD, json!({ "new_password": "new" })).await.is("401")["session"].clone();
    let mut proof = ann.proof();
    proof["session"] = session.clone();
    ann.post(PASSWORD, json!({ "new_password": "other", "auth": proof })).await.is("403 M_FORBIDDEN");
    ann.post(DEACTIVATE, json!({ "auth": proof })).await.is("403 M_FORBIDDEN");
    let mut foreign = bob.proof();
    foreign["session"] = session;
    bob.post(PASSWORD, json!({ "new_password": "new", "auth": foreign })).await.is("403 M_FORBIDDEN");
    ann.post(PASSWORD, json!({ "new_password": "new", "auth": proof })).await.ok();
}

#[tokio::test]
async fn a_session_ends_after_a_while() {
    let ann = server().await.with_user("ann").await;
    let mut proof = ann.proof();
    proof["session"] = ann.post(PASSWORD, json!({ "new_password": "new" })).await.is("401")["session"].clone();
    ann.server.later(std::time::Duration::from_secs(3600));
    ann.post(PASSWORD, json!({ "new_password": "new", "auth": proof })).await.is("401 M_UNKNOWN");
}

#[tokio::test]
async fn an_account_that_was_given_up_is_gone_and_its_name_stays_taken() {
    let ann = server().await.with_user("ann").await;
    let answer = ann.post(DEACTIVATE, json!({ "auth": ann.proof(), "erase": true })).await.ok();
    assert_eq!(answer["id_server_unbind_result"], "success");
    ann.get(WHOAMI).await.is("401 M_UNKNOWN_TOKEN");
    let again = ann.server.post(LOGIN, ann.proof()).await;
    again.is("403 M_USER_DEACTIVATED");
    ann.server.get("/_matrix/client/v3/register/available?username=ann").await.is("400 M_USER_IN_USE");
    ann.server.get("/_matrix/client/v3/profile/@ann:localhost").await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn nobody_has_an_e_mail_address_here() {
    let ann = server().await.with_user("ann").await;
    assert_eq!(ann.get("/_matrix/client/v3/account/3pid").await.ok()["threepids"], json!([]));
}

#[tokio::test]
async fn an_openid_token_is_for_oneself() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let path = format!("/_matrix/client/v3/user/{}/openid/request_token", ann.id);
    let token = ann.post(&path, json!({})).await.ok();
    assert_eq!((&token["token_type"], &token["matrix_server_name"]), (&"Bearer".into(), &"localhost".into()));
    bob.post(&path, json!({})).await.is("403 M_FORBIDDEN");
    let whose = |token: &str| format!("/_matrix/federation/v1/openid/userinfo?access_token={token}");
    let shown = token["access_token"].as_str().expect("a token");
    assert_eq!(ann.server.get(&whose(shown)).await.ok()["sub"], "@ann:localhost");
    ann.server.get(&whose("nonsense")).await.is("401 M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn there_is_no_relay_for_calls() {
    let ann = server().await.with_user("ann").await;
    assert_eq!(ann.get("/_matrix/client/v3/voip/turnServer").await.ok(), json!({}));
}

#[tokio::test]
async fn what_an_erased_user_said_is_hidden_from_who_comes_later() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let cem = server.with_user("cem").await;
    let room = ann.create_room().with("preset", "public_chat").with("name", "Kitchen").await;
    bob.join(&room).await.ok();
    let event = ann.say(&room, "my secret soup").await;
    bob.say(&room, "thanks").await;
    let filter = "%7B%22event_format%22:%22federation%22%7D";
    let body = json!({ "auth": ann.proof(), "erase": true });
    let answer = ann.post("/_matrix/client/v3/account/deactivate", body).await.ok();
    assert_eq!(answer["id_server_unbind_result"], "success");
    cem.join(&room).await.ok();
    assert_eq!(bob.read(&room).await, ["my secret soup", "thanks"]);
    assert_eq!(cem.read(&room).await, ["thanks"]);
    let path = crate::harness::in_room(&room, &format!("event/{}", crate::harness::quoted(&event)));
    assert_eq!(cem.get(&path).await.ok()["content"], json!({}));
    for query in ["", &format!("?filter={filter}")] {
        let sync = cem.get(&format!("/_matrix/client/v3/sync{query}")).await.ok();
        assert!(!sync.to_string().contains("secret soup") && sync.to_string().contains("Kitchen"), "{query}");
    }
    let search = json!({ "search_categories": { "room_events": { "search_term": "soup" } } });
    let found = cem.post("/_matrix/client/v3/search", search.clone()).await.ok();
    assert_eq!(found["search_categories"]["room_events"]["count"], 0);
    let found = bob.post("/_matrix/client/v3/search", search).await.ok();
    assert_eq!(found["search_categories"]["room_events"]["count"], 1);
    // Nobody is there any more.
    let members = bob.room(&room, "joined_members").await.ok();
    assert!(members["joined"].get("@ann:localhost").is_none());
    bob.get("/_matrix/client/v3/profile/@ann:localhost").await.is("404 M_NOT_FOUND");
    server.post("/_matrix/client/v3/login", ann.proof()).await.is("403 M_USER_DEACTIVATED");
    ann.get("/_matrix/client/v3/account/whoami").await.is("401 M_UNKNOWN_TOKEN");
}
