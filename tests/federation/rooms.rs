//! A room on two servers: joined, spoken in, left, through outages.

use std::{sync::Arc, time::Duration};

use ingle::{
    protocol::canonical,
    rooms::{
        Room,
        append::NewEvent,
        create::create,
        history::{self, Direction},
        inviting, joining,
        token::Cursor,
    },
};
use ruma::{
    OwnedRoomId, RoomVersionId,
    api::client::room::create_room::v3::{Request, RoomPreset},
};
use serde_json::json;

use crate::harness::{Server, User, bodies, network};

pub(super) async fn public_room(ann: &User, version: RoomVersionId) -> OwnedRoomId {
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.room_version = Some(version);
    let (room, ticket) = create(&ann.server.ctx.rooms, &ann.id, request).expect("a room");
    ticket.published().await.expect("a room on the disk");
    room.id.clone()
}

pub(super) fn room(server: &Server, id: &OwnedRoomId) -> Arc<Room> {
    server.ctx.rooms.find(id).expect("the room")
}

pub(super) async fn join(user: &User, id: &OwnedRoomId, through: &Server) {
    let servers = vec![through.ctx.config.server_name.clone()];
    joining::join(&user.server.ctx.rooms, id, &user.id, servers, Default::default()).await.expect("a join");
}

pub(super) async fn say(user: &User, id: &OwnedRoomId, text: &str) {
    let content = canonical::to_object(&json!({ "msgtype": "m.text", "body": text })).expect("content");
    let room = room(&user.server, id);
    let ticket = {
        let mut deciding = user.server.ctx.rooms.decide(&room);
        deciding.send(NewEvent::message(&user.id, "m.room.message", content)).expect("a message");
        deciding.commit().expect("a commit")
    };
    ticket.published().await.expect("a message on the disk");
}

pub(super) fn messages(server: &Server, id: &OwnedRoomId) -> Vec<String> {
    let rooms = &server.ctx.rooms;
    let page =
        history::page(rooms, room(server, id).number, Direction::Forward, Cursor::START, None, 10_000, |_| Ok(true));
    let events = page.expect("a page").events;
    events.iter().filter_map(|known| known.event.content_field::<String>("body")).collect()
}

/// Waits until a server has these messages.
pub(super) async fn hears(server: &Server, id: &OwnedRoomId, expected: &[&str]) {
    let mut log = server.ctx.store.watch();
    let heard = async {
        while messages(server, id) != expected {
            log.changed().await.expect("the server runs");
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), heard).await.is_err() {
        panic!("{} has {:?} instead of {expected:?}", server.ctx.config.server_name, messages(server, id));
    }
}

pub(super) fn state(server: &Server, id: &OwnedRoomId) -> Vec<String> {
    let rooms = &server.ctx.rooms;
    let state = rooms.current(room(server, id).number).expect("a state");
    let mut ids: Vec<_> =
        state.iter().map(|(_, number)| rooms.known(number).expect("an event").event.event_id.to_string()).collect();
    ids.sort();
    ids
}

#[tokio::test]
async fn rooms_of_every_version_are_shared() {
    for version in ["1", "3", "5", "6", "8", "9", "10", "11", "12"] {
        let network = network();
        let (a, b) = (network.server("a.example").await, network.server("b.example").await);
        let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
        let id = public_room(&ann, RoomVersionId::try_from(version).expect("a version")).await;
        say(&ann, &id, "anybody there?").await;
        join(&bob, &id, &a).await;
        say(&bob, &id, "hello").await;
        hears(&a, &id, &["anybody there?", "hello"]).await;
        say(&ann, &id, "welcome").await;
        hears(&b, &id, &["hello", "welcome"]).await;
        assert_eq!(state(&a, &id), state(&b, &id), "version {version}");
    }
}

#[tokio::test]
async fn what_was_said_during_an_outage_arrives_afterwards() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    network.away(&b);
    say(&ann, &id, "one").await;
    say(&ann, &id, "two").await;
    network.back(&b);
    say(&bob, &id, "I was away").await;
    say(&ann, &id, "three").await;
    // What was said at the same time stands in the order in which it came to b.
    hears(&b, &id, &["I was away", "one", "two", "three"]).await;
}

#[tokio::test]
async fn an_invite_crosses_servers_and_lets_the_guest_in() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let (made, ticket) = create(&a.ctx.rooms, &ann.id, Request::new()).expect("a room");
    ticket.published().await.expect("a room on the disk");
    let id = made.id.clone();
    let refused = joining::join(&b.ctx.rooms, &id, &bob.id, vec![a.ctx.config.server_name.clone()], Default::default());
    assert_eq!(refused.await.err().expect("a refusal").errcode, "M_FORBIDDEN");
    inviting::outgoing(&a.ctx.rooms, &made, &ann.id, &bob.id, false, None).await.expect("an invite");
    join(&bob, &id, &a).await;
    say(&bob, &id, "thanks").await;
    hears(&a, &id, &["thanks"]).await;
}

