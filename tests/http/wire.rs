//! Requests as bytes: what warp and hyper make of them.

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use ingle::{api, app::App, http::service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The status line and body of the answer to one request.
async fn ask(request: &str) -> (String, String) {
    let service = TowerToHyperService::new(service(api::http(App::for_tests())));
    let (mut client, server) = tokio::io::duplex(1 << 20);
    tokio::spawn(async move {
        Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(server), service).await.ok()
    });
    client.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.to_lowercase().contains("access-control-allow-origin: *"), "{head}");
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

fn request(line: &str, headers: &str, body: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{headers}\r\n{body}")
}

#[tokio::test]
async fn a_request_is_answered_with_and_without_a_query() {
    for path in [
        "/_matrix/client/versions",
        "/_matrix/client/versions/",
        "/_matrix/client/versions?",
        "/_matrix/client/versions?a=1",
    ] {
        let (status, body) = ask(&request(&format!("GET {path}"), "", "")).await;
        assert_eq!(status, "HTTP/1.1 200 OK", "{path}");
        assert!(body.starts_with("{\"unstable_features\"") || body.starts_with("{\"versions\""), "{body}");
    }
    let (status, body) = ask(&request("GET /nothing?a=b&c", "", "")).await;
    assert!(status.starts_with("HTTP/1.1 404") && body.contains("M_UNRECOGNIZED"));
}

#[tokio::test]
async fn head_has_a_length_and_no_body() {
    let (status, body) = ask(&request("HEAD /_matrix/client/versions", "", "")).await;
    assert_eq!((status.as_str(), body.as_str()), ("HTTP/1.1 200 OK", ""));
    let (status, _) = ask(&request("OPTIONS /anything/at/all", "", "")).await;
    assert!(status.starts_with("HTTP/1.1 204"));
}

#[tokio::test]
async fn a_body_is_limited_with_and_without_a_length() {
    let login = "POST /_matrix/client/v3/login";
    let (status, _) = ask(&request(login, "Content-Length: 2\r\n", "{}")).await;
    assert!(status.starts_with("HTTP/1.1 400"), "{status}");
    let (status, _) = ask(&request(login, "Content-Length: 2000000\r\n", "{")).await;
    assert!(status.starts_with("HTTP/1.1 413"), "{status}");
    let chunk = format!("8000\r\n{}\r\n", "a".repeat(0x8000)).repeat(33);
    let (status, _) = ask(&request(login, "Transfer-Encoding: chunked\r\n", &format!("{chunk}0\r\n\r\n"))).await;
    assert!(status.starts_with("HTTP/1.1 413"), "{status}");
}
