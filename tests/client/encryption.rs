//! Keys, messages between devices and backups, as clients use them.

use std::{fmt::Write as _, path::Path, sync::Arc};

use ingle::{
    app::{App, SWEEPS},
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::{
        canonical::{self, Object},
        hash::base64,
        sign::{KeyPair, sign_json},
    },
    remote::transport::Island,
    store::{Options, Store},
};
use serde_json::{Value, json};

use crate::harness::{Server, User, server};

const V3: &str = "/_matrix/client/v3";
const DEHYDRATED: &str = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device";

/// A key that follows from a name; a device's key has the device's ID as its version.
fn key(name: &str, version: &str) -> KeyPair {
    let mut seed = [1; 32];
    name.bytes().zip(&mut seed).for_each(|(byte, place)| *place = byte);
    KeyPair::from_seed(&seed, version)
}

fn signed(value: Value, user: &User, by: &KeyPair) -> Value {
    let mut object: Object = canonical::to_object(&value).expect("an object");
    sign_json(&mut object, user.id.as_str(), by);
    serde_json::from_str(&canonical::write_object(&object)).expect("JSON")
}

fn device_keys(user: &User, device: &str) -> Value {
    let by = key(device, device);
    let keys = json!({ format!("ed25519:{device}"): by.public().to_base64() });
    signed(json!({ "user_id": user.id, "device_id": device, "algorithms": [], "keys": keys }), user, &by)
}

fn one_time(user: &User, device: &str, names: &[&str]) -> Value {
    let mut keys = json!({});
    for name in names {
        let bytes: Vec<u8> = name.bytes().cycle().take(32).collect();
        let object = signed(json!({ "key": base64(&bytes) }), user, &key(device, device));
        keys[format!("signed_curve25519:{name}")] = object;
    }
    keys
}

/// Uploads the keys of a user's device with one-time keys.
async fn upload(user: &User, names: &[&str]) -> Value {
    let device = user.device.as_str();
    let body = json!({ "device_keys": device_keys(user, device), "one_time_keys": one_time(user, device, names) });
    user.post(&format!("{V3}/keys/upload"), body).await.ok()
}

fn cross_signing(user: &User, name: &str) -> Value {
    let public = |kind: &str| key(&format!("{kind} {name}"), "").public().to_base64();
    let pair = |kind: &str| key(&format!("{kind} {name}"), &public(kind));
    let object = |kind: &str| json!({ "user_id": user.id, "usage": [kind], "keys": { format!("ed25519:{}", public(kind)): public(kind) } });
    json!({
        "master_key": object("master"),
        "self_signing_key": signed(object("self_signing"), user, &pair("master")),
        "user_signing_key": signed(object("user_signing"), user, &pair("master")),
    })
}

async fn sync(user: &User, since: &str) -> Value {
    let since = if since.is_empty() { String::new() } else { format!("?since={since}") };
    user.get(&format!("{V3}/sync{since}")).await.ok()
}

fn token(answer: &Value) -> &str {
    answer["next_batch"].as_str().expect("a token")
}

/// What a sync says of devices, on one line.
fn devices(answer: &Value) -> String {
    let mut out = String::new();
    let names = |list: &Value| {
        let names = list.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.map(|user| user.split(':').next().unwrap_or_default()).collect::<Vec<_>>().join(" ")
    };
    let lists = &answer["device_lists"];
    let _ = write!(out, "changed [{}] left [{}]", names(&lists["changed"]), names(&lists["left"]));
    for event in answer["to_device"]["events"].as_array().into_iter().flatten() {
        let _ = write!(out, " {}", event["content"]["n"]);
    }
    out
}

