//! What a server in a room may send to do harm, and that it does little.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use http::{Method, StatusCode};
use ingle::{
    protocol::{canonical, event::Event},
    rooms::append::{self, NewEvent},
};
use ruma::{OwnedEventId, OwnedRoomId, RoomVersionId};
use serde_json::{Value, json};

use super::{
    intake::{forge, message, send, standing},
    rooms::{hears, join, messages, public_room, room, say},
};
use crate::harness::{Network, Server, User, in_room, network};

/// A room of Ann's that Eve's server is in.
async fn with_eve(version: RoomVersionId) -> (Network, User, User, OwnedRoomId) {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("evil.example").await);
    let (ann, eve) = (a.with_user("ann").await, b.with_user("eve").await);
    let id = public_room(&ann, version).await;
    join(&eve, &id, &a).await;
    (network, ann, eve, id)
}

fn redaction(user: &User, of: &Event) -> NewEvent {
    let content = canonical::to_object(&json!({ "redacts": of.event_id })).expect("content");
    NewEvent::message(&user.id, "m.room.redaction", content)
}

async fn timeline(user: &User, id: &OwnedRoomId) -> Vec<String> {
    let answer = user.get("/_matrix/client/v3/sync?timeout=0").await.ok();
    let events = answer["rooms"]["join"][id.as_str()]["timeline"]["events"].as_array().cloned().unwrap_or_default();
    events.iter().map(|event| event["event_id"].as_str().expect("an ID").to_owned()).collect()
}

fn newest(server: &Server, id: &OwnedRoomId) -> Arc<Event> {
    let deciding = server.ctx.rooms.decide(&room(server, id)).head().extremities.clone();
    let (number, _) = deciding.last().expect("an end");
    Arc::clone(&server.ctx.rooms.known(*number).expect("an event").event)
}

#[tokio::test]
async fn an_event_that_lacks_something_does_not_hold_up_the_others() {
    let (_network, ann, eve, id) = with_eve(RoomVersionId::V11).await;
    let (a, b) = (&ann.server, &eve.server);
    let unknown = forge(&eve, &id, message(&eve, "never told"), &[]);
    let lacking = forge(&eve, &id, message(&eve, "lacking"), &[&unknown]);
    let whole = forge(&eve, &id, message(&eve, "whole"), &[]);
    assert_eq!(send(b, a, "t", &[&lacking, &whole]).await, Vec::<String>::new());
    assert_eq!(messages(a, &id), ["whole"]);
}

#[tokio::test]
async fn a_room_does_not_fork_without_end() {
    let (_network, ann, eve, id) = with_eve(RoomVersionId::V11).await;
    let (a, b) = (&ann.server, &eve.server);
    let forks: Vec<Event> = (0..70).map(|fork| forge(&eve, &id, message(&eve, &fork.to_string()), &[])).collect();
    say(&ann, &id, "hello").await;
    let own = newest(a, &id);
    for (number, forks) in forks.chunks(35).enumerate() {
        let forks: Vec<&Event> = forks.iter().collect();
        assert_eq!(send(b, a, &format!("t{number}"), &forks).await, Vec::<String>::new());
    }
    assert_eq!(messages(a, &id).len(), 71);
    let ends = a.ctx.rooms.decide(&room(a, &id)).head().extremities.clone();
    assert!(ends.len() <= 50, "{} ends", ends.len());
    assert!(ends.iter().any(|(_, end)| *end == own.event_id), "what others have said is still an end");
}

