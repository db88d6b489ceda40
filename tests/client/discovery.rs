//! What the server says of itself.

use crate::harness::{server, server_with};

#[tokio::test]
async fn versions_reach_from_the_first_to_the_newest() {
    let answer = server().await.get("/_matrix/client/versions").await.ok();
    let versions: Vec<_> = answer["versions"].as_array().expect("a list").iter().filter_map(|v| v.as_str()).collect();
    for version in ["r0.5.0", "r0.6.1", "v1.1", "v1.19"] {
        assert!(versions.contains(&version), "{version}");
    }
    assert_eq!(answer["unstable_features"]["org.matrix.msc3827.stable"], true);
    assert_eq!(answer["unstable_features"]["uk.tcpip.msc4133.stable"], true);
}

#[tokio::test]
async fn capabilities_name_the_default_room_version() {
    let ann = server().await.with_user("ann").await;
    let answer = ann.get("/_matrix/client/v3/capabilities").await.ok();
    let versions = &answer["capabilities"]["m.room_versions"];
    assert_eq!((&versions["default"], &versions["available"]["10"]), (&"12".into(), &"stable".into()));
}

#[tokio::test]
async fn well_known_files_lead_to_the_public_url() {
    let server = server_with(|config| {
        config.server_name = "example.org".try_into().expect("a name");
    })
    .await;
    let client = server.get("/.well-known/matrix/client").await.ok();
    assert_eq!(client["m.homeserver"]["base_url"], "https://example.org");
    assert_eq!(server.get("/.well-known/matrix/server").await.ok()["m.server"], "example.org:443");
}

#[tokio::test]
async fn a_server_by_itself_does_not_lead_other_servers_here() {
    let server = server_with(|config| config.federation.enabled = false).await;
    server.get("/.well-known/matrix/server").await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn health_is_asked_without_a_token() {
    let answer = server().await.get("/health").await;
    assert_eq!((answer.summary().as_str(), &answer.bytes[..]), ("200", &b"OK"[..]));
}

#[tokio::test]
async fn whom_to_write_to_is_told_where_somebody_says_so() {
    let path = "/.well-known/matrix/support";
    server().await.get(path).await.is("404 M_NOT_FOUND");
    let server = crate::harness::server_with(|config| config.support.email = Some("ann@example.org".to_owned())).await;
    let contact = serde_json::json!({ "role": "m.role.admin", "email_address": "ann@example.org" });
    assert_eq!(server.get(path).await.ok(), serde_json::json!({ "contacts": [contact] }));
}