#[tokio::test]
async fn a_key_is_uploaded_found_and_claimed_once() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    assert_eq!(upload(&ann, &["one"]).await, json!({ "one_time_key_counts": { "signed_curve25519": 1 } }));
    let query = json!({ "device_keys": { &ann.id: [], "@nobody:localhost": [], "@eve:elsewhere": [] } });
    let found = bob.post(&format!("{V3}/keys/query"), query).await.ok();
    let keys = &found["device_keys"][ann.id.as_str()][ann.device.as_str()];
    assert_eq!(keys["keys"], device_keys(&ann, ann.device.as_str())["keys"]);
    assert!(found["failures"]["elsewhere"].is_object() && found["failures"].as_object().unwrap().len() == 1);
    assert_eq!(found["device_keys"].as_object().unwrap().len(), 1);

    let claim = json!({ "one_time_keys": { &ann.id: { &ann.device: "signed_curve25519" } } });
    let first = bob.post(&format!("{V3}/keys/claim"), claim.clone()).await.ok();
    let key = &first["one_time_keys"][ann.id.as_str()][ann.device.as_str()]["signed_curve25519:one"];
    assert_eq!(*key, one_time(&ann, ann.device.as_str(), &["one"])["signed_curve25519:one"]);
    let second = bob.post(&format!("{V3}/keys/claim"), claim).await.ok();
    assert_eq!(second, json!({ "failures": {}, "one_time_keys": {} }));
    assert_eq!(sync(&ann, "").await["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
}

/// A server over a folder, as `ingle serve` opens it.
fn on_disk(folder: &Path) -> Server {
    let options = Options { sweeps: SWEEPS, min_free: 0, reserve: 0, ..Options::new(folder) };
    let (store, key) = (Store::open(options).expect("a store"), KeyPair::from_seed(&[7; 32], "test"));
    let (clock, chance) = (Clock::by_hand(1_782_000_000_000), Chance::seeded(7));
    Server::new(App::new(Config::for_tests(), clock, chance, store, key, Arc::new(Island)).expect("good rows"))
}

#[tokio::test]
async fn a_restored_server_hands_out_no_one_time_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let server = on_disk(&old);
    let (ann, bob) = server.with_users("ann", "bob").await;
    upload(&ann, &["one", "two"]).await;
    let archive = server.ctx.store.archive().expect("an archive");
    let claim = json!({ "one_time_keys": { &ann.id: { &ann.device: "signed_curve25519" } } });
    let first = bob.post(&format!("{V3}/keys/claim"), claim.clone()).await.ok();
    assert!(first["one_time_keys"][ann.id.as_str()].is_object());

    Store::restore(&Options { min_free: 0, reserve: 0, ..Options::new(&new) }, &archive).expect("restored");
    let restored = on_disk(&new);
    let [ann, bob] = [ann, bob].map(|user| User { server: restored.clone(), ..user });
    let second = bob.post(&format!("{V3}/keys/claim"), claim.clone()).await.ok();
    assert_eq!(second["one_time_keys"], json!({}));
    assert_eq!(sync(&ann, "").await["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
    let found = bob.post(&format!("{V3}/keys/query"), json!({ "device_keys": { &ann.id: [] } })).await.ok();
    assert!(found["device_keys"][ann.id.as_str()][ann.device.as_str()].is_object(), "the device is still known");
    // The client uploads others, which stay at the next start.
    upload(&ann, &["three"]).await;
    let (id, device, token) = (ann.id.clone(), ann.device.clone(), ann.token.clone());
    drop((ann, bob, restored));
    let ann = User { server: on_disk(&new), id, device, token };
    assert_eq!(sync(&ann, "").await["device_one_time_keys_count"], json!({ "signed_curve25519": 1 }));
}

#[tokio::test]
async fn bad_uploads_leave_no_trace() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let (device, trace) = (ann.device.as_str(), ann.server.trace());
    let path = format!("{V3}/keys/upload");
    let wrong = |change: &dyn Fn(&mut Value)| {
        let mut keys = device_keys(&ann, device);
        change(&mut keys);
        json!({ "device_keys": keys })
    };
    for (body, expected) in [
        (json!({ "device_keys": device_keys(&bob, device) }), "400 M_INVALID_PARAM"),
        (json!({ "device_keys": device_keys(&ann, "OTHER") }), "400 M_INVALID_PARAM"),
        (wrong(&|keys| keys["algorithms"] = json!(["forged"])), "400 M_INVALID_SIGNATURE"),
        (wrong(&|keys| keys["signatures"] = json!({})), "400 M_INVALID_SIGNATURE"),
        (wrong(&|keys| keys["long"] = "x".repeat(20_000).into()), "413 M_TOO_LARGE"),
        (wrong(&|keys| keys["float"] = 1.5.into()), "400 M_BAD_JSON"),
        (json!({ "one_time_keys": one_time(&ann, device, &["early"]) }), "400 M_INVALID_PARAM"),
        (json!({ "one_time_keys": { "no colon": {} } }), "400 M_BAD_JSON"),
        (json!({ "one_time_keys": { "rot13:x": "text" } }), "400 M_BAD_JSON"),
        (json!({ "device_keys": "x".repeat(2 << 20) }), "413 M_TOO_LARGE"),
    ] {
        ann.post(&path, body).await.is(expected);
    }
    assert_eq!(ann.server.trace(), trace);
}

#[tokio::test]
async fn a_message_waits_until_its_device_has_it() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let start = sync(&bob, "").await;
    for at in [1, 1, 2] {
        let body = json!({ "messages": { &bob.id: { "*": { "n": at } } } });
        ann.put(&format!("{V3}/sendToDevice/m.test/txn{at}"), body).await.ok();
    }
    let first = sync(&bob, token(&start)).await;
    assert_eq!(devices(&first), "changed [] left [] 1 2");
    assert_eq!(first["to_device"]["events"][0]["sender"], ann.id.as_str());
    // The answer got lost.
    assert_eq!(devices(&sync(&bob, token(&start)).await), "changed [] left [] 1 2");
    assert_eq!(devices(&sync(&bob, token(&first)).await), "changed [] left []");
    assert_eq!(devices(&sync(&bob, token(&start)).await), "changed [] left []");
    let trace = ann.server.trace();
    let body = json!({ "messages": { &bob.id: { "*": "no object" } } });
    ann.put(&format!("{V3}/sendToDevice/m.test/txn3"), body).await.is("400 M_BAD_JSON");
    assert_eq!(ann.server.trace(), trace);
}

