//! What people do: anything, whether they may or not.

use ruma::events::room::member::MembershipState;
use serde_json::{Value, json};

use super::{client, world::World};
use crate::harness::{Server, in_room, quoted};

const VERSIONS: [&str; 12] = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

/// Somebody does something.
pub fn random(world: &mut World) {
    let person = world.one_of(world.people.len());
    if world.one_of(3) == 0 && world.user(person).is_some() {
        client::sync(world, person);
    }
    if world.is_busy(person) || world.user(person).is_none() {
        return;
    }
    if world.places.is_empty() || (world.places.len() < 3 && world.one_of(12) == 0) {
        return create(world, person);
    }
    let place = world.one_of(world.places.len());
    match membership(world, person, place) {
        MembershipState::Join => act(world, person, place),
        _ => enter(world, person, place),
    }
}

/// Everybody of a server says something in a room where they are. One of them may be there for their own server alone,
/// and in a room that was upgraded most may not speak.
pub fn speak(world: &mut World, house: usize, place: usize, round: usize) {
    for person in (0..world.people.len()).filter(|person| world.people[*person].house == house).collect::<Vec<_>>() {
        if membership(world, person, place) != MembershipState::Join {
            continue;
        }
        while world.is_busy(person) {
            world.pass(10);
        }
        let content = json!({ "msgtype": "m.text", "body": format!("the end, {round}") });
        let path = in_room(&world.places[place].id, &format!("send/m.room.message/end{round}"));
        put(world, person, "speaks".to_owned(), path, content);
    }
}

fn membership(world: &World, person: usize, place: usize) -> MembershipState {
    let found = world.server(world.people[person].house).and_then(|server| {
        let rooms = &server.ctx.rooms;
        let room = rooms.find(world.places[place].id.as_str().try_into().ok()?).ok()?;
        rooms.membership(room.number, &world.people[person].id).ok()
    });
    found.unwrap_or(MembershipState::Leave)
}

fn create(world: &mut World, person: usize) {
    let version = VERSIONS[world.one_of(VERSIONS.len())];
    let preset = ["public_chat", "public_chat", "public_chat", "private_chat", "trusted_private_chat"][world.one_of(5)];
    let mut body = json!({ "preset": preset, "room_version": version });
    if world.one_of(3) == 0 {
        let guest = world.one_of(world.people.len());
        if guest != person && world.people[guest].house == world.people[person].house {
            body["invite"] = json!([world.people[guest].id]);
        }
    }
    let what = format!("a room of version {version}");
    post(world, person, what, "/_matrix/client/v3/createRoom".to_owned(), body);
}

/// Somebody outside of a room wants in.
fn enter(world: &mut World, person: usize, place: usize) {
    let id = quoted(&world.places[place].id);
    let house = if world.one_of(2) == 0 { world.places[place].house } else { world.one_of(world.houses.len()) };
    let through = world.houses[house].name.clone();
    match world.one_of(12) {
        0 => post(world, person, "stays out".to_owned(), format!("/_matrix/client/v3/rooms/{id}/leave"), json!({})),
        1 | 2 => {
            let path = format!("/_matrix/client/v3/knock/{id}?via={through}");
            post(world, person, format!("knocks via {through}"), path, json!({}));
        }
        _ => {
            let path = format!("/_matrix/client/v3/join/{id}?via={through}");
            post(world, person, format!("joins via {through}"), path, json!({}));
        }
    }
}

