//! Pages for clients that cannot prove a stage, or log in, by themselves; and the page for a new password.

use ingle::admin::accounts;
use serde_json::{Value, json};

use crate::harness::{Server, server, server_with};

const REGISTER: &str = "/_matrix/client/v3/register";

fn page(stage: &str, session: &Value) -> String {
    format!("/_matrix/client/v3/auth/{stage}/fallback/web?session={}", session.as_str().expect("a session"))
}

async fn text(server: &Server, path: &str) -> String {
    let answer = server.get(path).await;
    assert!(answer.header("content-type").starts_with("text/html"));
    assert!(answer.header("content-security-policy").starts_with("default-src 'none'"));
    String::from_utf8(answer.bytes.to_vec()).expect("a page")
}

#[tokio::test]
async fn a_stage_is_proved_on_a_page() {
    let server = server_with(|config| {
        config.registration.open = false;
        config.registration.tokens = vec!["house".to_owned()];
    })
    .await;
    let body = json!({ "username": "ann", "password": "secret" });
    let session = server.post(REGISTER, body.clone()).await.is("401")["session"].clone();
    let path = page("m.login.registration_token", &session);
    assert!(text(&server, &path).await.contains("name=\"token\""));
    let wrong = server.fill_in(&path, "token=guess").await;
    assert!(wrong.status == 401 && String::from_utf8_lossy(&wrong.bytes).contains("does not hold"));
    let right = server.fill_in(&path, "token=house").await;
    assert!(right.status == 200 && String::from_utf8_lossy(&right.bytes).contains("window.onAuthDone()"));
    assert!(right.header("content-security-policy").contains("script-src 'sha256-"));
    let mut body = body;
    body["auth"] = json!({ "session": session });
    server.post(REGISTER, body).await.ok();
    let over = server.get(&path).await;
    assert_eq!(over.status, 404);
}

#[tokio::test]
async fn a_password_is_proved_on_a_page() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    let path = format!("/_matrix/client/v3/devices/{}", phone.device);
    let session = ann.delete(&path, json!({})).await.is("401")["session"].clone();
    let form = page("m.login.password", &session);
    assert!(text(&ann.server, &form).await.contains("@ann:localhost"));
    assert_eq!(ann.server.fill_in(&form, "password=wrong").await.status, 401);
    ann.delete(&path, json!({ "auth": { "session": session } })).await.is("401");
    assert_eq!(ann.server.fill_in(&form, "password=ann%27s+password").await.status, 200);
    ann.delete(&path, json!({ "auth": { "session": session } })).await.ok();
}

#[tokio::test]
async fn nothing_is_proved_for_nobody() {
    let server = server().await;
    let session = server.post(REGISTER, json!({})).await.is("401")["session"].clone();
    for path in [
        page("m.login.password", &session),
        page("m.login.magic", &session),
        page("m.login.dummy", &json!("guessed")),
        "/_matrix/client/r0/auth/m.login.dummy/fallback/web".to_owned(),
    ] {
        assert!(server.get(&path).await.status.is_client_error(), "{path}");
        assert!(server.fill_in(&path, "password=a").await.status.is_client_error(), "{path}");
    }
    assert_eq!(server.fill_in(&page("m.login.dummy", &session), "").await.status, 200);
    let body = json!({ "username": "ann", "password": "secret", "auth": { "session": session } });
    server.post(REGISTER, body).await.ok();
}

#[tokio::test]
async fn a_page_logs_in() {
    let page = text(&server().await, "/_matrix/static/client/login/?device_id=LAMP").await;
    assert!(page.contains("window.matrixLogin") && page.contains("onLogin(said)"));
}

#[tokio::test]
async fn a_link_sets_a_new_password_once() {
    let ann = server().await.with_user("ann").await;
    let link = accounts::reset_link(&ann.server.ctx.users, "ann").await.expect("a link");
    let path = link.strip_prefix("http://localhost:0").unwrap_or(&link).to_owned();
    assert!(text(&ann.server, &path).await.contains("@ann:localhost"));
    assert_eq!(ann.server.fill_in(&path, "password=short&again=short").await.status, 400);
    let form = "password=the+kettle+sings&again=the+kettle+sings";
    assert_eq!(ann.server.fill_in(&path, form).await.status, 200);
    assert_eq!(ann.server.fill_in(&path, form).await.status, 404);
    assert_eq!(ann.server.get(&path).await.status, 404);
    let mut login = ann.proof();
    ann.server.post("/_matrix/client/v3/login", login.clone()).await.is("403 M_FORBIDDEN");
    login["password"] = "the kettle sings".into();
    ann.server.post("/_matrix/client/v3/login", login).await.ok();
    ann.get("/_matrix/client/v3/account/whoami").await.ok();
    let link = accounts::reset_link(&ann.server.ctx.users, "ann").await.expect("a link");
    let path = link.strip_prefix("http://localhost:0").unwrap_or(&link).to_owned();
    assert_eq!(ann.server.fill_in(&path, &format!("{form}&everywhere=yes")).await.status, 200);
    ann.get("/_matrix/client/v3/account/whoami").await.is("401 M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn a_dehydrated_device_of_the_first_kind_is_not_known() {
    let ann = server().await.with_user("ann").await;
    let path = "/_matrix/client/unstable/org.matrix.msc2697.v2/dehydrated_device";
    ann.get(path).await.is("404 M_UNRECOGNIZED");
}
