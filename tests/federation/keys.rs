//! What encryption needs between servers: messages to devices, and whose keys have changed.

use std::time::Duration;

use http::Method;
use ingle::{
    protocol::{
        canonical,
        sign::{KeyPair, sign_json},
    },
    rooms::{create::create, joining},
    store::schema::{
        e2ee::{REMOTE_LISTS, RemoteListRow, STREAMS, StreamRow},
        federation::PARTED,
        numbers,
    },
};
use ruma::api::client::room::create_room::v3::{Request, RoomPreset};
use serde_json::{Value, json};

use crate::harness::{Server, User, network};

/// Syncs until `found` says what the scene waits for.
async fn waits_for<T>(user: &User, found: impl Fn(&Value) -> Option<T>) -> T {
    let mut log = user.server.ctx.store.watch();
    let looking = async {
        let mut since = String::new();
        loop {
            let answer = user.get(&format!("/_matrix/client/v3/sync?timeout=0{since}")).await.ok();
            if let Some(found) = found(&answer) {
                return found;
            }
            since = format!("&since={}", answer["next_batch"].as_str().expect("a token"));
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.expect("it comes")
}

async fn together(a: &Server, ann: &User, bob: &User) {
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PublicChat);
    let (room, ticket) = create(&a.ctx.rooms, &ann.id, request).expect("a room");
    ticket.published().await.expect("a room on the disk");
    let servers = vec![a.ctx.config.server_name.clone()];
    joining::join(&bob.server.ctx.rooms, &room.id, &bob.id, servers, Default::default()).await.expect("a join");
}

#[tokio::test]
async fn a_message_reaches_a_device_on_another_server_once() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let messages = json!({ "messages": { bob.id.as_str(): { bob.device.as_str(): { "secret": 7 } } } });
    for _ in 0..2 {
        ann.put("/_matrix/client/v3/sendToDevice/m.test/one", messages.clone()).await.ok();
    }
    let events = waits_for(&bob, |answer| answer["to_device"]["events"].as_array().cloned()).await;
    let expected = json!([{ "type": "m.test", "sender": ann.id, "content": { "secret": 7 } }]);
    assert_eq!(Value::Array(events), expected);
}

#[tokio::test]
async fn keys_are_asked_of_the_server_that_has_them() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let wanted = json!({ "device_keys": { bob.id.as_str(): [] } });
    let answer = ann.post("/_matrix/client/v3/keys/query", wanted.clone()).await.ok();
    assert_eq!(
        (&answer["device_keys"], &answer["failures"]),
        (&json!({ bob.id.as_str(): {} }), &json!({})),
        "{answer}"
    );
    network.away(&b);
    let answer = ann.post("/_matrix/client/v3/keys/query", wanted).await.ok();
    assert!(answer["failures"]["b.example"].is_object(), "{answer}");
}

/// Uploads the identity keys of a user's device.
pub(super) async fn upload(user: &User) {
    let device = user.device.as_str();
    let mut seed = [9; 32];
    device.bytes().zip(&mut seed).for_each(|(byte, place)| *place = byte);
    let key = KeyPair::from_seed(&seed, device);
    let keys = json!({
        "user_id": user.id, "device_id": device, "algorithms": [],
        "keys": { format!("ed25519:{device}"): key.public().to_base64() },
    });
    let mut keys = canonical::to_object(&keys).expect("an object");
    sign_json(&mut keys, user.id.as_str(), &key);
    let keys: Value = serde_json::from_str(&canonical::write_object(&keys)).expect("JSON");
    user.post("/_matrix/client/v3/keys/upload", json!({ "device_keys": keys })).await.ok();
}

fn master_key(user: &User, name: u8) -> Value {
    let public = KeyPair::from_seed(&[name; 32], "x").public().to_base64();
    json!({ "user_id": user.id, "usage": ["master"], "keys": { format!("ed25519:{public}"): public } })
}

/// What somebody is told of another one's devices, with their names, and of their master key.
async fn sees(user: &User, other: &User) -> String {
    let query = json!({ "device_keys": { other.id.as_str(): [] } });
    let answer = user.post("/_matrix/client/v3/keys/query", query).await.ok();
    if answer["failures"] != json!({}) {
        return "failure".to_owned();
    }
    let devices = answer["device_keys"][other.id.as_str()].as_object().expect("devices");
    let name = |keys: &Value| keys["unsigned"]["device_display_name"].as_str().unwrap_or("?").to_owned();
    let mut names: Vec<_> = devices.values().map(name).collect();
    names.sort();
    let master = if answer["master_keys"][other.id.as_str()].is_object() { " and a master key" } else { "" };
    names.join(" ") + master
}