/// Somebody inside of a room does something.
fn act(world: &mut World, person: usize, place: usize) {
    let id = world.places[place].id.clone();
    let other = world.one_of(world.people.len());
    let whom = world.people[other].id.clone();
    let number = world.number();
    let member = |world: &mut World, deed: &str| {
        let body = json!({ "user_id": whom });
        post(world, person, format!("{deed} {whom}"), in_room(&id, deed), body);
    };
    match world.one_of(34) {
        0..=9 => {
            let content = json!({ "msgtype": "m.text", "body": format!("number {number}") });
            put(world, person, "speaks".to_owned(), in_room(&id, &format!("send/m.room.message/t{number}")), content);
        }
        10..=12 => member(world, "invite"),
        13 => member(world, "kick"),
        14 | 15 => member(world, "ban"),
        16 | 17 => member(world, "unban"),
        18 | 19 => state(world, person, &id, "m.room.topic", "", json!({ "topic": format!("topic {number}") })),
        20 => state(world, person, &id, "m.room.name", "", json!({ "name": format!("name {number}") })),
        21 => {
            let key = ["one", "two", "three"][world.one_of(3)];
            state(world, person, &id, "org.example.note", key, json!({ "note": number }));
        }
        22..=24 => power(world, person, place, other),
        25 | 29 => {
            let content = join_rules(world);
            state(world, person, &id, "m.room.join_rules", "", content);
        }
        26 => {
            let seen = ["shared", "joined", "invited", "world_readable"][world.one_of(4)];
            state(world, person, &id, "m.room.history_visibility", "", json!({ "history_visibility": seen }));
        }
        27 => redact(world, person, place, number),
        28 => post(world, person, "leaves".to_owned(), in_room(&id, "leave"), json!({})),
        30 | 31 => {
            // More often than not everybody is let in again.
            let deny = if world.one_of(3) == 0 { vec![world.one_of_houses()] } else { Vec::new() };
            let content = json!({ "allow": ["*"], "deny": deny });
            state(world, person, &id, "m.room.server_acl", "", content);
        }
        32 if world.places.len() < 4 => {
            let version = VERSIONS[world.one_of(VERSIONS.len())];
            let what = format!("upgrades {id} to {version}");
            post(world, person, what, in_room(&id, "upgrade"), json!({ "new_version": version }));
        }
        _ => {
            let content = json!({ "membership": "join", "displayname": format!("name {number}") });
            let me = world.people[person].id.to_string();
            state(world, person, &id, "m.room.member", &me, content);
        }
    }
}

/// Some way to let people in.
fn join_rules(world: &mut World) -> Value {
    let rule = ["public", "public", "invite", "knock", "restricted", "knock_restricted"][world.one_of(6)];
    let place = world.one_of(world.places.len());
    let allow = json!([{ "type": "m.room_membership", "room_id": world.places[place].id }]);
    match rule.ends_with("restricted") {
        true => json!({ "join_rule": rule, "allow": allow }),
        false => json!({ "join_rule": rule }),
    }
}

/// Somebody is given power, or loses it.
fn power(world: &mut World, person: usize, place: usize, other: usize) {
    let level = [0, 0, 50, 50, 100][world.one_of(5)];
    let whom = world.people[other].id.to_string();
    let id = world.places[place].id.clone();
    let Some(user) = world.user(person) else { return };
    let path = in_room(&id, "state/m.room.power_levels/");
    let mut levels = world.at_once(world.people[person].house, user.get(&path)).json;
    if levels["users"].is_object() {
        levels["users"][whom] = json!(level);
        state(world, person, &id, "m.room.power_levels", "", levels);
    }
}

/// Some event of the room is redacted.
fn redact(world: &mut World, person: usize, place: usize, number: u64) {
    let id = world.places[place].id.clone();
    let events = world.server(world.people[person].house).map(|server| all(server, &id)).unwrap_or_default();
    if events.is_empty() {
        return;
    }
    let event = events[world.one_of(events.len())].clone();
    let path = in_room(&id, &format!("redact/{}/r{number}", quoted(&event)));
    put(world, person, format!("redacts {event}"), path, json!({}));
}

fn all(server: &Server, id: &str) -> Vec<String> {
    let Ok(room) = server.ctx.rooms.find(id.try_into().expect("a room ID")) else { return Vec::new() };
    super::agree::timeline(server, room.number)
}

fn state(world: &mut World, person: usize, id: &str, kind: &str, key: &str, content: Value) {
    let path = in_room(id, &format!("state/{kind}/{}", quoted(key)));
    put(world, person, format!("sets {kind} {key} {content}"), path, content);
}

pub fn put(world: &mut World, person: usize, what: String, path: String, body: Value) {
    let Some(user) = world.user(person) else { return };
    let what = format!("{} {what} ({path})", user.id);
    world.tell(what.clone());
    world.begin(person, what, async move { user.put(&path, body).await });
}

pub fn post(world: &mut World, person: usize, what: String, path: String, body: Value) {
    let Some(user) = world.user(person) else { return };
    let what = format!("{} {what} ({path})", user.id);
    world.tell(what.clone());
    world.begin(person, what, async move { user.post(&path, body).await });
}