#[tokio::test]
async fn many_messages_come_in_batches_and_none_is_skipped() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    for at in 0..230 {
        let body = json!({ "messages": { &bob.id: { &bob.device: { "n": at } } } });
        ann.put(&format!("{V3}/sendToDevice/m.test/{at}"), body).await.ok();
    }
    let (mut seen, mut since) = (Vec::new(), String::new());
    for expected in [100, 100, 30, 0] {
        let answer = sync(&bob, &since).await;
        let events = answer["to_device"]["events"].as_array().cloned().unwrap_or_default();
        assert_eq!(events.len(), expected);
        seen.extend(events.iter().filter_map(|event| event["content"]["n"].as_u64()));
        since = token(&answer).to_owned();
    }
    assert_eq!(seen, (0..230).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_new_device_is_announced_and_a_removed_one_too() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let tablet = ann.log_in().await;
    let (anns, bobs) = (sync(&ann, "").await, sync(&bob, "").await);
    upload(&tablet, &[]).await;
    let (anns, bobs) = (sync(&ann, token(&anns)).await, sync(&bob, token(&bobs)).await);
    assert_eq!([devices(&anns), devices(&bobs)], ["changed [@ann] left []", "changed [] left []"]);
    let changes = format!("{V3}/keys/changes?from={0}&to={0}", token(&anns));
    assert_eq!(ann.get(&changes).await.ok(), json!({ "changed": [], "left": [] }));
    ann.get(&format!("{V3}/keys/changes?from=x&to=y")).await.is("400 M_INVALID_PARAM");
    // A token of sliding sync is as good, and one of another life of the server means everything.
    let slid = ann.post("/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", json!({})).await.ok();
    let pos = slid["pos"].as_str().expect("a pos");
    let changes = format!("{V3}/keys/changes?from={pos}&to={pos}");
    assert_eq!(ann.get(&changes).await.ok(), json!({ "changed": [], "left": [] }));
    let changes = format!("{V3}/keys/changes?from=s99.1.1.1&to={pos}");
    assert_eq!(ann.get(&changes).await.ok()["changed"], json!([ann.id]));

    ann.delete(&format!("{V3}/devices/{}", tablet.device), json!({ "auth": ann.proof() })).await.ok();
    assert_eq!(devices(&sync(&ann, token(&anns)).await), "changed [@ann] left []");
    let query = json!({ "device_keys": { &ann.id: [] } });
    let found = bob.post(&format!("{V3}/keys/query"), query).await.ok();
    assert_eq!(found["device_keys"][ann.id.as_str()], json!({}));
    tablet.get(&format!("{V3}/account/whoami")).await.is("401 M_UNKNOWN_TOKEN");
}

