//! Joining, leaving and knocking with the help of servers that are old, confused, away or silent.

use http::{Method, StatusCode};
use ingle::{
    rooms::{early, late, outside, partial, staged},
    store::schema::{
        events::{EVENTS, Standing},
        federation::{EARLY_EVENTS, EarlyRow},
        rooms::{LATE_EVENTS, STAGED},
    },
};
use ruma::{OwnedRoomId, events::room::member::MembershipState};
use serde_json::{Value, json};

use super::rooms;
use crate::harness::{Network, Server, User, in_room, network, quoted};

const MAKE_JOIN: &str = "/_matrix/federation/v1/make_join/";
const SEND_JOIN: &str = "/_matrix/federation/v2/send_join/";

/// Ann's server, which has a public room, and Bob's.
async fn scene() -> (Network, User, User, String) {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    (network, ann, bob, room)
}

fn id(room: &str) -> OwnedRoomId {
    OwnedRoomId::try_from(room).expect("a room ID")
}

fn member(server: &Server, room: &str, user: &User) -> Option<Value> {
    let rooms = &server.ctx.rooms;
    let current = rooms.current(rooms.find(&id(room)).ok()?.number).expect("a state");
    let known = rooms.in_state(&current, "m.room.member", user.id.as_str()).expect("good rows")?;
    serde_json::from_str(known.event.content()).ok()
}

fn standing(user: &User, room: &str) -> MembershipState {
    outside::standing(&user.server.ctx.rooms, &id(room), &user.id).expect("good rows")
}

async fn whole(server: &Server, room: &str) {
    partial::whole_by_id(&server.ctx.rooms, &id(room)).await.expect("all members");
}

fn unrecognized(_: &Value) -> (StatusCode, Value) {
    (StatusCode::NOT_FOUND, json!({ "errcode": "M_UNRECOGNIZED", "error": "What is that?" }))
}

#[tokio::test]
async fn old_servers_are_asked_the_old_way() {
    let (network, ann, bob, room) = scene().await;
    for endpoint in [SEND_JOIN, "/_matrix/federation/v2/send_leave/"] {
        network.answers(&ann.server, endpoint, unrecognized);
    }
    bob.join_via(&room, &ann.server).await.ok();
    whole(&bob.server, &room).await;
    assert_eq!(rooms::state(&bob.server, &id(&room)), rooms::state(&ann.server, &id(&room)));
    let other = ann.create_room().invite(&bob).await;
    bob.leave(&other).await.ok();
    assert_eq!(member(&ann.server, &other, &bob).expect("a member")["membership"], "leave");
}

#[tokio::test]
async fn that_a_room_is_unknown_is_no_reason_to_ask_the_old_way() {
    let (network, ann, bob, room) = scene().await;
    let unknown = |_: &Value| (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "No such room" }));
    network.answers(&ann.server, SEND_JOIN, unknown);
    bob.join_via(&room, &ann.server).await.is("404 M_NOT_FOUND");
    assert_eq!(member(&ann.server, &room, &bob), None);
}

#[tokio::test]
async fn a_template_of_another_event_is_not_signed() {
    for (field, value) in [
        ("room_id", json!("!elsewhere:a.example")),
        ("sender", json!("@eve:b.example")),
        ("state_key", json!("@eve:b.example")),
        ("type", json!("m.room.power_levels")),
        ("content", json!({ "membership": "leave" })),
        ("prev_events", json!(vec!["$x"; 30])),
    ] {
        let (network, ann, bob, room) = scene().await;
        network.changes(&ann.server, MAKE_JOIN, move |answer| answer["event"][field] = value.clone());
        bob.join_via(&room, &ann.server).await.is("502 M_UNKNOWN");
        assert_eq!(member(&ann.server, &room, &bob), None, "{field}");
    }
}

#[tokio::test]
async fn what_a_template_says_besides_does_not_count() {
    let (network, ann, bob, room) = scene().await;
    network.changes(&ann.server, MAKE_JOIN, |answer| {
        answer["event"]["unsigned"] = json!({ "age": 1 });
        answer["event"]["redacts"] = json!("$x");
        answer["event"]["origin"] = json!("elsewhere.example");
        answer["event"]["content"]["displayname"] = json!("Nobody");
    });
    bob.join_via(&room, &ann.server).await.ok();
    assert_eq!(member(&ann.server, &room, &bob), Some(json!({ "membership": "join" })));
}