#[tokio::test]
async fn a_redaction_without_the_right_to_it_is_not_shown() {
    let (_network, ann, eve, id) = with_eve(RoomVersionId::V11).await;
    let (a, b) = (&ann.server, &eve.server);
    say(&ann, &id, "hello").await;
    let hello = newest(a, &id);
    hears(b, &id, &["hello"]).await;
    let forbidden = forge(&eve, &id, redaction(&eve, &hello), &[]);
    let unheard = forge(&eve, &id, message(&eve, "not told"), &[]);
    let of_nothing = forge(&eve, &id, redaction(&eve, &unheard), &[&forbidden]);
    let mine = forge(&eve, &id, message(&eve, "mine"), &[&of_nothing]);
    let allowed = forge(&eve, &id, redaction(&eve, &mine), &[&mine]);
    assert_eq!(send(b, a, "t", &[&forbidden, &of_nothing, &mine, &allowed]).await, Vec::<String>::new());
    assert_eq!(messages(a, &id), ["hello"]);
    let shown = timeline(&ann, &id).await;
    let is_shown = |event: &Event| shown.iter().any(|id| *id == event.event_id);
    assert!(is_shown(&mine) && is_shown(&allowed), "{shown:?}");
    assert!(!is_shown(&forbidden) && !is_shown(&of_nothing), "{shown:?}");
    let path = in_room(id.as_str(), &format!("event/{}", crate::harness::quoted(forbidden.event_id.as_str())));
    ann.get(&path).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn an_id_that_is_taken_stays_with_the_first_event() {
    let (_network, ann, eve, id) = with_eve(RoomVersionId::V1).await;
    let (a, b) = (&ann.server, &eve.server);
    // Ann's server has been given the state of a room of Eve's.
    let other = public_room(&eve, RoomVersionId::V1).await;
    join(&ann, &other, b).await;
    let levels = |server: &Server| {
        let (rooms, room) = (&server.ctx.rooms, room(server, &other));
        let state = rooms.current(room.number).expect("a state");
        rooms.in_state(&state, "m.room.power_levels", "").expect("rows").expect("power levels")
    };
    let taken: OwnedEventId = levels(a).event.event_id.clone();
    let double = {
        let (rooms, room) = (&b.ctx.rooms, room(b, &id));
        let mut draft = rooms.decide(&room).draft(message(&eve, "a double")).expect("a draft");
        draft.event_id = Some(taken.clone());
        append::sign(rooms, draft, room.rules).expect("an event")
    };
    let errors = send(b, a, "t", &[&double]).await;
    assert_eq!(errors, ["another event has this ID"]);
    assert_eq!(levels(a).event.kind, "m.room.power_levels");
    assert_eq!(levels(a).room, room(a, &other).number);
    assert_eq!(messages(a, &id), Vec::<String>::new());
}

#[tokio::test]
async fn what_stands_beside_an_event_need_not_be_canonical() {
    let (_network, ann, eve, id) = with_eve(RoomVersionId::V11).await;
    let (a, b) = (&ann.server, &eve.server);
    let event = forge(&eve, &id, message(&eve, "hello"), &[]);
    let mut pdu: Value = serde_json::from_str(event.json()).expect("JSON");
    pdu["unsigned"] = json!({ "age": 1.5, "other": 1u64 << 60 });
    let body = json!({ "origin": "evil.example", "origin_server_ts": 1, "pdus": [pdu] });
    let answer = b.ask_server(a, Method::PUT, "/_matrix/federation/v1/send/t", Some(body)).await.ok();
    assert_eq!(answer["pdus"][event.event_id.as_str()], json!({}), "{answer}");
    assert_eq!(messages(a, &id), ["hello"]);
}

#[tokio::test]
async fn strangers_do_not_type_or_read_in_a_room() {
    let (network, ann, _eve, id) = with_eve(RoomVersionId::V11).await;
    let a = &ann.server;
    let c = network.server("c.example").await;
    let read = json!({ id.as_str(): { "m.read": { "@cat:c.example": {
        "data": { "ts": 5 }, "event_ids": [newest(a, &id).event_id] } } } });
    c.tell(a, "m.typing", json!({ "room_id": id, "user_id": "@cat:c.example", "typing": true })).await;
    c.tell(a, "m.receipt", read).await;
    let answer = ann.get("/_matrix/client/v3/sync?timeout=0").await.ok();
    let ephemeral = answer["rooms"]["join"][id.as_str()]["ephemeral"]["events"].to_string();
    assert!(!ephemeral.contains("@cat:c.example"), "{ephemeral}");
}

#[tokio::test]
async fn a_made_up_state_costs_nobody_thousands_of_questions() {
    let (network, ann, eve, id) = with_eve(RoomVersionId::V11).await;
    let (a, b) = (&ann.server, &eve.server);
    let c = network.server("c.example").await;
    let cat = c.with_user("cat").await;
    join(&cat, &id, a).await;
    let asked = Arc::new(AtomicUsize::new(0));
    for server in [b, &c] {
        let asked = Arc::clone(&asked);
        network.answers(server, "/_matrix/federation/v1/event/", move |_| {
            asked.fetch_add(1, Ordering::Relaxed);
            (StatusCode::NOT_FOUND, json!({ "errcode": "M_NOT_FOUND", "error": "there is no such event" }))
        });
        let made_up: Vec<String> = (0..3_000).map(|number| format!("${number:043}")).collect();
        network.answers(server, "/_matrix/federation/v1/state_ids/", move |_| {
            (StatusCode::OK, json!({ "pdu_ids": made_up, "auth_chain_ids": [] }))
        });
    }
    let unknown = forge(&eve, &id, message(&eve, "never told"), &[]);
    let lacking = forge(&eve, &id, message(&eve, "lacking"), &[&unknown]);
    assert_eq!(send(b, a, "t", &[&lacking]).await, Vec::<String>::new());
    super::intake::waits(a, 1, 1).await;
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked < 1_000, "{asked} questions");
    assert_eq!(standing(a, &lacking), None);
}
