//! What state resolution takes back: somebody was in a room, invited or at its door, and then never was.

use std::time::Duration;

use ingle::{protocol::canonical, rooms::append::NewEvent};
use ruma::{OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    intake::{forge, send},
    rooms::{hears, join, public_room, say},
};
use crate::harness::{Server, User, network};

const SYNC: &str = "/_matrix/client/v3/sync?timeout=0";
const SLIDE: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";

/// A room of Bob's, on another server, that Ann has joined.
struct Scene {
    a: Server,
    b: Server,
    ann: User,
    bob: User,
    dan: User,
    id: OwnedRoomId,
}

impl Scene {
    async fn new() -> Self {
        let network = network();
        let (a, b) = (network.server("a.example").await, network.server("b.example").await);
        let (ann, bob, dan) = (a.with_user("ann").await, b.with_user("bob").await, a.with_user("dan").await);
        let id = public_room(&bob, RoomVersionId::V11).await;
        join(&ann, &id, &b).await;
        Self { a, b, ann, bob, dan, id }
    }

    /// Bob sets something now, and nobody hears of it until [`Scene::hears_of`].
    fn sets(&self, kind: &str, content: Value) -> ingle::protocol::event::Event {
        let content = canonical::to_object(&content).expect("content");
        // Later than what it replaces.
        self.b.later(Duration::from_secs(1));
        forge(&self.bob, &self.id, NewEvent::state(&self.bob.id, kind, "", content), &[])
    }

    async fn hears_of(&self, event: &ingle::protocol::event::Event) {
        assert_eq!(send(&self.b, &self.a, "branch", &[event]).await, Vec::<String>::new());
    }

    /// Waits until Ann's server has this as part of the state.
    async fn knows(&self, sent: &Value) {
        let event = sent["event_id"].as_str().expect("an ID").to_owned();
        let mut log = self.a.ctx.store.watch();
        while !super::rooms::state(&self.a, &self.id).contains(&event) {
            log.changed().await.expect("the server runs");
        }
    }

    fn path(&self, verb: &str) -> String {
        format!("/_matrix/client/v3/rooms/{}/{verb}", self.id)
    }

    /// What Dan is told of the room after `since`: the section, and what is in it; and how to go on.
    async fn told(&self, since: &str) -> (Option<(String, Value)>, String) {
        let answer = self.dan.get(&format!("{SYNC}&since={since}")).await.ok();
        let sections = ["join", "invite", "knock", "leave"].into_iter();
        let mut found = sections.filter_map(|section| {
            let room = answer["rooms"][section].get(self.id.as_str())?;
            Some((section.to_owned(), room.clone()))
        });
        (found.next(), answer["next_batch"].as_str().expect("a token").to_owned())
    }

    /// The room in an answer of sliding sync, and how to go on.
    async fn slid(&self, pos: &str) -> (Option<Value>, String) {
        let pos = if pos.is_empty() { String::new() } else { format!("&pos={}", crate::harness::quoted(pos)) };
        let own = json!([["m.room.member", "$ME"]]);
        let lists = json!({ "all": { "ranges": [[0, 9]], "timeline_limit": 5, "required_state": own } });
        let answer = self.dan.post(&format!("{SLIDE}?timeout=0{pos}"), json!({ "lists": lists })).await.ok();
        (answer["rooms"].get(self.id.as_str()).cloned(), answer["pos"].as_str().expect("a token").to_owned())
    }

    /// Dan learns once that he is out, and nothing says otherwise ever after.
    async fn dan_is_out(&self, since: &str, pos: &str) -> Value {
        let (told, since) = self.told(since).await;
        let (section, room) = told.expect("Dan is told that he is out");
        assert_eq!(section, "leave");
        let (slid, pos) = self.slid(pos).await;
        let slid = slid.expect("Dan is told by sliding sync as well");
        let own = slid["required_state"].as_array().expect("his membership").last().expect("his membership");
        assert_eq!(own["content"]["membership"], "leave", "{slid}");
        let joined = self.dan.get("/_matrix/client/v3/joined_rooms").await.ok();
        assert_eq!(joined["joined_rooms"], json!([]));
        say(&self.ann, &self.id, "is anybody there?").await;
        assert_eq!(self.told(&since).await.0, None);
        assert_eq!(self.slid(&pos).await.0, None);
        let whole = self.dan.get(SYNC).await.ok();
        assert!(!whole["rooms"].to_string().contains(self.id.as_str()), "{whole}");
        room
    }
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"]["events"].as_array().expect("a timeline").iter();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn a_join_that_never_was_ends_as_a_leave() {
    let scene = Scene::new().await;
    let closed = scene.sets("m.room.join_rules", json!({ "join_rule": "invite" }));
    scene.dan.post(&scene.path("join"), json!({})).await.ok();
    let (told, since) = scene.told("").await;
    assert_eq!(told.expect("the room").0, "join");
    let (_, pos) = scene.slid("").await;
    say(&scene.ann, &scene.id, "hello").await;
    scene.hears_of(&closed).await;
    say(&scene.ann, &scene.id, "a secret").await;
    let room = scene.dan_is_out(&since, &pos).await;
    assert!(!bodies(&room).contains(&"a secret"), "{room}");
    // Let in again, he is there as anybody is.
    hears(&scene.b, &scene.id, &["hello", "a secret", "is anybody there?"]).await;
    let member = format!("state/m.room.member/{}", scene.dan.id);
    let invite = scene.bob.put(&scene.path(&member), json!({ "membership": "invite" })).await.ok();
    scene.knows(&invite).await;
    scene.dan.post(&scene.path("join"), json!({})).await.ok();
    let (told, _) = scene.told(&since).await;
    assert_eq!(told.expect("the room").0, "join");
}

#[tokio::test]
async fn an_invite_that_never_was_ends_as_a_leave() {
    let scene = Scene::new().await;
    let levels = |invite| json!({ "users": { scene.bob.id.as_str(): 100 }, "invite": invite });
    let anybody = scene.bob.put(&scene.path("state/m.room.power_levels/"), levels(0)).await.ok();
    scene.knows(&anybody).await;
    let levels = scene.sets("m.room.power_levels", levels(100));
    scene.ann.post(&scene.path("invite"), json!({ "user_id": scene.dan.id })).await.ok();
    let (told, since) = scene.told("").await;
    assert_eq!(told.expect("the room").0, "invite");
    let (_, pos) = scene.slid("").await;
    scene.hears_of(&levels).await;
    scene.dan_is_out(&since, &pos).await;
}

#[tokio::test]
async fn a_knock_that_never_was_ends_as_a_leave() {
    let scene = Scene::new().await;
    let open = scene.bob.put(&scene.path("state/m.room.join_rules/"), json!({ "join_rule": "knock" })).await.ok();
    scene.knows(&open).await;
    let closed = scene.sets("m.room.join_rules", json!({ "join_rule": "invite" }));
    scene.dan.post(&format!("/_matrix/client/v3/knock/{}", scene.id), json!({})).await.ok();
    let (told, since) = scene.told("").await;
    assert_eq!(told.expect("the room").0, "knock");
    let (_, pos) = scene.slid("").await;
    scene.hears_of(&closed).await;
    scene.dan_is_out(&since, &pos).await;
}