#[tokio::test]
async fn cross_signing_keys_are_replaced_with_the_password_only() {
    let ann = server().await.with_user("ann").await;
    let path = format!("{V3}/keys/device_signing/upload");
    ann.post(&path, cross_signing(&ann, "first")).await.ok();
    ann.post(&path, cross_signing(&ann, "first")).await.ok();
    let trace = ann.server.trace();
    let mut second = cross_signing(&ann, "second");
    let asked = ann.post(&path, second.clone()).await;
    assert_eq!((asked.summary(), &asked["flows"][0]["stages"]), ("401".to_owned(), &json!(["m.login.password"])));
    assert_eq!(ann.server.trace(), trace);
    let mut proof = ann.proof();
    proof["session"] = asked["session"].clone();
    second["auth"] = proof;
    ann.post(&path, second).await.ok();
    let query = json!({ "device_keys": { &ann.id: [] } });
    let found = ann.post(&format!("{V3}/keys/query"), query).await.ok();
    assert_eq!(found["master_keys"][ann.id.as_str()]["keys"], cross_signing(&ann, "second")["master_key"]["keys"]);

    let unknown = json!({ &ann.id: { "nothing": { "user_id": ann.id } } });
    let failures = ann.post(&format!("{V3}/keys/signatures/upload"), unknown).await.ok();
    assert_eq!(failures["failures"][ann.id.as_str()]["nothing"]["errcode"], "M_NOT_FOUND");
}