/// How a server keeps the list of another server's user.
fn kept(server: &Server, user: &User) -> Option<RemoteListRow> {
    let number = numbers::find_user(&server.ctx.store, &user.id).expect("rows")?;
    server.ctx.store.get(REMOTE_LISTS, &number).expect("rows")
}

/// Waits until something is so on a server.
async fn until(server: &Server, what: impl Fn() -> bool) {
    let mut log = server.ctx.store.watch();
    let looking = async {
        while !what() {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.expect("it becomes so");
}

async fn named(user: &User, name: &str) {
    let path = format!("/_matrix/client/v3/devices/{}", user.device);
    user.put(&path, json!({ "display_name": name })).await.ok();
}

#[tokio::test]
async fn devices_are_known_elsewhere_as_they_change() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    together(&a, &ann, &bob).await;
    upload(&bob).await;
    named(&bob, "phone").await;
    b.is_heard().await;
    let since = ann.get("/_matrix/client/v3/sync").await.ok()["next_batch"].as_str().expect("a token").to_owned();
    assert_eq!(sees(&ann, &bob).await, "phone");
    // What is kept holds without its server.
    network.away(&b);
    assert_eq!(sees(&ann, &bob).await, "phone");
    network.back(&b);
    let laptop = bob.log_in().await;
    upload(&laptop).await;
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(3) && !row.stale)).await;
    // From now on each change follows the one before, and nobody asks.
    named(&laptop, "laptop").await;
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(4))).await;
    assert_eq!(sees(&ann, &bob).await, "laptop phone");
    let keys = json!({ "master_key": master_key(&bob, 5) });
    let answer = bob.post("/_matrix/client/v3/keys/device_signing/upload", keys).await;
    answer.ok();
    let path = format!("/_matrix/client/v3/devices/{}", laptop.device);
    bob.delete(&path, json!({ "auth": bob.proof() })).await.ok();
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(5))).await;
    network.away(&b);
    assert_eq!(sees(&ann, &bob).await, "phone and a master key");
    let changes = ann.get(&format!("/_matrix/client/v3/sync?since={since}")).await.ok();
    assert_eq!(changes["device_lists"]["changed"], json!([bob.id]));
}

#[tokio::test]
async fn a_list_of_which_something_was_missed_is_asked_for_again() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    together(&a, &ann, &bob).await;
    upload(&bob).await;
    b.is_heard().await;
    assert_eq!(sees(&ann, &bob).await, "?");
    let edu = |user: &User, stream: u64, prev: u64| {
        let content = json!({
            "user_id": user.id, "device_id": "FORGED", "stream_id": stream, "prev_id": [prev],
            "keys": { "user_id": user.id, "device_id": "FORGED", "algorithms": [], "keys": {} },
        });
        json!({
            "origin": "b.example", "origin_server_ts": 1, "pdus": [],
            "edus": [{ "edu_type": "m.device_list_update", "content": content }],
        })
    };
    let put = async |name: &str, body: Value| {
        let uri = format!("/_matrix/federation/v1/send/{name}");
        b.ask_server(&a, Method::PUT, &uri, Some(body)).await.ok();
    };
    put("one", edu(&bob, 8, 7)).await;
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(1) && !row.stale)).await;
    assert_eq!(sees(&ann, &bob).await, "?");
    // Servers speak for their own users.
    put("two", edu(&ann, 2, 1)).await;
    assert_eq!(kept(&a, &ann), None);
    assert_eq!(sees(&bob, &ann).await, "");
    // While the server is away, the list is known to be old, and it is asked for afterwards.
    network.away(&b);
    let update = ingle::e2ee::elsewhere::Update { device: "NEW", stream: 30, prev: vec![29], ..Default::default() };
    ingle::e2ee::elsewhere::update(&a.ctx.e2ee, &bob.id, &update).await.expect("rows");
    assert_eq!(sees(&ann, &bob).await, "failure");
    network.back(&b);
    // Any request of that server shows that it is back.
    b.ask_server(&a, Method::GET, "/_matrix/federation/v1/query/profile?user_id=@ann:a.example", None).await.ok();
    until(&a, || kept(&a, &bob).is_some_and(|row| !row.stale)).await;
    assert_eq!(sees(&ann, &bob).await, "?");
}