#[tokio::test]
async fn a_server_that_answers_with_nonsense_is_passed_over() {
    fn without_create(answer: &mut Value) {
        answer["state"].as_array_mut().expect("a state").retain(|event| event["type"] != "m.room.create");
    }
    fn of_another_room(answer: &mut Value) {
        for event in answer["state"].as_array_mut().expect("a state") {
            event["room_id"] = json!("!elsewhere:a.example");
        }
    }
    fn unsigned(answer: &mut Value) {
        for event in answer["state"].as_array_mut().expect("a state") {
            event["signatures"] = json!({});
        }
    }
    for nonsense in [without_create, of_another_room, unsigned, |answer: &mut Value| *answer = json!([1])] {
        let (network, ann, bob, room) = scene().await;
        let cid = network.server("c.example").await.with_user("cid").await;
        cid.join_via(&room, &ann.server).await.ok();
        whole(&cid.server, &room).await;
        network.changes(&ann.server, SEND_JOIN, nonsense);
        let join = |via: &str| format!("/_matrix/client/v3/join/{}?via=a.example{via}", quoted(&room));
        bob.post(&join(""), json!({})).await.is("502 M_UNKNOWN");
        bob.post(&join("&via=c.example"), json!({})).await.ok();
    }
}

#[tokio::test]
async fn a_join_that_comes_back_spoiled_still_counts_in_an_open_room() {
    let (network, ann, bob, room) = scene().await;
    network.changes(&ann.server, SEND_JOIN, |answer| answer["event"]["content"] = json!({ "membership": "ban" }));
    bob.join_via(&room, &ann.server).await.ok();
    assert_eq!(member(&bob.server, &room, &bob).expect("a member")["membership"], "join");
}

#[tokio::test]
async fn the_last_word_of_a_state_on_an_entry_counts() {
    let (network, ann, ..) = scene().await;
    let room = ann.create_room().with("preset", "public_chat").await;
    // Nobody mends it in the background.
    let bob = network.idle("d.example", |_| ()).await.with_user("bob").await;
    let first = ann.set(&room, "m.room.topic", "", json!({ "topic": "first" })).await.ok()["event_id"].clone();
    let second = ann.set(&room, "m.room.topic", "", json!({ "topic": "second" })).await.ok()["event_id"].clone();
    let event = |id: Value| -> Value {
        let id = <&ruma::EventId>::try_from(id.as_str().expect("an ID")).expect("an ID");
        let known = ann.server.ctx.rooms.by_id(id).expect("good rows").expect("an event");
        serde_json::from_str(known.event.json()).expect("JSON")
    };
    let (first, second) = (event(first), event(second));
    network.changes(&ann.server, SEND_JOIN, move |answer| {
        let state = answer["state"].as_array_mut().expect("a state");
        state.retain(|event| event["type"] != "m.room.topic");
        // Both, and each more than once.
        state.extend([&second, &first, &second, &second].map(Clone::clone));
    });
    bob.join_via(&room, &ann.server).await.ok();
    assert_eq!(bob.state(&room, "m.room.topic", "").await.ok()["topic"], "second");
}

