//! Joining rooms of other servers: in at once, the members later.

use std::time::Duration;

use ingle::{
    protocol::{
        canonical::{self, Object},
        compose::Draft,
    },
    rooms::{append::NewEvent, completing, inbox, intake, partial},
    store::schema::rooms::ROOM_SERVERS,
    tasks,
};
use serde_json::{Value, json};

use crate::harness::{Network, Server, User, bodies, in_room, network, quoted};

/// A room of Ann's with a name, in which there are others of her server and Cid of a third one.
struct Scene {
    network: Network,
    ann: User,
    cid: User,
    bob: User,
    room: String,
}

async fn scene() -> Scene {
    let network = network();
    let (a, c) = (network.server("a.example").await, network.server("c.example").await);
    let (ann, cid) = (a.with_user("ann").await, c.with_user("cid").await);
    let room = ann.create_room().with("preset", "public_chat").with("name", "Plaza").await;
    for name in ["dan", "eve", "fay"] {
        a.with_user(name).await.join(&room).await.ok();
    }
    cid.join_via(&room, &a).await.ok();
    whole(&c, &room).await;
    // Nothing happens on b on its own, but that it takes in what others send.
    let bob = network.idle("b.example", |_| ()).await.with_user("bob").await;
    tokio::spawn(inbox::run(bob.server.ctx.rooms.clone()));
    Scene { network, ann, cid, bob, room }
}

fn is_partial(server: &Server, room: &str) -> bool {
    let id = <&ruma::RoomId>::try_from(room).expect("a room ID");
    server.ctx.rooms.find(id).expect("the room").is_partial()
}

