//! Scenes in one room, below the API: what the room core promises to everybody above it.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use ruma::{
    OwnedUserId, RoomVersionId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
    events::room::member::MembershipState,
};
use serde_json::json;

use super::{
    Room, Rooms,
    append::NewEvent,
    create::create,
    history::{self, Direction},
    send,
    token::Cursor,
    view::Viewer,
};
use crate::{
    chance::Chance,
    clock::Clock,
    config::Config,
    error::Result,
    protocol::{canonical, event::Event, sign::KeyPair},
    remote::{Remote, transport::Island},
    store::{
        Store,
        schema::{events::Standing, federation::OUTBOX, numbers},
    },
    users::Users,
};

pub(super) fn rooms() -> Rooms {
    over(Store::in_memory())
}

fn over(store: Store) -> Rooms {
    let clock = Clock::by_hand(1_000_000);
    let config = Arc::new(Config::for_tests());
    let users = Users::for_tests(&store, &clock, &config);
    let key = Arc::new(KeyPair::from_seed(&[7; 32], "test"));
    let remote = Remote::new(config, clock, Chance::seeded(7), store, key, Arc::new(Island)).unwrap();
    Rooms::new(users, Arc::new(remote), 1 << 20)
}

pub(super) fn user(rooms: &Rooms, name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{}", rooms.config.server_name)).unwrap()
}

pub(super) fn new_room(rooms: &Rooms, creator: &UserId, request: Request) -> Arc<Room> {
    let (room, ticket) = create(rooms, creator, request).unwrap();
    drop(ticket);
    room
}

fn say(rooms: &Rooms, room: &Room, sender: &UserId, text: &str) -> Result<Arc<Event>> {
    let content = canonical::to_object(&json!({ "msgtype": "m.text", "body": text })).unwrap();
    let mut deciding = rooms.decide(room);
    let event = deciding.send(NewEvent::message(sender, "m.room.message", content))?;
    drop(deciding.commit()?);
    Ok(event)
}

fn state(rooms: &Rooms, room: &Room) -> String {
    let state = rooms.current(room.number).unwrap();
    let mut lines: Vec<_> = state
        .iter()
        .map(|(_, number)| {
            let event = Arc::clone(&rooms.known(number).unwrap().event);
            format!("{} {:?} {}", event.kind, event.state_key.as_deref().unwrap_or_default(), event.content())
        })
        .collect();
    lines.sort();
    lines.join("\n")
}

fn messages(rooms: &Rooms, room: &Room, viewer: &UserId) -> Vec<String> {
    let viewer = Viewer::new(rooms, viewer, None).unwrap();
    let page = history::page(rooms, room.number, Direction::Forward, Cursor::START, None, 1_000, |known| {
        viewer.may_see(known)
    });
    let events = page.unwrap().events;
    events.iter().filter_map(|known| known.event.content_field::<String>("body")).collect()
}

#[test]
fn a_private_room_begins_with_its_creator_and_closed_doors() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let mut request = Request::new();
    request.room_version = Some(RoomVersionId::V11);
    request.name = Some("Kitchen".to_owned());
    let room = new_room(&rooms, &ann, request);
    let state = state(&rooms, &room);
    for line in [
        r#"m.room.create "" {"room_version":"11"}"#,
        r#"m.room.guest_access "" {"guest_access":"can_join"}"#,
        r#"m.room.history_visibility "" {"history_visibility":"shared"}"#,
        r#"m.room.join_rules "" {"join_rule":"invite"}"#,
        r#"m.room.name "" {"name":"Kitchen"}"#,
    ] {
        assert!(state.contains(line), "{line} is not in\n{state}");
    }
    assert_eq!(rooms.membership(room.number, &ann).unwrap(), MembershipState::Join);
    assert_eq!(rooms.published(room.number).unwrap().members, (1, 0));
}

#[test]
fn two_rooms_of_the_same_moment_are_two_rooms() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let (one, two) = (new_room(&rooms, &ann, Request::new()), new_room(&rooms, &ann, Request::new()));
    assert_ne!(one.id, two.id);
    say(&rooms, &two, &ann, "in the second").unwrap();
    assert!(messages(&rooms, &one, &ann).is_empty());
}

