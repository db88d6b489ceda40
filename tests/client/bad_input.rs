//! What no endpoint takes: each such request gets its error and leaves no trace.

use http::Method;
use serde_json::json;

use crate::harness::server;

#[tokio::test]
async fn a_body_that_is_not_what_it_should_be() {
    let ann = server().await.with_user("ann").await;
    let data = format!("/_matrix/client/v3/user/{}/account_data/org.example", ann.id);
    let device = format!("/_matrix/client/v3/devices/{}", ann.device);
    let login = "/_matrix/client/v3/login".to_owned();
    let register = "/_matrix/client/v3/register".to_owned();
    let many = "/_matrix/client/v3/delete_devices".to_owned();
    let before = ann.server.trace();
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let huge = format!("{{\"a\":\"{}\"}}", "a".repeat(2 << 20));
    let bad = |method: Method, path: &str, body: &[u8], expected: &'static str| {
        let (ann, path, body) = (ann.clone(), path.to_owned(), body.to_vec());
        async move {
            let answer = ann.ask(method, &path, body.clone()).await;
            let text = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            assert_eq!(answer.summary(), expected, "{path} {text}: {}", answer.json);
            assert!(answer["error"].as_str().is_some_and(|sentence| sentence.len() > 10), "{path} {text}");
        }
    };
    for (method, path) in [
        (Method::PUT, &data),
        (Method::PUT, &device),
        (Method::POST, &login),
        (Method::POST, &register),
        (Method::POST, &many),
    ] {
        bad(method.clone(), path, b"not json", "400 M_NOT_JSON").await;
        bad(method.clone(), path, b"{\"a\": 1", "400 M_NOT_JSON").await;
        bad(method.clone(), path, b"{\"a\": \"\xff\xfe\"}", "400 M_NOT_JSON").await;
        bad(method.clone(), path, b"[]", "400 M_BAD_JSON").await;
        bad(method.clone(), path, b"\"text\"", "400 M_BAD_JSON").await;
        bad(method.clone(), path, deep.as_bytes(), "400 M_BAD_JSON").await;
        bad(method.clone(), path, huge.as_bytes(), "413 M_TOO_LARGE").await;
    }
    bad(Method::PUT, &device, b"{\"display_name\": 5}", "400 M_BAD_JSON").await;
    bad(Method::PUT, &device, b"{\"display_name\": 5, ", "400 M_NOT_JSON").await;
    bad(Method::POST, &login, b"{}", "400 M_BAD_JSON").await;
    bad(Method::POST, &login, b"", "400 M_BAD_JSON").await;
    bad(Method::POST, &login, b"{\"type\": 5}", "400 M_BAD_JSON").await;
    bad(Method::POST, &login, b"{\"type\": \"m.login.magic\"}", "400 M_UNKNOWN").await;
    bad(Method::POST, &login, b"{\"type\": \"m.login.password\"}", "400 M_MISSING_PARAM").await;
    bad(Method::POST, &login, b"{\"type\": \"m.login.token\"}", "400 M_MISSING_PARAM").await;
    let nameless = b"{\"type\": \"m.login.password\", \"password\": \"a\"}";
    bad(Method::POST, &login, nameless, "400 M_MISSING_PARAM").await;
    let phone = b"{\"type\": \"m.login.password\", \"identifier\": {\"type\": \"m.id.phone\"}, \"password\": \"a\"}";
    bad(Method::POST, &login, phone, "403 M_FORBIDDEN").await;
    bad(Method::POST, &many, b"{}", "400 M_BAD_JSON").await;
    bad(Method::POST, &many, b"{\"devices\": [1]}", "400 M_BAD_JSON").await;
    bad(Method::POST, &many, b"{\"devices\": [], \"auth\": 5}", "400 M_BAD_JSON").await;
    bad(Method::POST, &many, b"{\"devices\": [], \"auth\": {\"type\": 5}}", "400 M_BAD_JSON").await;
    bad(Method::POST, &register, b"{\"username\": {}}", "400 M_BAD_JSON").await;
    bad(Method::POST, &format!("{register}?kind=robot"), b"{}", "400 M_INVALID_PARAM").await;
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn an_id_that_is_none() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    for id in ["ann", "@ann", "%40", "%ff", &format!("@{}:localhost", "a".repeat(2000))] {
        let path = format!("/_matrix/client/v3/user/{id}/account_data/org.example");
        ann.put(&path, json!({})).await.is("400 M_INVALID_PARAM");
    }
    let path = format!("/_matrix/client/v3/user/{}/rooms/room/account_data/org.example", ann.id);
    ann.put(&path, json!({})).await.is("400 M_INVALID_PARAM");
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn a_device_id_or_name_without_end() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    for (field, value) in [
        ("device_id", "a".repeat(1000)),
        ("device_id", String::new()),
        ("initial_device_display_name", "a".repeat(1000)),
    ] {
        let mut body = ann.proof();
        body[field] = value.into();
        ann.server.post("/_matrix/client/v3/login", body).await.is("400 M_INVALID_PARAM");
    }
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn a_token_that_is_none() {
    let ann = server().await.with_user("ann").await;
    for token in ["", " ", "igl_", "a\u{7f}", &"a".repeat(10_000)] {
        let request =
            http::Request::get("/_matrix/client/v3/devices").header("Authorization", format!("Bearer {token}"));
        let Ok(request) = request.body(bytes::Bytes::new()) else { continue };
        ann.server.send(request).await.is("401 M_UNKNOWN_TOKEN");
    }
    let basic = http::Request::get("/_matrix/client/v3/devices").header("Authorization", "Basic YTpi");
    ann.server.send(basic.body(bytes::Bytes::new()).expect("a request")).await.is("401 M_MISSING_TOKEN");
}