/// Waits until something is so on a server; it is looked at whenever something was written.
async fn until(server: &Server, what: &str, mut is_so: impl FnMut() -> bool) {
    let mut log = server.ctx.store.watch();
    let wait = async {
        while !is_so() {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

async fn whole(server: &Server, room: &str) {
    let id = <&ruma::RoomId>::try_from(room).expect("a room ID");
    partial::whole_by_id(&server.ctx.rooms, id).await.expect("all members");
}

/// Waits until somebody's server knows that another has joined.
async fn knows(user: &User, room: &str, other: &User) {
    until(&user.server, "the join", || has(&user.server, room, other.id.as_str())).await;
}

async fn hears(user: &User, room: &str, text: &str) {
    let wait = async {
        let mut log = user.server.ctx.store.watch();
        while !user.read(room).await.iter().any(|said| said == text) {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("{text} is not heard"));
}

async fn members(user: &User, room: &str) -> Vec<String> {
    let answer = user.room(room, "joined_members").await.ok();
    answer["joined"].as_object().expect("members").keys().cloned().collect()
}

fn servers(server: &Server, room: &str) -> Vec<(String, u64)> {
    let id = <&ruma::RoomId>::try_from(room).expect("a room ID");
    let number = server.ctx.rooms.find(id).expect("the room").number;
    let rows = server.ctx.store.scan(ROOM_SERVERS, &(number,));
    rows.map(|row| row.expect("a row")).map(|((_, server), count)| (server, count)).collect()
}

fn count(servers: &[(&str, u64)]) -> Vec<(String, u64)> {
    servers.iter().map(|(server, count)| ((*server).to_owned(), *count)).collect()
}

const EVERYBODY: [&str; 6] =
    ["@ann:a.example", "@bob:b.example", "@cid:c.example", "@dan:a.example", "@eve:a.example", "@fay:a.example"];

#[tokio::test]
async fn somebody_speaks_and_listens_before_the_members_are_known() {
    let Scene { ann, cid, bob, room, .. } = scene().await;
    let b = bob.server.clone();
    bob.join_via(&room, &ann.server).await.ok();
    assert!(is_partial(&b, &room));
    assert_eq!(servers(&b, &room), count(&[("a.example", 0), ("b.example", 1), ("c.example", 0)]));
    knows(&cid, &room, &bob).await;
    cid.say(&room, "who is there?").await;
    hears(&bob, &room, "who is there?").await;
    bob.say(&room, "I am").await;
    // Others of the house come in through the same door, and other servers have to look elsewhere.
    b.with_user("gus").await.join(&room).await.ok();
    let path = format!("/_matrix/federation/v1/make_join/{}/@gil:c.example?ver=12&ver=11&ver=10", quoted(&room));
    let answer = cid.server.ask_server(&b, http::Method::GET, &path, None).await;
    answer.is("404 M_NOT_FOUND");
    let (mut everybody, ()) = tokio::join!(members(&bob, &room), async { tasks::start(&b.ctx) });
    everybody.retain(|member| member != "@gus:b.example");
    assert_eq!(everybody, EVERYBODY);
    assert_eq!(servers(&b, &room), count(&[("a.example", 4), ("b.example", 2), ("c.example", 1)]));
    hears(&ann, &room, "I am").await;
    hears(&cid, &room, "I am").await;
    until(&ann.server, "the same state", || state(&b, &room) == state(&ann.server, &room)).await;
}

fn state(server: &Server, room: &str) -> Vec<String> {
    let rooms = &server.ctx.rooms;
    let id = <&ruma::RoomId>::try_from(room).expect("a room ID");
    let state = rooms.current(rooms.find(id).expect("the room").number).expect("a state");
    let mut ids: Vec<_> =
        state.iter().map(|(_, number)| rooms.known(number).expect("an event").event.event_id.to_string()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn what_was_begun_is_finished_after_a_restart() {
    let Scene { network, ann, bob, room, .. } = scene().await;
    bob.join_via(&room, &ann.server).await.ok();
    assert!(is_partial(&bob.server, &room));
    let again = network.restart(&bob.server).await;
    whole(&again, &room).await;
    assert_eq!(members(&User { server: again, ..bob }, &room).await, EVERYBODY);
}

#[tokio::test]
async fn another_server_helps_when_the_first_is_gone() {
    let Scene { network, ann, cid, bob, room } = scene().await;
    bob.join_via(&room, &ann.server).await.ok();
    knows(&cid, &room, &bob).await;
    network.away(&ann.server);
    tasks::start(&bob.server.ctx);
    whole(&bob.server, &room).await;
    assert_eq!(members(&bob, &room).await, EVERYBODY);
}

#[tokio::test]
async fn a_server_whose_last_user_has_left_still_gives_the_members() {
    let Scene { ann, bob, .. } = scene().await;
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &ann.server).await.ok();
    assert!(is_partial(&bob.server, &room));
    ann.post(&in_room(&room, "leave"), json!({})).await.ok();
    tasks::start(&bob.server.ctx);
    whole(&bob.server, &room).await;
}

#[tokio::test]
async fn members_that_get_lost_on_the_way_are_asked_for_again() {
    let Scene { network, ann, bob, room, .. } = scene().await;
    bob.join_via(&room, &ann.server).await.ok();
    for event in state(&ann.server, &room) {
        let path = format!("/_matrix/federation/v1/event/{event}");
        network.answers(&ann.server, &path, |_| (http::StatusCode::BAD_GATEWAY, json!({})));
    }
    tasks::start(&bob.server.ctx);
    whole(&bob.server, &room).await;
    assert_eq!(members(&bob, &room).await, EVERYBODY);
}

#[tokio::test]
async fn a_server_whose_only_join_does_not_count_is_not_in_the_room() {
    let network = network();
    let (a, b, c) = (network.server("a.example").await, network.server("b.example").await, network.server("c.example"));
    let (ann, bob, cid) = (a.with_user("ann").await, b.with_user("bob").await, c.await.with_user("cid").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    whole(&b, &room).await;
    // Here Cid's server gets to know the keys of Ann's.
    let other = ann.create_room().with("preset", "public_chat").await;
    cid.join_via(&other, &a).await.ok();
    // Ann does not hear that Cid comes in, and closes the room.
    network.away(&a);
    a.ctx.clock.advance(Duration::from_secs(1));
    cid.join_via(&room, &b).await.ok();
    assert_eq!(servers(&b, &room), count(&[("a.example", 1), ("b.example", 1), ("c.example", 1)]));
    let path = format!("/_matrix/client/v3/rooms/{}/state/m.room.join_rules/", quoted(&room));
    ann.put(&path, json!({ "join_rule": "invite" })).await.ok();
    until(&b, "no join", || !has(&b, &room, cid.id.as_str())).await;
    assert_eq!(servers(&b, &room), count(&[("a.example", 1), ("b.example", 1)]));
}

fn has(server: &Server, room: &str, user: &str) -> bool {
    let rooms = &server.ctx.rooms;
    let id = <&ruma::RoomId>::try_from(room).expect("a room ID");
    let user = <&ruma::UserId>::try_from(user).expect("a user ID");
    let number = rooms.find(id).expect("the room").number;
    rooms.membership(number, user).expect("a membership") == ruma::events::room::member::MembershipState::Join
}

fn lazy() -> String {
    quoted(&json!({ "room": { "state": { "lazy_load_members": true } } }).to_string())
}

async fn sync(user: &User, rest: &str) -> Value {
    user.get(&format!("/_matrix/client/v3/sync?timeout=0{rest}")).await.ok()
}

fn senders(state: &Value) -> Vec<&str> {
    let members = state.as_array().expect("a list").iter().filter(|event| event["type"] == "m.room.member");
    let mut members: Vec<_> = members.filter_map(|event| event["state_key"].as_str()).collect();
    members.sort();
    members
}

#[tokio::test]
async fn readers_who_load_members_on_demand_see_the_room_at_once_and_the_others_later() {
    let Scene { ann, cid, bob, room, .. } = scene().await;
    let before = sync(&bob, "").await;
    let since = format!("&since={}", before["next_batch"].as_str().expect("a token"));
    bob.join_via(&room, &ann.server).await.ok();
    knows(&cid, &room, &bob).await;
    cid.say(&room, "hello").await;
    hears(&bob, &room, "hello").await;
    let shown = sync(&bob, &format!("{since}&filter={}", lazy())).await;
    let joined = &shown["rooms"]["join"][&room];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["hello"]);
    assert!(senders(&joined["state"]["events"]).contains(&"@cid:c.example"), "{joined}");
    // Who wants everybody hears nothing yet.
    let nothing = sync(&bob, &since).await;
    assert_eq!(nothing["rooms"]["join"].get(&room), None);
    let middle = format!("&since={}", nothing["next_batch"].as_str().expect("a token"));
    let lazily = format!("&since={}&filter={}", shown["next_batch"].as_str().expect("a token"), lazy());
    tasks::start(&bob.server.ctx);
    whole(&bob.server, &room).await;
    let all = sync(&bob, &middle).await;
    let joined = &all["rooms"]["join"][&room];
    assert_eq!(bodies(&joined["timeline"]["events"]), ["hello"]);
    assert_eq!(joined["summary"]["m.joined_member_count"], 6);
    let mut told = senders(&joined["state"]["events"]);
    told.extend(senders(&joined["timeline"]["events"]));
    told.sort();
    assert_eq!(told, EVERYBODY);
    // The others learn how many there are, and are not flooded.
    let later = sync(&bob, &lazily).await;
    let joined = &later["rooms"]["join"][&room];
    assert_eq!(joined["summary"]["m.joined_member_count"], 6);
    assert_eq!(senders(&joined["state"]["events"]), [""; 0]);
}

#[tokio::test]
async fn an_event_that_was_believed_too_early_is_withdrawn() {
    let Scene { ann, cid, bob, room, .. } = scene().await;
    let c = cid.server.clone();
    let id = <&ruma::RoomId>::try_from(&*room).expect("a room ID");
    let there = c.ctx.rooms.find(id).expect("the room");
    let in_state = |kind: &str, key: &str| {
        let current = c.ctx.rooms.current(there.number).expect("a state");
        c.ctx.rooms.in_state(&current, kind, key).expect("a row").expect("an event").event.event_id.clone()
    };
    let auths = [
        in_state("m.room.create", ""),
        in_state("m.room.power_levels", ""),
        in_state("m.room.member", cid.id.as_str()),
    ];
    ann.kick(&room, &cid).await.ok();
    bob.join_via(&room, &ann.server).await.ok();
    let b = bob.server.clone();
    let room_b = b.ctx.rooms.find(id).expect("the room");
    let join = {
        let current = b.ctx.rooms.current(room_b.number).expect("a state");
        b.ctx.rooms.in_state(&current, "m.room.member", bob.id.as_str()).expect("a row").expect("an event")
    };
    // Cid's server names the join that no longer counts.
    let mut content = Object::new();
    content.insert("body".to_owned(), "I am still here".into());
    let mut draft = Draft::new("m.room.message", cid.id.clone(), content);
    draft.room_id = Some(id.to_owned());
    draft.origin_server_ts = c.ctx.clock.now();
    draft.depth = join.event.depth + 1;
    draft.prev_events = vec![join.event.event_id.clone()];
    // In version 12 the create event is named by the room's ID.
    draft.auth_events = auths.into_iter().filter(|id| id.as_str()[1..] != room[1..]).collect();
    let event = draft.sign(&c.ctx.config.server_name, &c.ctx.rooms.key, room_b.rules).expect("an event");
    let pdu = canonical::parse_object(event.json().as_bytes(), room_b.rules.numbers).expect("a PDU");
    intake::receive(&b.ctx.rooms, &room_b, &c.ctx.config.server_name, pdu).await.expect("nobody knows better");
    assert_eq!(bob.read(&room).await, ["I am still here"]);
    bob.say(&room, "is that so?").await;
    let rooms = b.ctx.rooms.clone();
    let working = tokio::spawn(completing::run(rooms));
    whole(&b, &room).await;
    working.abort();
    assert_eq!(bob.read(&room).await, ["is that so?"]);
    assert!(!has(&b, &room, cid.id.as_str()));
    bob.say(&room, "it is not").await;
    assert_eq!(bob.read(&room).await, ["is that so?", "it is not"]);
}

#[tokio::test]
async fn whoever_was_removed_unseen_is_not_kept_waiting_for_ever() {
    let Scene { network, ann, cid, bob, room } = scene().await;
    bob.join_via(&room, &ann.server).await.ok();
    for server in [&ann.server, &cid.server] {
        network.answers(server, "/_matrix/federation/v1/state", |_| {
            (http::StatusCode::FORBIDDEN, json!({ "errcode": "M_FORBIDDEN", "error": "you are not in this room" }))
        });
    }
    tasks::start(&bob.server.ctx);
    whole(&bob.server, &room).await;
    assert!(sync(&bob, "").await["rooms"]["join"].get(&room).is_some());
    bob.leave(&room).await.ok();
    bob.post(&in_room(&room, "forget"), json!({})).await.ok();
}

/// A space of Ann's and a room that is open to those in it, where only Ann may invite.
async fn members_only(ann: &User) -> (String, String) {
    let space = ann.create_room().with("preset", "public_chat").await;
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": space }] });
    let rules = json!([{ "type": "m.room.join_rules", "state_key": "", "content": rule }]);
    let levels = json!({ "invite": 50 });
    let room = ann.create_room().with("initial_state", rules).with("power_level_content_override", levels).await;
    (space, room)
}

#[tokio::test]
async fn a_server_in_a_room_asks_another_to_let_somebody_in_whom_it_may_not() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let ann = a.with_user("ann").await;
    let (bob, cat) = b.with_users("bob", "cat").await;
    let (space, room) = members_only(&ann).await;
    bob.join_via(&room, &a).await.is("403 M_FORBIDDEN");
    for user in [&bob, &cat] {
        user.join_via(&space, &a).await.ok();
        whole(&b, &space).await;
        knows(&ann, &space, user).await;
        user.join_via(&room, &a).await.ok();
        whole(&b, &room).await;
    }
    assert!(has(&a, &room, cat.id.as_str()) && has(&b, &room, cat.id.as_str()));
    assert_eq!(state(&a, &room), state(&b, &room));
}

#[tokio::test]
async fn nobody_gets_a_signature_without_meeting_the_conditions() {
    let network = network();
    let (a, c) = (network.server("a.example").await, network.server("c.example").await);
    let ann = a.with_user("ann").await;
    let (cid, dan) = c.with_users("cid", "dan").await;
    let (space, room) = members_only(&ann).await;
    cid.join_via(&space, &a).await.ok();
    cid.join_via(&room, &a).await.ok();
    whole(&c, &room).await;
    // Dan is not in the space, and his server does as if that did not matter.
    let id = <&ruma::RoomId>::try_from(&*room).expect("a room ID");
    let there = c.ctx.rooms.find(id).expect("the room");
    let content = json!({ "membership": "join", "join_authorised_via_users_server": ann.id });
    let content = canonical::to_object(&content).expect("content");
    let draft = c.ctx.rooms.decide(&there).draft(NewEvent::state(&dan.id, "m.room.member", dan.id.as_str(), content));
    let signed = draft.expect("a draft").sign(&c.ctx.config.server_name, &c.ctx.rooms.key, there.rules);
    let event = signed.expect("an event");
    let path = format!("/_matrix/federation/v2/send_join/{}/{}", quoted(&room), quoted(event.event_id.as_str()));
    let body = serde_json::from_str(event.json()).expect("JSON");
    c.ask_server(&a, http::Method::PUT, &path, Some(body)).await.is("403 M_FORBIDDEN");
    assert!(!has(&a, &room, dan.id.as_str()));
}

#[tokio::test]
async fn whoever_wants_no_invites_gets_none_from_other_servers() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.invite_permission_config", bob.id);
    bob.put(&path, json!({ "default_action": "block" })).await.ok();
    ann.invite(&room, &bob).await.is("403 M_INVITE_BLOCKED");
    bob.put(&path, json!({})).await.ok();
    ann.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
}

#[tokio::test]
async fn a_room_of_an_unknown_version_is_refused_with_its_version() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let ann = a.with_user("ann").await;
    let room = ann.create_room().with("preset", "public_chat").with("room_version", "11").await;
    let path = format!("/_matrix/federation/v1/make_join/{}/@bob:b.example?ver=1&ver=12", quoted(&room));
    let refused = b.ask_server(&a, http::Method::GET, &path, None).await.is("400 M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(refused["room_version"], "11");
    // Nor is an invite to such a room signed.
    let path = format!("/_matrix/federation/v2/invite/{}/$x", quoted(&room));
    let body = json!({ "room_version": "99", "event": {}, "invite_room_state": [] });
    let refused = a.ask_server(&b, http::Method::PUT, &path, Some(body)).await.is("400 M_INCOMPATIBLE_ROOM_VERSION");
    assert_eq!(refused["room_version"], "99");
}