#[test]
fn a_room_of_every_version_holds_a_conversation() {
    for version in [RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
        let rooms = rooms();
        let (ann, bob) = (user(&rooms, "ann"), user(&rooms, "bob"));
        let mut request = Request::new();
        request.room_version = Some(version);
        request.preset = Some(RoomPreset::TrustedPrivateChat);
        request.invite = vec![bob.clone()];
        let room = new_room(&rooms, &ann, request);
        assert_eq!(rooms.membership(room.number, &bob).unwrap(), MembershipState::Invite);
        let mut deciding = rooms.decide(&room);
        deciding.join(&bob, None, Default::default()).unwrap();
        drop(deciding.commit().unwrap());
        say(&rooms, &room, &ann, "hello").unwrap();
        say(&rooms, &room, &bob, "good morning").unwrap();
        assert_eq!(messages(&rooms, &room, &bob), ["hello", "good morning"]);
        assert_eq!(rooms.published(room.number).unwrap().members, (2, 0));
    }
}

#[test]
fn a_stranger_is_refused_and_leaves_no_trace() {
    let rooms = rooms();
    let (ann, eve) = (user(&rooms, "ann"), user(&rooms, "eve"));
    let room = new_room(&rooms, &ann, Request::new());
    let before = rooms.store.position();
    let refusal = say(&rooms, &room, &eve, "let me in").unwrap_err();
    assert_eq!((refusal.status.as_u16(), refusal.errcode.as_ref()), (403, "M_FORBIDDEN"));
    assert_eq!(rooms.store.position(), before);
    assert!(messages(&rooms, &room, &ann).is_empty());
}

#[test]
fn what_was_redacted_is_gone_for_everybody() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let room = new_room(&rooms, &ann, Request::new());
    let secret = say(&rooms, &room, &ann, "my password is xyzzy").unwrap();
    let mut redaction = NewEvent::message(&ann, "m.room.redaction", Default::default());
    redaction.redacts = Some(secret.event_id.clone());
    let mut deciding = rooms.decide(&room);
    deciding.send(redaction).unwrap();
    drop(deciding.commit().unwrap());
    let known = rooms.by_id(&secret.event_id).unwrap().unwrap();
    let seen = Viewer::new(&rooms, &ann, None).unwrap().event(&known, true).unwrap();
    assert!(!seen.contains("xyzzy"), "{seen}");
    assert!(seen.contains("redacted_because"), "{seen}");
    let row = rooms.store.get(crate::store::schema::events::EVENTS, &known.number).unwrap().unwrap();
    assert!(!row.json.contains("xyzzy"));
}

#[test]
fn a_room_is_the_same_after_it_was_closed_and_opened() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let room = new_room(&rooms, &ann, Request::new());
    say(&rooms, &room, &ann, "one").unwrap();
    let (before, id) = (state(&rooms, &room), room.id.clone());
    drop(room);
    rooms.open.lock().clear();
    let room = rooms.find(&id).unwrap();
    say(&rooms, &room, &ann, "two").unwrap();
    assert_eq!(state(&rooms, &room), before);
    assert_eq!(messages(&rooms, &room, &ann), ["one", "two"]);
}

#[test]
fn pages_meet_without_gap_or_overlap_in_both_directions() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let room = new_room(&rooms, &ann, Request::new());
    for n in 0..25 {
        say(&rooms, &room, &ann, &n.to_string()).unwrap();
    }
    for (direction, start) in [(Direction::Backward, Cursor::END), (Direction::Forward, Cursor::START)] {
        let mut seen = Vec::new();
        let mut from = Some(start);
        while let Some(cursor) = from {
            let page = history::page(&rooms, room.number, direction, cursor, None, 7, |_| Ok(true)).unwrap();
            seen.extend(page.events.iter().filter_map(|known| known.event.content_field::<String>("body")));
            from = page.end;
        }
        if direction == Direction::Backward {
            seen.reverse();
        }
        assert_eq!(seen, (0..25).map(|n| n.to_string()).collect::<Vec<_>>());
    }
}

#[test]
fn a_kicked_user_may_come_back_and_a_banned_one_may_not() {
    let rooms = rooms();
    let (ann, bob) = (user(&rooms, "ann"), user(&rooms, "bob"));
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PublicChat);
    let room = new_room(&rooms, &ann, request);
    let mut deciding = rooms.decide(&room);
    deciding.join(&bob, None, Default::default()).unwrap();
    deciding.kick(&ann, &bob, Some("out")).unwrap();
    deciding.join(&bob, None, Default::default()).unwrap();
    deciding.ban(&ann, &bob, None).unwrap();
    assert_eq!(deciding.join(&bob, None, Default::default()).unwrap_err().errcode, "M_FORBIDDEN");
    drop(deciding.commit().unwrap());
    assert_eq!(rooms.membership(room.number, &bob).unwrap(), MembershipState::Ban);
    assert_eq!(rooms.published(room.number).unwrap().members, (1, 0));
}

