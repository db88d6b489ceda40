//! How other servers say who they are: the forms of the `X-Matrix` header that are understood, and what is refused.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use ingle::{protocol::canonical, remote::x_matrix::Signed};

use crate::harness::{Server, network};

const URI: &str = "/_matrix/federation/v1/query/profile?user_id=%40ann%3Aa.example&field=displayname";

/// The name of `from`'s key, and its signature of a request for `uri` to the server `to`.
fn signature(from: &Server, to: &str, uri: &str) -> (String, String) {
    let (origin, key) = (&from.ctx.config.server_name, &from.ctx.remote.key);
    let to = to.try_into().expect("a server name");
    let header = Signed { origin, destination: to, method: "GET", uri, content: None }.header(key);
    let (_, signature) = header.split_once("sig=\"").expect("a signature");
    (key.id(), signature.trim_end_matches('"').to_owned())
}

async fn answer(by: &Server, uri: &str, header: String) -> String {
    let request = Request::builder().uri(uri).header("Authorization", header).body(Bytes::new());
    by.send(request.expect("a request")).await.summary()
}

#[tokio::test]
async fn every_form_of_a_good_signature_is_understood() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    a.with_user("ann").await;
    let (key, sig) = signature(&b, "a.example", URI);
    for header in [
        format!(r#"X-Matrix origin="b.example",destination="a.example",key="{key}",sig="{sig}""#),
        format!(r#"X-Matrix origin="b.example", key="{key}", sig="{sig}", destination="a.example""#),
        // Old servers quote only some, and name no destination.
        format!(r#"X-Matrix origin=b.example,key="{key}",sig="{sig}""#),
        format!(r#"X-Matrix origin=b.example,key={key},sig="{sig}""#),
        format!(r#"x-matrix Origin="b.example",Key="{key}",Sig="{sig}",Destination="a.example""#),
    ] {
        assert_eq!(answer(&a, URI, header.clone()).await, "200", "{header}");
    }
}

#[tokio::test]
async fn what_was_signed_for_something_else_is_refused() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let c = network.server("c.example").await;
    a.with_user("ann").await;
    let header = |origin: &str, destination: &str, (key, sig): (String, String)| {
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key}",sig="{sig}""#)
    };
    let refused = "401 M_UNAUTHORIZED";
    // For another server, whatever the header says.
    assert_eq!(answer(&a, URI, header("b.example", "c.example", signature(&b, "c.example", URI))).await, refused);
    assert_eq!(answer(&a, URI, header("b.example", "a.example", signature(&b, "c.example", URI))).await, refused);
    // By another server, also by the very one that is asked.
    assert_eq!(answer(&a, URI, header("b.example", "a.example", signature(&c, "a.example", URI))).await, refused);
    assert_eq!(answer(&a, URI, header("a.example", "a.example", signature(&a, "a.example", URI))).await, refused);
    // The path is signed as it is sent, not as it is meant.
    let same = URI.replace("%40", "@");
    assert_eq!(answer(&a, &same, header("b.example", "a.example", signature(&b, "a.example", URI))).await, refused);
    assert_eq!(answer(&a, &same, header("b.example", "a.example", signature(&b, "a.example", &same))).await, "200");
    assert_eq!(answer(&a, URI, "X-Matrix".to_owned()).await, refused);
    assert_eq!(answer(&a, URI, format!("X-Matrix origin=\"{}\"", "b".repeat(10_000))).await, refused);
}

#[tokio::test]
async fn a_key_that_a_server_does_not_have_is_not_asked_for_each_time() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    a.with_user("ann").await;
    let asked = Arc::new(AtomicU64::new(0));
    let (count, ctx) = (Arc::clone(&asked), b.ctx.clone());
    network.answers(&b, "/_matrix/key/v2/server", move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let keys = canonical::write_object(&ctx.remote.own_keys());
        (StatusCode::OK, serde_json::from_str(&keys).expect("JSON"))
    });
    let (key, sig) = signature(&b, "a.example", URI);
    let with_key = async |key: &str| {
        let header = format!(r#"X-Matrix origin="b.example",destination="a.example",key="{key}",sig="{sig}""#);
        answer(&a, URI, header).await
    };
    for name in ["ed25519:x", "ed25519:x", "ed25519:y", "ed25519:z"] {
        assert_eq!(with_key(name).await, "401 M_UNAUTHORIZED");
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    // What it has, it was asked for with the rest.
    assert_eq!(with_key(&key).await, "200");
    a.later(Duration::from_secs(10));
    for (name, times) in [("ed25519:x", 1), ("ed25519:y", 2), ("ed25519:z", 2)] {
        assert_eq!(with_key(name).await, "401 M_UNAUTHORIZED");
        assert_eq!(asked.load(Ordering::Relaxed), times, "{name}");
    }
    a.later(Duration::from_secs(50));
    with_key("ed25519:x").await;
    assert_eq!(asked.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_server_that_is_back_is_believed_though_it_was_left_alone() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let ann = a.with_user("ann").await;
    network.away(&b);
    ann.get("/_matrix/client/v3/profile/@bob:b.example").await.is("502 M_UNKNOWN");
    network.reachable(&b);
    ann.get("/_matrix/client/v3/profile/@bob:b.example").await.is("502 M_UNKNOWN");
    b.ask_server(&a, Method::GET, URI, None).await.ok();
    ann.get("/_matrix/client/v3/profile/@bob:b.example").await.is("404 M_NOT_FOUND");
}