#[tokio::test]
async fn a_backup_is_written_and_read() {
    let ann = server().await.with_user("ann").await;
    let version = format!("{V3}/room_keys/version");
    ann.get(&version).await.is("404 M_NOT_FOUND");
    let description =
        json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "x" } });
    assert_eq!(ann.post(&version, description.clone()).await.ok(), json!({ "version": "1" }));
    let data =
        json!({ "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": { "x": 1 } });
    let rooms = json!({ "rooms": { "!a:test": { "sessions": { "s": data, "t": data } }, "!b:test": { "sessions": { "u": data } } } });
    let keys = format!("{V3}/room_keys/keys");
    assert_eq!(ann.put(&format!("{keys}?version=1"), rooms.clone()).await.ok(), json!({ "etag": "1", "count": 3 }));
    assert_eq!(ann.get(&format!("{keys}?version=1")).await.ok(), rooms);
    assert_eq!(ann.get(&format!("{keys}/!a:test?version=1")).await.ok(), rooms["rooms"]["!a:test"]);
    assert_eq!(ann.get(&format!("{keys}/!c:test?version=1")).await.ok(), json!({ "sessions": {} }));
    assert_eq!(ann.get(&format!("{keys}/!a:test/t?version=1")).await.ok(), data);
    ann.get(&format!("{keys}/!a:test/x?version=1")).await.is("404 M_NOT_FOUND");
    ann.get(&format!("{keys}?version=7")).await.is("404 M_NOT_FOUND");
    let bad = json!({ "sessions": { "s": { "first_message_index": "text" } } });
    ann.put(&format!("{keys}/!a:test?version=1"), bad).await.is("400 M_BAD_JSON");
    let shown = ann.get(&format!("{version}/1")).await.ok();
    assert_eq!(
        (&shown["auth_data"], &shown["count"], &shown["etag"]),
        (&json!({ "public_key": "x" }), &json!(3), &json!("1"))
    );

    ann.post(&version, description.clone()).await.ok();
    let refused = ann.put(&format!("{keys}?version=1"), rooms).await;
    assert_eq!(refused["current_version"], "2");
    refused.is("403 M_WRONG_ROOM_KEYS_VERSION");
    let mut other = description.clone();
    other["algorithm"] = "other".into();
    ann.put(&format!("{version}/2"), other).await.is("400 M_INVALID_PARAM");
    ann.put(&format!("{version}/2"), description).await.ok();
    ann.delete(&format!("{keys}/!b:test?version=1"), json!({})).await.ok();
    assert_eq!(ann.delete(&format!("{keys}?version=1"), json!({})).await.ok()["count"], 0);
    assert_eq!(ann.get(&format!("{keys}?version=1")).await.ok(), json!({ "rooms": {} }));
    ann.delete(&format!("{version}/1"), json!({})).await.ok();
    ann.get(&format!("{version}/1")).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn a_dehydrated_device_gets_messages_and_gives_them_out() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    ann.get(DEHYDRATED).await.is("404 M_NOT_FOUND");
    let data = json!({ "algorithm": "org.matrix.msc3814.v2", "device_pickle": "secret", "nonce": "n" });
    let body = |id: &str| {
        json!({
            "device_id": id, "device_data": data, "initial_device_display_name": "asleep",
            "device_keys": device_keys(&ann, id), "one_time_keys": one_time(&ann, id, &["one"]),
        })
    };
    ann.put(DEHYDRATED, body("DRY")).await.ok();
    ann.put(DEHYDRATED, body(ann.device.as_str())).await.is("400 M_INVALID_PARAM");
    assert_eq!(ann.get(DEHYDRATED).await.ok(), json!({ "device_id": "DRY", "device_data": data }));
    let message = json!({ "messages": { &ann.id: { "*": { "n": 1 } } } });
    bob.put(&format!("{V3}/sendToDevice/m.test/1"), message).await.ok();
    let path = format!("{DEHYDRATED}/DRY/events");
    let first = ann.post(&path, json!({})).await.ok();
    assert_eq!(first["events"][0]["content"]["n"], 1);
    let last = ann.post(&path, json!({ "next_batch": first["next_batch"] })).await.ok();
    assert_eq!(last["events"], json!([]));
    ann.post(&format!("{DEHYDRATED}/WET/events"), json!({})).await.is("404 M_NOT_FOUND");
    ann.put(DEHYDRATED, body("DRY2")).await.ok();
    let query = json!({ "device_keys": { &ann.id: [] } });
    let found = bob.post(&format!("{V3}/keys/query"), query).await.ok();
    let devices: Vec<_> = found["device_keys"][ann.id.as_str()].as_object().into_iter().flatten().collect();
    assert_eq!((devices.len(), devices[0].0.as_str()), (1, "DRY2"));
    assert_eq!(devices[0].1["unsigned"]["device_display_name"], "asleep");
    assert_eq!(ann.delete(DEHYDRATED, json!({})).await.ok(), json!({ "device_id": "DRY2" }));
    ann.get(DEHYDRATED).await.is("404 M_NOT_FOUND");
}