#[tokio::test]
async fn after_a_restored_backup_no_number_is_given_out_twice() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    together(&a, &ann, &bob).await;
    upload(&bob).await;
    b.is_heard().await;
    sees(&ann, &bob).await;
    let number = numbers::find_user(&b.ctx.store, &bob.id).expect("rows").expect("bob");
    let mut write = b.ctx.store.write();
    write.put(STREAMS, &number, &StreamRow { number: 1, epoch: b.ctx.store.epoch() + 1 });
    write.commit().expect("a commit").published().await.expect("on the disk");
    named(&bob, "phone").await;
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream > Some(1_000_000) && !row.stale)).await;
    assert_eq!(sees(&ann, &bob).await, "phone");
}

#[tokio::test]
async fn nothing_is_kept_of_somebody_with_whom_no_room_is_shared() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    upload(&bob).await;
    assert_eq!(sees(&ann, &bob).await, "?");
    assert_eq!(kept(&a, &bob), None);
    together(&a, &ann, &bob).await;
    assert_eq!(sees(&ann, &bob).await, "?");
    assert!(kept(&a, &bob).is_some());
    let rooms = ann.get("/_matrix/client/v3/joined_rooms").await.ok();
    let room = rooms["joined_rooms"][0].as_str().expect("a room").to_owned();
    bob.leave(&room).await.ok();
    until(&a, || {
        a.ctx
            .rooms
            .membership(numbers::find_room(&a.ctx.store, (&*room).try_into().unwrap()).unwrap().unwrap(), &bob.id)
            .unwrap()
            == ruma::events::room::member::MembershipState::Leave
    })
    .await;
    // Nobody tells of changes any more, so what was kept is not shown.
    network.away(&b);
    assert_eq!(sees(&ann, &bob).await, "failure");
    network.back(&b);
    assert_eq!(sees(&ann, &bob).await, "?");
    assert_eq!(kept(&a, &bob), None);
}

#[tokio::test]
async fn who_meets_somebody_again_is_told_of_their_devices() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    upload(&bob).await;
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    sees(&ann, &bob).await;
    named(&bob, "phone").await;
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(2))).await;
    // He leaves, and what he changes meanwhile is nobody's business here. What is kept is that of before.
    bob.leave(&room).await.ok();
    b.is_heard().await;
    named(&bob, "new phone").await;
    b.is_heard().await;
    assert_eq!(kept(&a, &bob).map(|row| row.stream), Some(Some(2)));
    bob.join_via(&room, &a).await.ok();
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(3) && !row.stale)).await;
    // The same if it is she who leaves and comes back.
    ann.leave(&room).await.ok();
    a.is_heard().await;
    named(&bob, "old phone").await;
    b.is_heard().await;
    assert_eq!(kept(&a, &bob).map(|row| row.stream), Some(Some(3)));
    ann.join_via(&room, &b).await.ok();
    let met = || b.ctx.store.scan(PARTED, &()).any(|row| row.expect("a row").1 > 0);
    until(&b, met).await;
    b.later(Duration::from_secs(15));
    ingle::outbound::acquaintance::again(&b.ctx.rooms).expect("rows");
    until(&a, || kept(&a, &bob).is_some_and(|row| row.stream == Some(4) && !row.stale)).await;
    assert_eq!(sees(&ann, &bob).await, "old phone");
    assert!(b.ctx.store.scan(PARTED, &()).next().is_none());
}

