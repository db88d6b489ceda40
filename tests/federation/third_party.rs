//! Invites to people of whom only an e-mail address is known.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{Method, StatusCode};
use ingle::protocol::{
    canonical,
    sign::{KeyPair, sign_json},
};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::{Answer, Network, Server, User, network, quoted};

const BOB: &str = "bob@mail.example";

/// The key of the identity server, or of somebody who pretends to be one.
fn key(seed: u8) -> KeyPair {
    KeyPair::from_seed(&[seed; 32], "0")
}

/// An identity server that knows of one address whose it is, if `owner` says so.
fn identity(network: &Network, owner: Option<String>) {
    network.site("id.example", move |request| {
        let authorized = request.headers.get("authorization").is_some_and(|token| token == "Bearer secret");
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let answer = match request.uri.path() {
            "/valid" => json!({ "valid": true }),
            _ if !authorized => return (StatusCode::UNAUTHORIZED, json!({})),
            "/_matrix/identity/v2/hash_details" => json!({ "algorithms": ["none", "sha256"], "lookup_pepper": "salt" }),
            "/_matrix/identity/v2/lookup" => {
                let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(format!("{BOB} email salt")));
                assert_eq!(body["addresses"], json!([hash]));
                match &owner {
                    Some(owner) => json!({ "mappings": { hash: owner } }),
                    None => json!({ "mappings": {} }),
                }
            }
            "/_matrix/identity/v2/store-invite" => {
                assert_eq!((&body["address"], &body["room_name"]), (&json!(BOB), &json!("Kitchen")));
                let public = json!({
                    "public_key": key(9).public().to_base64(),
                    "key_validity_url": "https://id.example/valid",
                });
                json!({ "token": "t1", "public_keys": [public], "display_name": "b...@mail.example" })
            }
            _ => return (StatusCode::NOT_FOUND, json!({})),
        };
        (StatusCode::OK, answer)
    });
}

async fn invite(user: &User, room: &str, token: &str) -> Answer {
    let guest = json!({ "id_server": "id.example", "id_access_token": token, "medium": "email", "address": BOB });
    user.post(&format!("/_matrix/client/v3/rooms/{}/invite", quoted(room)), guest).await
}

/// The identity server tells that the address is Bob's.
async fn bind(b: &Server, ann: &User, bob: &User, room: &str, key: &KeyPair) -> Answer {
    let mut signed = canonical::to_object(&json!({ "mxid": bob.id, "token": "t1" })).expect("an object");
    sign_json(&mut signed, "id.example", key);
    let signed: Value = serde_json::from_str(&canonical::write_object(&signed)).expect("JSON");
    let invite = json!({
        "medium": "email", "address": BOB, "mxid": bob.id, "room_id": room, "sender": ann.id, "signed": signed,
    });
    let body = json!({ "medium": "email", "address": BOB, "mxid": bob.id, "invites": [invite] });
    b.ask(Method::PUT, "/_matrix/federation/v1/3pid/onbind", None, body.to_string()).await
}

#[tokio::test]
async fn whose_address_is_known_is_invited_as_usual() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    identity(&network, Some(bob.id.to_string()));
    let room = ann.create_room().await;
    invite(&ann, &room, "wrong").await.is("403 M_FORBIDDEN");
    invite(&ann, &room, "secret").await.ok();
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn an_invite_waits_until_somebody_proves_that_the_address_is_theirs() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let cat = a.with_user("cat").await;
    identity(&network, None);
    let room = ann.create_room().with("name", "Kitchen").with("preset", "private_chat").await;
    invite(&cat, &room, "secret").await.is("403 M_FORBIDDEN");
    invite(&ann, &room, "secret").await.ok();
    let offer = ann.state(&room, "m.room.third_party_invite", "t1").await.ok();
    assert_eq!(offer["display_name"], "b...@mail.example");
    // Nobody gets in whom the identity server has not vouched for.
    bind(&b, &ann, &bob, &room, &key(8)).await.ok();
    bob.join_via(&room, &a).await.is("403 M_FORBIDDEN");
    bind(&b, &ann, &bob, &room, &key(9)).await.ok();
    let sync = bob.get("/_matrix/client/v3/sync?timeout=0").await.ok();
    assert!(sync["rooms"]["invite"].get(&room).is_some(), "{sync}");
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn a_user_of_the_same_server_proves_it_too() {
    let network = network();
    let a = network.server("a.example").await;
    let (ann, bob) = a.with_users("ann", "bob").await;
    identity(&network, None);
    let by_address =
        json!([{ "id_server": "id.example", "id_access_token": "secret", "medium": "email", "address": BOB }]);
    let room = ann.create_room().with("name", "Kitchen").with("invite_3pid", by_address).await;
    bind(&a, &ann, &bob, &room, &key(9)).await.ok();
    bob.join(&room).await.ok();
    bind(&a, &ann, &ann, &room, &key(9)).await.ok();
}

#[tokio::test]
async fn whoever_shows_what_the_identity_server_has_signed_comes_in() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, cat) = a.with_users("ann", "cat").await;
    let bob = b.with_user("bob").await;
    identity(&network, None);
    let join = async |user: &User, room: &str, mxid: &User, key: &KeyPair| {
        let signed = json!({ "mxid": mxid.id, "sender": ann.id, "token": "t1" });
        let mut signed = canonical::to_object(&signed).expect("an object");
        sign_json(&mut signed, "id.example", key);
        let proof: Value = serde_json::from_str(&canonical::write_object(&signed)).expect("JSON");
        let path = format!("/_matrix/client/v3/join/{}?via=a.example", quoted(room));
        user.post(&path, json!({ "third_party_signed": proof })).await
    };
    for guest in [&bob, &cat] {
        let room = ann.create_room().with("name", "Kitchen").with("preset", "private_chat").await;
        invite(&ann, &room, "secret").await.ok();
        join(guest, &room, &ann, &key(9)).await.is("403 M_FORBIDDEN");
        join(guest, &room, guest, &key(8)).await.is("403 M_FORBIDDEN");
        join(guest, &room, guest, &key(9)).await.ok();
    }
}