#[tokio::test]
async fn an_event_with_a_stolen_id_keeps_nobody_out() {
    let (network, ann, bob, _) = scene().await;
    let open = async || ann.create_room().with("preset", "public_chat").with("room_version", "1").await;
    let (first, second) = (open().await, open().await);
    bob.join_via(&first, &ann.server).await.ok();
    whole(&bob.server, &first).await;
    let ctx = &ann.server.ctx;
    let there = ctx.rooms.find(&id(&second)).expect("the room");
    let content = ingle::protocol::canonical::to_object(&json!({ "topic": "stolen" })).expect("content");
    let new = ingle::rooms::append::NewEvent::state(&ann.id, "m.room.topic", "", content);
    let mut draft = ctx.rooms.decide(&there).draft(new).expect("a draft");
    // In this version the sender chooses the ID: one that Bob's server knows from elsewhere.
    draft.event_id = rooms::state(&bob.server, &id(&first)).first().map(|id| id.as_str().try_into().expect("an ID"));
    let event = ingle::rooms::append::sign(&ctx.rooms, draft, there.rules).expect("an event");
    let pdu: Value = serde_json::from_str(event.json()).expect("JSON");
    network.changes(&ann.server, SEND_JOIN, move |answer| {
        answer["state"].as_array_mut().expect("a state").push(pdu.clone());
    });
    bob.join_via(&second, &ann.server).await.ok();
    bob.state(&second, "m.room.topic", "").await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn nothing_stays_of_a_room_that_could_not_be_entered() {
    let (network, ann, bob, room) = scene().await;
    let count = |server: &Server| server.ctx.store.scan(EVENTS, &()).count();
    let before = count(&bob.server);
    // Without its rules the room is closed, as far as Bob's server can see.
    network.changes(&ann.server, SEND_JOIN, |answer| {
        for list in ["state", "auth_chain"] {
            answer[list].as_array_mut().expect("a list").retain(|event| event["type"] != "m.room.join_rules");
        }
    });
    bob.join_via(&room, &ann.server).await.is("403 M_FORBIDDEN");
    assert_eq!(count(&bob.server), before);
    assert_eq!(bob.server.ctx.store.scan(STAGED, &()).count(), 0);
    network.changes(&ann.server, SEND_JOIN, |_| ());
    bob.join_via(&room, &ann.server).await.ok();
    whole(&bob.server, &room).await;
    assert_eq!(bob.server.ctx.store.scan(STAGED, &()).count(), 0);
    assert_eq!(rooms::state(&bob.server, &id(&room)), rooms::state(&ann.server, &id(&room)));
}

#[tokio::test]
async fn what_a_stop_has_left_of_a_join_is_swept() {
    let (_network, ann, bob, room) = scene().await;
    let other = ann.create_room().invite(&bob).await;
    let rooms = &bob.server.ctx.rooms;
    let number = {
        // As if the program had stopped before the last step of a join.
        let mut write = bob.server.ctx.store.write();
        let number = ingle::store::schema::numbers::room(&mut write, &id(&other)).expect("a number");
        write.put(STAGED, &number, &1);
        write.commit().expect("a commit").published().await.expect("a row");
        number
    };
    let rows = |standing: Standing| {
        let rows = bob.server.ctx.store.scan(EVENTS, &()).map(|row| row.expect("a row").1);
        rows.filter(|row| row.room == number && row.standing == standing).count()
    };
    assert_eq!(rows(Standing::Outlier), 1, "the invite");
    staged::sweep(rooms).await.expect("good rows");
    assert_eq!(rows(Standing::Outlier), 1, "the invite");
    assert_eq!(bob.server.ctx.store.scan(STAGED, &()).count(), 0);
    bob.join(&other).await.ok();
    bob.join_via(&room, &ann.server).await.ok();
}

#[tokio::test]
async fn what_is_said_while_somebody_comes_in_is_heard() {
    let network = network();
    // Nobody does anything on their own.
    let (a, b) = (network.idle("a.example", |_| ()).await, network.idle("b.example", |_| ()).await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    let (speaker, at, to) = (ann.clone(), room.clone(), b.clone());
    network.meanwhile(&a, SEND_JOIN, async move {
        let event = speaker.say(&at, "welcome").await;
        let event = <&ruma::EventId>::try_from(&*event).expect("an event ID");
        let known = speaker.server.ctx.rooms.by_id(event).expect("good rows").expect("an event");
        let pdu: Value = serde_json::from_str(known.event.json()).expect("JSON");
        let body = json!({ "origin": "a.example", "origin_server_ts": 1, "pdus": [pdu] });
        let path = "/_matrix/federation/v1/send/early";
        speaker.server.ask_server(&to, Method::PUT, path, Some(body)).await.ok();
        assert_eq!(to.ctx.store.scan(EARLY_EVENTS, &()).count(), 1, "what was answered is on the disk");
    });
    bob.join_via(&room, &a).await.ok();
    rooms::hears(&b, &id(&room), &["welcome"]).await;
    // Had the server been stopped in between, the next start would have taken it in.
    let event = ann.say(&room, "again").await;
    let known = a.ctx.rooms.by_id((&*event).try_into().expect("an event ID")).expect("good rows").expect("an event");
    let mut write = b.ctx.store.write();
    let number = rooms::room(&b, &id(&room)).number;
    let row = EarlyRow { origin: "a.example".to_owned(), json: known.event.json().to_owned() };
    write.put(EARLY_EVENTS, &(number, 1), &row);
    write.commit().expect("a commit").published().await.expect("a write");
    early::resume(&b.ctx.rooms).await.expect("good rows");
    rooms::hears(&b, &id(&room), &["welcome", "again"]).await;
    assert_eq!(b.ctx.store.scan(EARLY_EVENTS, &()).count(), 0);
}

#[tokio::test]
async fn whoever_declines_says_why_and_may_say_so_twice() {
    let (network, ann, bob, _) = scene().await;
    let room = ann.create_room().invite(&bob).await;
    bob.post(&in_room(&room, "leave"), json!({ "reason": "not today" })).await.ok();
    let expected = json!({ "membership": "leave", "reason": "not today" });
    assert_eq!(member(&ann.server, &room, &bob), Some(expected));
    bob.leave(&room).await.ok();
    // Nobody has to be there for it.
    let room = ann.create_room().invite(&bob).await;
    network.away(&ann.server);
    bob.leave(&room).await.ok();
    assert_eq!(standing(&bob, &room), MembershipState::Leave);
    bob.leave(&room).await.ok();
}

#[tokio::test]
async fn members_whose_server_is_away_come_when_it_is_back() {
    let (network, ann, bob, room) = scene().await;
    let cid = network.server("c.example").await.with_user("cid").await;
    cid.join_via(&room, &ann.server).await.ok();
    whole(&cid.server, &room).await;
    network.away(&cid.server);
    bob.join_via(&room, &ann.server).await.ok();
    whole(&bob.server, &room).await;
    assert_eq!(member(&bob.server, &room, &cid), None, "nobody has the key");
    let late: Vec<_> = bob.server.ctx.store.scan(LATE_EVENTS, &()).map(|row| row.expect("a row").0.0).collect();
    assert_eq!(late.len(), 1);
    let rooms = &bob.server.ctx.rooms;
    late::ask_again(rooms, late[0], 0).await.expect("good rows");
    assert_eq!(member(&bob.server, &room, &cid), None);
    network.back(&cid.server);
    late::ask_again(rooms, late[0], 1).await.expect("good rows");
    assert!(member(&bob.server, &room, &cid).is_some());
    assert_eq!(bob.server.ctx.store.scan(LATE_EVENTS, &()).count(), 0);
    cid.say(&room, "I am back").await;
    let mut log = cid.server.ctx.store.watch();
    while member(&cid.server, &room, &bob).is_none() {
        log.changed().await.expect("the server runs");
    }
    cid.say(&room, "hello, Bob").await;
    rooms::hears(&bob.server, &id(&room), &["I am back", "hello, Bob"]).await;
}

#[tokio::test]
async fn a_knock_is_answered_by_an_invite_and_the_guest_comes_in() {
    let (_network, ann, bob, _) = scene().await;
    let room = ann.create_room().await;
    ann.set(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await.ok();
    let knock = format!("/_matrix/client/v3/knock/{}?via=a.example", quoted(&room));
    bob.post(&knock, json!({ "reason": "it is me" })).await.ok();
    assert_eq!(member(&ann.server, &room, &bob).expect("a member")["reason"], "it is me");
    assert_eq!(standing(&bob, &room), MembershipState::Knock);
    ann.invite(&room, &bob).await.ok();
    assert_eq!(standing(&bob, &room), MembershipState::Invite);
    bob.join(&room).await.ok();
    assert_eq!(member(&ann.server, &room, &bob).expect("a member")["membership"], "join");
}
