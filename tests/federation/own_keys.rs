//! A server that changes its key: what it publishes, and who believes what.

use std::time::Duration;

use http::Method;
use ingle::{
    protocol::{event::Event, sign::KeyPair},
    remote::{
        keys::Purpose,
        own_key::{GivenUp, OwnKeys},
    },
};
use ruma::RoomVersionId;

use super::{
    intake::{forge, message, send},
    rooms::{hears, join, public_room, say},
};
use crate::harness::{Network, Server, User, network};

/// The program started again after `ingle key rotate`.
async fn rotated(network: &Network, server: &Server, version: &str) -> Server {
    server.later(Duration::from_secs(60));
    let old = &server.ctx.remote.key;
    let old = GivenUp { id: old.id(), public: old.public(), since: server.ctx.clock.now() };
    let keys = OwnKeys { pair: KeyPair::from_seed(&[99; 32], version), given_up: vec![old] };
    let server = network.restart_with(server, keys).await;
    server.later(Duration::from_secs(60));
    server
}

#[tokio::test]
async fn old_and_new_events_are_believed_after_the_key_has_changed() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    say(&ann, &id, "with the old key").await;
    hears(&b, &id, &["with the old key"]).await;
    // One that nobody has got before, signed while the key was in use.
    let late = forge(&ann, &id, message(&ann, "late"), &[]);

    let a = rotated(&network, &a, "new").await;
    let ann = User { server: a.clone(), ..ann };
    say(&ann, &id, "with the new key").await;
    hears(&b, &id, &["with the old key", "with the new key"]).await;
    assert_eq!(send(&a, &b, "t1", &[&late]).await, Vec::<String>::new());
    hears(&b, &id, &["with the old key", "with the new key", "late"]).await;
    // Somebody who never met the old key gets the room from b, and its rules are signed with that key.
    let c = network.server("c.example").await;
    join(&c.with_user("cid").await, &id, &b).await;
    say(&ann, &id, "welcome").await;
    hears(&c, &id, &["welcome"]).await;
    // Its own old events come back to this server, too.
    let own = |purpose| a.ctx.remote.known_key(&a.ctx.config.server_name, "ed25519:net", purpose).is_some();
    let sent = late.origin_server_ts;
    let now = a.ctx.clock.now();
    assert_eq!([own(Purpose::Event(sent)), own(Purpose::Event(now)), own(Purpose::Now(now))], [true, false, false]);
    assert!(own(Purpose::AnyTime));
}

#[tokio::test]
async fn whoever_has_the_old_key_speaks_for_the_server_no_longer() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    let thief = a.clone();
    let a = rotated(&network, &a, "new").await;
    let ann = User { server: a.clone(), ..ann };
    say(&ann, &id, "with the new key").await;
    hears(&b, &id, &["with the new key"]).await;
    let forged: Event = forge(&User { server: thief.clone(), ..ann.clone() }, &id, message(&ann, "forged"), &[]);
    // Neither a request of the thief's, nor an event that was signed after the key was given up.
    let refused =
        thief.ask_server(&b, Method::GET, "/_matrix/federation/v1/query/profile?user_id=%40bob%3Ab.example", None);
    assert_eq!(refused.await.summary(), "401 M_UNAUTHORIZED");
    let refused = send(&a, &b, "t1", &[&forged]).await;
    assert_eq!(refused.len(), 1, "{refused:?}");
}

#[tokio::test]
async fn the_keys_are_published_with_those_given_up() {
    let network = network();
    let a = network.server("a.example").await;
    let since = a.ctx.clock.now() + 60_000;
    let old = a.ctx.remote.key.public().to_base64();
    let a = rotated(&network, &a, "new").await;
    let keys = a.get("/_matrix/key/v2/server").await.ok();
    assert_eq!(keys["verify_keys"]["ed25519:new"]["key"], a.ctx.remote.key.public().to_base64());
    assert_eq!(keys["verify_keys"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(keys["old_verify_keys"]["ed25519:net"]["key"], old);
    assert_eq!(keys["old_verify_keys"]["ed25519:net"]["expired_ts"], since);
    assert_eq!(keys["old_verify_keys"].as_object().map(serde_json::Map::len), Some(1));
    // The same for whoever asks in the old form.
    assert_eq!(a.get("/_matrix/key/v2/server/ed25519:net").await.ok(), keys);
    // And it outlives the next start.
    let a = network.restart(&a).await;
    assert_eq!(a.get("/_matrix/key/v2/server/").await.ok(), keys);
}
