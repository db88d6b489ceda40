//! Servers that the configuration keeps out, and a server that keeps to itself.

use http::Method;
use serde_json::json;

use crate::harness::{network, server_with};

#[tokio::test]
async fn who_is_denied_is_neither_asked_nor_answered() {
    let network = network();
    let deny = |config: &mut ingle::config::Config| config.federation.deny = vec!["*.spam.example".to_owned()];
    let (a, b) = (network.server_with("a.example", deny).await, network.server("more.spam.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    // Nothing comes in.
    let refused = b.ask_server(&a, Method::GET, "/_matrix/federation/v1/publicRooms", None).await.is("403 M_FORBIDDEN");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("more.spam.example")), "{refused}");
    bob.join_via(&room, &a).await.is("403 M_FORBIDDEN");
    // Nothing goes out.
    let other = bob.create_room().with("preset", "public_chat").await;
    let refused = ann.join_via(&other, &b).await.is("403 M_FORBIDDEN");
    assert!(refused["error"].as_str().is_some_and(|error| error.contains("more.spam.example")), "{refused}");
    ann.invite(&room, &bob).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn where_some_are_allowed_nobody_else_is() {
    let network = network();
    let allow = |config: &mut ingle::config::Config| config.federation.allow = vec!["b.example".to_owned()];
    let a = network.server_with("a.example", allow).await;
    let (b, c) = (network.server("b.example").await, network.server("c.example").await);
    let room = a.with_user("ann").await.create_room().with("preset", "public_chat").await;
    b.with_user("bob").await.join_via(&room, &a).await.ok();
    c.with_user("cem").await.join_via(&room, &a).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn an_island_says_so() {
    let server = server_with(|config| config.federation.enabled = false).await;
    let ann = server.with_user("ann").await;
    let refused = ann.post("/_matrix/client/v3/join/%23room%3Ab.example", json!({})).await.is("403 M_FORBIDDEN");
    assert!(
        refused["error"].as_str().is_some_and(|error| error.contains("does not talk to other servers")),
        "{refused}"
    );
    server.get("/.well-known/matrix/server").await.is("404 M_NOT_FOUND");
}
