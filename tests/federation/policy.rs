//! Rooms with a policy server: it is asked before anybody is heard.

use http::StatusCode;
use ingle::{
    protocol::{
        canonical,
        sign::{KeyPair, sign_event},
        version::by_name,
    },
    store::schema::events::Standing,
};
use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    intake::{forge, message, send, standing},
    rooms::{hears, join, messages, public_room},
};
use crate::harness::{Answer, Network, Server, User, network};

fn key() -> KeyPair {
    KeyPair::from_seed(&[9; 32], "policy_server")
}

/// Signs everything but spam.
fn look_at(pdu: &Value) -> (StatusCode, Value) {
    if pdu["content"]["body"].as_str().is_some_and(|body| body.contains("spam")) {
        return (StatusCode::BAD_REQUEST, json!({ "errcode": "M_FORBIDDEN", "error": "we do not like this" }));
    }
    let mut pdu = canonical::to_object(pdu).expect("an event");
    pdu.remove("signatures");
    sign_event(&mut pdu, "p.example", &key(), by_name("11").expect("a version"));
    let signatures = canonical::write(&pdu["signatures"]);
    (StatusCode::OK, serde_json::from_str(&signatures).expect("JSON"))
}

struct Scene {
    network: Network,
    /// The policy server's.
    p: Server,
    ann: User,
    bob: User,
    pat: User,
    id: OwnedRoomId,
}

/// A room of Ann's with Bob, and with Pat of the policy server.
async fn scene() -> Scene {
    let network = network();
    let a = network.server("a.example").await;
    let (b, p) = (network.server("b.example").await, network.server("p.example").await);
    let (ann, bob, pat) = (a.with_user("ann").await, b.with_user("bob").await, p.with_user("pat").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&pat, &id, &a).await;
    join(&bob, &id, &a).await;
    network.answers(&p, "/_matrix/policy/v1/sign", look_at);
    let scene = Scene { network, p, ann, bob, pat, id };
    scene.name(json!({ "via": "p.example", "public_keys": { "ed25519": key().public().to_base64() } })).await;
    scene
}

impl Scene {
    /// Names a policy server, or none.
    async fn name(&self, content: Value) {
        let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.policy/", self.id);
        self.ann.put(&path, content).await.ok();
        let newest = {
            let rooms = &self.ann.server.ctx.rooms;
            let head = rooms.published(rooms.find(&self.id).expect("the room").number).expect("a head");
            rooms.known(head.extremities[0]).expect("an event").event.event_id.clone()
        };
        // Everybody knows.
        for user in [&self.bob, &self.pat] {
            let mut log = user.server.ctx.store.watch();
            let heard = async {
                while user.server.ctx.rooms.by_id(&newest).expect("rows").is_none_or(|known| known.before.is_none()) {
                    log.changed().await.expect("the server runs");
                }
            };
            tokio::time::timeout(std::time::Duration::from_secs(20), heard).await.expect("everybody hears of it");
        }
    }

    async fn says(&self, transaction: &str, text: &str) -> Answer {
        let path = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/{transaction}", self.id);
        self.ann.put(&path, json!({ "msgtype": "m.text", "body": text })).await
    }
}

#[tokio::test]
async fn what_the_policy_server_refuses_is_not_said() {
    let scene = scene().await;
    let said = scene.says("1", "hello").await.ok();
    let refused = scene.says("2", "spam").await;
    assert_eq!(refused["error"], "we do not like this");
    refused.is("400 M_FORBIDDEN");
    assert_eq!(scene.says("1", "hello").await.ok(), said, "the same transaction is the same event");
    hears(&scene.bob.server, &scene.id, &["hello"]).await;
    assert_eq!(messages(&scene.ann.server, &scene.id), ["hello"]);
    // Others see both signatures.
    let id = said["event_id"].as_str().expect("an ID").try_into().expect("an ID");
    let event = scene.bob.server.ctx.rooms.by_id(id).expect("rows").expect("the event").event.to_object();
    let signatures = canonical::write(&event["signatures"]);
    assert!(signatures.contains("ed25519:net") && signatures.contains("ed25519:policy_server"), "{signatures}");
}