#[tokio::test]
async fn a_message_is_taken_in_once_and_a_large_one_in_parts() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let message = |sender: &User, n: u64| {
        let content = json!({
            "sender": sender.id, "type": "m.test", "message_id": "same",
            "messages": { ann.id.as_str(): { "*": { "n": n } } },
        });
        json!({
            "origin": "b.example", "origin_server_ts": 1, "pdus": [],
            "edus": [{ "edu_type": "m.direct_to_device", "content": content }],
        })
    };
    let messages = json!({ ann.id.as_str(): { "*": 7 } });
    let nonsense = json!({ "sender": bob.id, "type": "m.test", "message_id": "other", "messages": messages });
    b.tell(&a, "m.direct_to_device", nonsense).await;
    for (at, sender) in [&ann, &bob, &bob].into_iter().enumerate() {
        let uri = format!("/_matrix/federation/v1/send/{at}");
        b.ask_server(&a, Method::PUT, &uri, Some(message(sender, at as u64))).await.ok();
    }
    let answer = ann.get("/_matrix/client/v3/sync").await.ok();
    assert_eq!(answer["to_device"]["events"].as_array().map(Vec::len), Some(1), "{answer}");
    assert_eq!(answer["to_device"]["events"][0]["content"]["n"], 1);
    // Three devices get more than one row of the outbox can hold.
    let mut devices = vec![bob.clone()];
    for _ in 0..2 {
        devices.push(bob.log_in().await);
    }
    let long = "x".repeat(50_000);
    let messages: serde_json::Map<_, _> =
        devices.iter().map(|user| (user.device.to_string(), json!({ "long": long }))).collect();
    let body = json!({ "messages": { bob.id.as_str(): messages } });
    ann.put("/_matrix/client/v3/sendToDevice/m.long/one", body).await.ok();
    for device in &devices {
        waits_for(device, |answer| answer["to_device"]["events"][0]["content"]["long"].as_str().map(str::to_owned))
            .await;
    }
}

/// Says with one's user-signing key that a master key is somebody else's.
fn signed_by(user: &User, name: u8, key: &Value) -> Value {
    let pair = KeyPair::from_seed(&[name; 32], KeyPair::from_seed(&[name; 32], "").public().to_base64());
    let mut key = canonical::to_object(key).expect("an object");
    sign_json(&mut key, user.id.as_str(), &pair);
    serde_json::from_str(&canonical::write_object(&key)).expect("JSON")
}

#[tokio::test]
async fn trust_in_somebody_on_another_server_is_kept_for_whoever_trusts() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    together(&a, &ann, &bob).await;
    let upload = "/_matrix/client/v3/keys/device_signing/upload";
    let public = KeyPair::from_seed(&[3; 32], "x").public().to_base64();
    let user_signing = json!({
        "user_id": ann.id, "usage": ["user_signing"], "keys": { format!("ed25519:{public}"): public },
    });
    let keys = json!({ "master_key": master_key(&ann, 2), "user_signing_key": signed_by(&ann, 2, &user_signing) });
    ann.post(upload, keys).await.ok();
    bob.post(upload, json!({ "master_key": master_key(&bob, 5) })).await.ok();
    let query = json!({ "device_keys": { bob.id.as_str(): [] } });
    let seen = async |user: &User| {
        let answer = user.post("/_matrix/client/v3/keys/query", query.clone()).await.ok();
        answer["master_keys"][bob.id.as_str()].clone()
    };
    let master = seen(&ann).await;
    let id = master["keys"].as_object().expect("keys").values().next().expect("a key").as_str().expect("a text");
    let signed = json!({ bob.id.as_str(): { id: signed_by(&ann, 3, &master) } });
    let answer = ann.post("/_matrix/client/v3/keys/signatures/upload", signed).await.ok();
    assert_eq!(answer["failures"], json!({}));
    assert!(seen(&ann).await["signatures"][ann.id.as_str()].is_object(), "{}", seen(&ann).await);
    // Nobody else sees it, and it is gone with the key.
    let cat = a.with_user("cat").await;
    assert_eq!(seen(&cat).await["signatures"][ann.id.as_str()], Value::Null);
    let new = json!({ "master_key": master_key(&bob, 6), "auth": bob.proof() });
    bob.post(upload, new).await.ok();
    until(&a, || !kept_master(&a, &bob).is_some_and(|key| key.contains(id))).await;
    assert_eq!(seen(&ann).await["signatures"][ann.id.as_str()], Value::Null);
}

fn kept_master(server: &Server, user: &User) -> Option<String> {
    use ingle::store::schema::e2ee::{REMOTE_IDENTITIES, usage};
    let number = numbers::find_user(&server.ctx.store, &user.id).expect("rows")?;
    server.ctx.store.get(REMOTE_IDENTITIES, &(number, usage::MASTER)).expect("rows")
}
