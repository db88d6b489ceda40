//! Keys that a server vouches for: what that costs their owner, and this server.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::StatusCode;
use ingle::{
    protocol::{
        canonical,
        sign::{KeyPair, sign_json},
    },
    remote::keys::Purpose,
    store::schema::federation::SERVER_KEYS,
};
use serde_json::{Value, json};

use crate::harness::{Network, Server, network};

/// Lets a server answer with 40 keys that it has given up, others each time. Counts how often it is asked.
fn answers_with_ever_more_keys(network: &Network, server: &Server) -> Arc<AtomicU64> {
    let asked = Arc::new(AtomicU64::new(0));
    let (count, ctx) = (Arc::clone(&asked), server.ctx.clone());
    network.answers(server, "/_matrix/key/v2/server", move |_| {
        let nth = count.fetch_add(1, Ordering::Relaxed) + 1;
        let key = KeyPair::from_seed(&[5; 32], "old").public().to_base64();
        let old: serde_json::Map<_, _> = (0..40)
            .map(|at| (format!("ed25519:old_{nth}_{at}"), json!({ "key": key, "expired_ts": nth * 100 + at })))
            .collect();
        let mut answer = ctx.remote.own_keys();
        answer.remove("signatures");
        answer
            .insert("old_verify_keys".to_owned(), canonical::Value::Object(canonical::to_object(&old).expect("keys")));
        sign_json(&mut answer, ctx.config.server_name.as_str(), &ctx.remote.key);
        (StatusCode::OK, serde_json::from_str(&canonical::write_object(&answer)).expect("JSON"))
    });
    asked
}

/// What the notary says of b's keys, to somebody who wants them to be valid for a year.
async fn query(notary: &Server) -> Value {
    let until = notary.ctx.clock.now() + 365 * 24 * 3_600_000;
    let path = format!("/_matrix/key/v2/query/b.example?minimum_valid_until_ts={until}");
    notary.get(&path).await.ok()["server_keys"].clone()
}

#[tokio::test]
async fn a_notary_bothers_nobody_more_than_once_a_minute() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let asked = answers_with_ever_more_keys(&network, &b);
    for _ in 0..3 {
        let keys = query(&a).await;
        assert_eq!(keys[0]["server_name"], "b.example");
        assert!(keys[0]["signatures"]["a.example"].is_object() && keys[0]["signatures"]["b.example"].is_object());
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    a.later(Duration::from_secs(60));
    query(&a).await;
    assert_eq!(asked.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_server_with_ever_more_keys_fills_no_disk() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    answers_with_ever_more_keys(&network, &b);
    for _ in 0..4 {
        query(&a).await;
        a.later(Duration::from_secs(60));
    }
    let rows = a.ctx.store.scan(SERVER_KEYS, &("b.example".to_owned(),));
    let kept: Vec<String> = rows.map(|row| row.expect("a row").0.1).collect();
    assert_eq!(kept.len(), 50);
    // The key in use, the newest, and of those before them the latest.
    let has = |id: &str| kept.iter().any(|kept| kept == id);
    assert_eq!(["ed25519:net", "ed25519:old_4_0", "ed25519:old_3_39", "ed25519:old_3_31"].map(has), [true; 4]);
    assert!(!has("ed25519:old_3_30") && !has("ed25519:old_2_39"), "{kept:?}");
}

#[tokio::test]
async fn no_key_is_believed_for_longer_than_a_week() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let ctx = b.ctx.clone();
    network.answers(&b, "/_matrix/key/v2/server", move |_| {
        let mut answer = ctx.remote.own_keys();
        answer.remove("signatures");
        answer.insert("valid_until_ts".to_owned(), canonical::Value::Int(9_000_000_000_000));
        sign_json(&mut answer, ctx.config.server_name.as_str(), &ctx.remote.key);
        (StatusCode::OK, serde_json::from_str(&canonical::write_object(&answer)).expect("JSON"))
    });
    let path = "/_matrix/federation/v1/query/profile?user_id=%40ann%3Aa.example";
    b.ask_server(&a, http::Method::GET, path, None).await.is("404 M_NOT_FOUND");
    let known = || {
        let now = Purpose::Now(a.ctx.clock.now());
        a.ctx.remote.known_key(&b.ctx.config.server_name, "ed25519:net", now).is_some()
    };
    a.later(Duration::from_secs(7 * 24 * 3_600));
    assert!(known());
    a.later(Duration::from_secs(1));
    assert!(!known());
    // It is asked for again.
    b.ask_server(&a, http::Method::GET, path, None).await.is("404 M_NOT_FOUND");
    assert!(known());
}