#[test]
fn a_transaction_is_remembered_for_a_week() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let room = new_room(&rooms, &ann, Request::new());
    let number = numbers::find_user(&rooms.store, &ann).unwrap().unwrap();
    let say = |device: &str, transaction: &str| {
        let sender = send::Sender { user: &ann, number, device: device.into() };
        let new = send::NewMessage {
            kind: "m.room.message",
            content: r#"{"msgtype":"m.text","body":"hello"}"#,
            redacts: None,
            transaction,
            timestamp: None,
        };
        send::message(&rooms, sender, &room.id, &new).unwrap().0
    };
    let first = say("PHONE", "1");
    assert_ne!(say("LAPTOP", "1"), first, "each device has transactions of its own");
    rooms.clock.advance(Duration::from_secs(6 * 24 * 3600));
    let later = say("PHONE", "2");
    send::forget_transactions(&rooms).now_or_never().unwrap().unwrap();
    assert_eq!(say("PHONE", "1"), first);
    rooms.clock.advance(Duration::from_secs(2 * 24 * 3600));
    send::forget_transactions(&rooms).now_or_never().unwrap().unwrap();
    assert_eq!(say("PHONE", "2"), later);
    assert_ne!(say("PHONE", "1"), first);
}

#[test]
fn only_what_other_servers_may_see_goes_out() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let request = |preset| {
        let mut request = Request::new();
        request.preset = Some(preset);
        request
    };
    let room = new_room(&rooms, &ann, request(RoomPreset::PublicChat));
    let out = || rooms.store.scan(OUTBOX, &()).count();
    say(&rooms, &room, &ann, "among ourselves").unwrap();
    assert_eq!(out(), 0);
    for server in ["a.test", "z.test"] {
        let guest = UserId::parse(format!("@bob:{server}")).unwrap();
        let mut deciding = rooms.decide(&room);
        deciding.join(&guest, None, Default::default()).unwrap();
        drop(deciding.commit().unwrap());
    }
    let before = out();
    say(&rooms, &room, &ann, "with guests").unwrap();
    assert_eq!(out(), before + 1);
}

#[test]
fn what_is_read_while_its_redaction_is_on_the_way_is_not_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let rooms = over(crate::store::tests::open(folder.path()));
    let ann = user(&rooms, "ann");
    let room = new_room(&rooms, &ann, Request::new());
    let said = say(&rooms, &room, &ann, "a secret").unwrap();
    rooms.store.write().commit().unwrap().wait().unwrap();
    let number = rooms.by_id(&said.event_id).unwrap().unwrap().number;

    let held = rooms.store.hold();
    let ticket = {
        let mut deciding = rooms.decide(&room);
        let content = canonical::to_object(&json!({ "redacts": said.event_id })).unwrap();
        deciding.send(NewEvent::message(&ann, "m.room.redaction", content)).unwrap();
        deciding.commit().unwrap()
    };
    // There was no place for it in memory, and somebody reads what is published.
    rooms.cache.forget_events(&[number]);
    assert!(rooms.known(number).unwrap().event.content().contains("secret"));
    drop(held);
    ticket.wait().unwrap();
    assert_eq!(rooms.known(number).unwrap().event.content(), "{}");
}

#[test]
fn the_same_states_are_derived_and_resolved_once() {
    let rooms = rooms();
    let ann = user(&rooms, "ann");
    let room = new_room(&rooms, &ann, Request::new());
    let topic = |text: &str| {
        let content = canonical::to_object(&json!({ "topic": text })).unwrap();
        NewEvent::state(&ann, "m.room.topic", "", content)
    };
    let ends = {
        let mut deciding = rooms.decide(&room);
        let before = deciding.head().state.clone();
        // Two topics at the same time.
        let two = [topic("tea"), topic("coffee")].map(|new| Arc::new(deciding.compose(new).unwrap()));
        let ends = two.map(|event| deciding.accept(&event, &before, Standing::Accepted).unwrap());
        drop(deciding.commit().unwrap());
        ends
    };
    let state = rooms.published(room.number).unwrap().state;
    let mut deciding = rooms.decide(&room);
    let states = ends.map(|known| deciding.state_after(&known).unwrap());
    assert_ne!(states[0].number, states[1].number);
    assert_eq!(deciding.resolve(&states).unwrap().number, state);
    let [one, two] = states;
    assert_eq!(deciding.resolve(&[two, one]).unwrap().number, state);
}