#[tokio::test]
async fn a_stranger_to_the_room_gets_nothing_of_it() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let ann = a.with_user("ann").await;
    let id = public_room(&ann, RoomVersionId::V11).await;
    let event = room(&a, &id).id.clone();
    let state = ruma::api::federation::event::get_room_state::v1::Request::new(
        ruma::EventId::parse("$x").expect("an ID"),
        event,
    );
    let refused = b.ctx.remote.ask(&a.ctx.config.server_name, state).await.expect_err("a refusal");
    assert!(refused.to_string().contains("M_FORBIDDEN"), "{refused}");
}

#[tokio::test]
async fn both_sides_of_a_fork_agree_in_the_end() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    network.away(&b);
    let topic = |topic: &str| canonical::to_object(&json!({ "topic": topic })).expect("content");
    for (user, text) in [(&ann, "of ann"), (&ann, "of ann again")] {
        let room = room(&user.server, &id);
        let ticket = {
            let mut deciding = user.server.ctx.rooms.decide(&room);
            deciding.send(NewEvent::state(&user.id, "m.room.topic", "", topic(text))).expect("a topic");
            deciding.commit().expect("a commit")
        };
        ticket.published().await.expect("a topic on the disk");
    }
    say(&bob, &id, "alone").await;
    network.back(&b);
    say(&ann, &id, "together").await;
    say(&bob, &id, "again").await;
    let done = |server: &Server| {
        let all = messages(server, &id);
        ["alone", "together", "again"].iter().all(|text| all.iter().any(|said| said == text))
    };
    for server in [&a, &b] {
        let mut log = server.ctx.store.watch();
        let heard = async {
            while !done(server) {
                log.changed().await.expect("the server runs");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("everything arrives");
    }
    assert_eq!(state(&a, &id), state(&b, &id));
}

#[tokio::test]
async fn a_newcomer_reads_what_was_said_before() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    for n in 0..150 {
        say(&ann, &id, &n.to_string()).await;
    }
    join(&bob, &id, &a).await;
    let mut said = Vec::new();
    let mut from = String::new();
    for _ in 0..20 {
        let path = format!("/_matrix/client/v3/rooms/{id}/messages?dir=b&limit=40{from}");
        let page = bob.get(&path).await.ok();
        let chunk = page["chunk"].as_array().expect("a chunk").clone();
        said.extend(chunk.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)));
        let Some(end) = page["end"].as_str() else { break };
        from = format!("&from={end}");
    }
    said.reverse();
    assert_eq!(said, (0..150).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_newcomer_reads_around_the_state_that_came_with_the_room() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    say(&ann, &id, "before").await;
    let topic = ann.set(id.as_str(), "m.room.topic", "", json!({ "topic": "tea" })).await.ok();
    let topic = topic["event_id"].as_str().expect("an ID").to_owned();
    say(&ann, &id, "after").await;
    join(&bob, &id, &a).await;
    let event = bob.room(id.as_str(), &format!("event/{topic}")).await.ok();
    assert_eq!(event["content"], json!({ "topic": "tea" }));
    let around = bob.room(id.as_str(), &format!("context/{topic}?limit=2")).await.ok();
    assert_eq!(bodies(&around["events_before"]), ["before"]);
}

#[tokio::test]
async fn late_messages_hide_none_of_those_that_were_here() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let id = public_room(&ann, RoomVersionId::V11).await;
    join(&bob, &id, &a).await;
    network.away(&b);
    // Ann's messages stand deeper in the room than the one of Bob's, which comes last.
    let mut said: Vec<String> = (0..60).map(|n| format!("message {n}")).collect();
    for text in &said {
        say(&ann, &id, text).await;
    }
    say(&bob, &id, "from afar").await;
    network.back(&b);
    say(&bob, &id, "I am back").await;
    said.extend(["from afar".to_owned(), "I am back".to_owned()]);
    let mut log = a.ctx.store.watch();
    let heard = async {
        loop {
            let page = ann.room(id.as_str(), "messages?dir=b&limit=100").await.ok();
            let mut read = bodies(&page["chunk"]);
            read.reverse();
            if read.contains(&"I am back".to_owned()) {
                return read;
            }
            log.changed().await.expect("the server runs");
        }
    };
    let mut read = tokio::time::timeout(Duration::from_secs(20), heard).await.expect("everything arrives");
    read.sort();
    said.sort();
    assert_eq!(read, said);
}
