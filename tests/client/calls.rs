//! Calls: TURN servers, and what calls of several people go through.

use serde_json::{Value, json};

use crate::harness::{server, server_with};

const TURN: &str = "/_matrix/client/v3/voip/turnServer";

#[tokio::test]
async fn everybody_gets_a_password_of_their_own_for_the_turn_server() {
    let server = server_with(|config| {
        config.turn.uris = vec!["turn:turn.test?transport=udp".to_owned()];
        config.turn.shared_secret = Some("n0t4ctuAllymatr1Xd0TorgSshar3d5ecret4obvIousreAsons".to_owned());
    })
    .await;
    let ann = server.with_user("ann").await;
    let answer = ann.get(TURN).await.ok();
    let until = server.ctx.clock.now() / 1000 + 3600;
    assert_eq!(answer["username"], format!("{until}:{}", ann.id));
    assert_eq!((&answer["uris"][0], &answer["ttl"]), (&json!("turn:turn.test?transport=udp"), &json!(3600)));
    // What `openssl dgst -sha1 -hmac` says.
    assert_eq!(answer["password"], "hVk8ABmmFxi0Ch4GaQqsevUIDL0=");
    server.get(TURN).await.is("401 M_MISSING_TOKEN");
}

#[tokio::test]
async fn a_turn_server_may_have_one_password_for_all() {
    let server = server_with(|config| {
        config.turn.uris = vec!["turn:turn.test".to_owned()];
        (config.turn.username, config.turn.password) = (Some("house".to_owned()), Some("pass".to_owned()));
    })
    .await;
    let ann = server.with_user("ann").await;
    let expected = json!({ "username": "house", "password": "pass", "uris": ["turn:turn.test"], "ttl": 3600 });
    assert_eq!(ann.get(TURN).await.ok(), expected);
}

#[tokio::test]
async fn clients_find_what_calls_go_through() {
    const PATHS: [&str; 2] =
        ["/_matrix/client/v1/rtc/transports", "/_matrix/client/unstable/org.matrix.msc4143/rtc/transports"];
    const FILE: &str = "/.well-known/matrix/client";
    let none = server().await;
    assert_eq!(none.get(PATHS[0]).await.ok(), json!({ "rtc_transports": [] }));
    assert_eq!(none.get(FILE).await.ok()["org.matrix.msc4143.rtc_foci"], Value::Null);
    let url = "https://call.test/livekit/jwt";
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("ingle.toml");
    std::fs::write(&file, format!("[rtc]\nlivekit_service_url = \"{url}\"\n")).expect("a file");
    let written = ingle::config::load(&file).expect("a good file");
    let server = server_with(|config| config.rtc = written.rtc).await;
    let expected = json!([{ "type": "livekit", "livekit_service_url": url }]);
    for path in PATHS {
        assert_eq!(server.get(path).await.ok()["rtc_transports"], expected);
    }
    assert_eq!(server.get(FILE).await.ok()["org.matrix.msc4143.rtc_foci"], expected);
}
