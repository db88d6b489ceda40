//! What encryption needs between servers: messages to devices, and whose keys have changed.

use std::time::Duration;

use ingle::{
    e2ee::device_lists,
    rooms::{create::create, joining},
    store::schema::numbers,
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
async fn a_new_device_is_noticed_on_the_other_server() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    together(&a, &ann, &bob).await;
    let since = ann.get("/_matrix/client/v3/sync").await.ok()["next_batch"].as_str().expect("a token").to_owned();
    let mut write = b.ctx.store.write();
    let number = numbers::find_user(&b.ctx.store, &bob.id).expect("rows").expect("bob");
    device_lists::record(&mut write, number).expect("rows");
    write.commit().expect("a commit").published().await.expect("on the disk");
    let mut log = a.ctx.store.watch();
    let looking = async {
        loop {
            let answer = ann.get(&format!("/_matrix/client/v3/sync?timeout=0&since={since}")).await.ok();
            if answer["device_lists"]["changed"].as_array().is_some_and(|users| users.contains(&json!(bob.id))) {
                return;
            }
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looking).await.expect("ann is told");
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