#[tokio::test]
async fn what_comes_unsigned_is_looked_at_before_it_is_shown() {
    let scene = scene().await;
    let (a, b) = (&scene.ann.server, &scene.bob.server);
    let good = forge(&scene.bob, &scene.id, message(&scene.bob, "good"), &[]);
    let spam = forge(&scene.bob, &scene.id, message(&scene.bob, "spam"), &[]);
    assert_eq!(send(b, a, "t1", &[&good, &spam]).await, Vec::<String>::new());
    hears(a, &scene.id, &["good"]).await;
    let kept = async {
        let mut log = a.ctx.store.watch();
        while standing(a, &spam).is_none() {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), kept).await.expect("it is judged");
    assert_eq!(standing(a, &spam), Some(Standing::SoftFailed));
    let kept = a.ctx.rooms.by_id(&good.event_id).expect("rows").expect("the event");
    assert!(kept.event.json().contains("ed25519:policy_server"));
}

#[tokio::test]
async fn a_silent_policy_server_can_be_dismissed() {
    let scene = scene().await;
    scene.network.away(&scene.p);
    scene.says("1", "anybody there?").await.is("502 M_UNKNOWN");
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.policy/", scene.id);
    scene.ann.put(&path, json!({})).await.ok();
    scene.says("2", "finally").await.ok();
    hears(&scene.bob.server, &scene.id, &["finally"]).await;
}

#[tokio::test]
async fn a_server_without_anybody_in_the_room_is_not_asked() {
    let scene = scene().await;
    scene.pat.post(&format!("/_matrix/client/v3/rooms/{}/leave", scene.id), json!({})).await.ok();
    let mut log = scene.ann.server.ctx.store.watch();
    let gone = async {
        let rooms = &scene.ann.server.ctx.rooms;
        let number = rooms.find(&scene.id).expect("the room").number;
        while rooms.membership(number, &scene.pat.id).expect("rows").as_str() != "leave" {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), gone).await.expect("Pat leaves");
    scene.says("1", "spam").await.ok();
    hears(&scene.bob.server, &scene.id, &["spam"]).await;
}

#[tokio::test]
async fn whoever_joins_through_another_server_is_looked_at_as_well() {
    let scene = scene().await;
    let a = &scene.ann.server;
    let cat = scene.network.server("c.example").await.with_user("cat").await;
    let rooms = &cat.server.ctx.rooms;
    let join = async |text: &str| {
        let content = canonical::to_object(&json!({ "body": text })).expect("content");
        let via = vec![a.ctx.config.server_name.clone()];
        ingle::rooms::joining::join(rooms, &scene.id, &cat.id, via, content).await.map(|_| ())
    };
    assert_eq!(join("spam").await.expect_err("a refusal").errcode, "M_FORBIDDEN");
    join("hello").await.expect("a join");
    // Both servers have it with the signature of the policy server.
    for server in [a, &cat.server] {
        let rooms = &server.ctx.rooms;
        let current = rooms.current(rooms.find(&scene.id).expect("the room").number).expect("a state");
        let join = rooms.in_state(&current, "m.room.member", cat.id.as_str()).expect("rows").expect("a member");
        assert!(join.event.json().contains("ed25519:policy_server"), "{}", server.ctx.config.server_name);
    }
}

#[tokio::test]
async fn a_name_that_is_taken_away_leaves_the_room_with_the_blessing_of_its_policy_server() {
    let scene = scene().await;
    let (ann, room) = (&scene.ann, scene.id.as_str());
    let alias = "/_matrix/client/v3/directory/room/%23tea%3Aa.example";
    ann.put(alias, json!({ "room_id": room })).await.ok();
    ann.set(room, "m.room.canonical_alias", "", json!({ "alias": "#tea:a.example" })).await.ok();
    ann.delete(alias, json!({})).await.ok();
    assert_eq!(ann.state(room, "m.room.canonical_alias", "").await.ok(), json!({}));
}

#[tokio::test]
async fn the_past_is_shown_as_far_as_the_policy_server_has_nothing_against_it() {
    let scene = scene().await;
    let (a, b) = (&scene.ann.server, &scene.bob.server);
    let spam = forge(&scene.bob, &scene.id, message(&scene.bob, "spam"), &[]);
    let good = forge(&scene.bob, &scene.id, message(&scene.bob, "good"), &[&spam]);
    assert_eq!(send(b, a, "t1", &[&spam, &good]).await, Vec::<String>::new());
    hears(a, &scene.id, &["good"]).await;
    let dan = scene.network.server("d.example").await.with_user("dan").await;
    join(&dan, &scene.id, a).await;
    let page = dan.room(scene.id.as_str(), "messages?dir=b&limit=50").await.ok();
    assert_eq!(crate::harness::bodies(&page["chunk"]), ["good"]);
    assert_eq!(standing(&dan.server, &spam), Some(Standing::SoftFailed));
}
