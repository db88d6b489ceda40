//! A client that follows its server: it folds what `/sync` tells, and in the end must know what the server knows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::world::World;
use crate::harness::{in_room, quoted};

/// How many events of a room one answer tells at most.
const FILTER: &str = r#"{"room":{"timeline":{"limit":20}}}"#;

/// What a client has been told.
#[derive(Default)]
pub struct Follower {
    since: Option<String>,
    rooms: BTreeMap<String, Seen>,
}

/// What a client believes of a room.
#[derive(Default)]
struct Seen {
    /// `(type, state key)` to event ID.
    state: BTreeMap<(String, String), String>,
    /// The events that were told without a gap, oldest first.
    timeline: Vec<String>,
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn entry(event: &Value) -> ((String, String), String) {
    ((text(event, "type"), text(event, "state_key")), text(event, "event_id"))
}

impl Follower {
    fn fold(&mut self, answer: &Value) {
        self.since = answer["next_batch"].as_str().map(str::to_owned);
        let rooms = |section: &str| answer["rooms"][section].as_object().cloned().unwrap_or_default();
        for (id, _) in rooms("leave").into_iter().chain(rooms("invite")).chain(rooms("knock")) {
            self.rooms.remove(&id);
        }
        for (id, room) in rooms("join") {
            let seen = self.rooms.entry(id).or_default();
            if room["timeline"]["limited"] == true {
                seen.timeline.clear();
            }
            seen.timeline.extend(list(&room["timeline"]["events"]).map(|event| text(event, "event_id")));
            seen.state.extend(list(&room["state_after"]["events"]).map(entry));
        }
    }
}

/// Somebody syncs.
pub fn sync(world: &mut World, person: usize) {
    let Some(user) = world.user(person) else { return };
    let since = world.people[person].follower.since.clone();
    let since = since.map(|since| format!("&since={since}")).unwrap_or_default();
    let path = format!("/_matrix/client/v3/sync?timeout=0&use_state_after=true&filter={}{since}", quoted(FILTER));
    let answer = world.at_once(world.people[person].house, user.get(&path)).ok();
    world.people[person].follower.fold(&answer);
}

/// After a last sync somebody knows exactly what their server knows.
pub fn check(world: &mut World, person: usize) {
    sync(world, person);
    let Some(user) = world.user(person) else { return };
    let get = |path: &str| world.at_once(world.people[person].house, user.get(path));
    let joined = get("/_matrix/client/v3/joined_rooms").ok();
    let mut joined: Vec<String> =
        list(&joined["joined_rooms"]).filter_map(|id| Some(id.as_str()?.to_owned())).collect();
    // Whoever does not load members on demand is told of a room when they are there.
    joined.retain(|id| !super::agree::waits_in_vain(world, world.people[person].house, id));
    joined.sort();
    let follower = &world.people[person].follower;
    let known: Vec<_> = follower.rooms.keys().cloned().collect();
    assert_eq!(known, joined, "the rooms of {}", user.id);
    for (id, seen) in &follower.rooms {
        let state = get(&in_room(id, "state")).ok();
        let state: BTreeMap<_, _> = list(&state).map(entry).collect();
        // That an entry is gone altogether cannot be told.
        let mut told = seen.state.clone();
        told.retain(|key, _| state.contains_key(key));
        assert_eq!(told, state, "the state of {id} as {} was told", user.id);
        let number = user.server.ctx.rooms.find(id.as_str().try_into().expect("a room ID")).expect("the room").number;
        let timeline = super::agree::timeline(&user.server, number);
        let begin = timeline.iter().position(|event| Some(event) == seen.timeline.first());
        let since = begin.map_or(&[][..], |begin| &timeline[begin..]);
        // What was not told must not be seen.
        let mut told = seen.timeline.iter().peekable();
        for event in since {
            if told.next_if(|next| *next == event).is_none() {
                let seen = get(&in_room(id, &format!("event/{}", quoted(event)))).status;
                assert!(!seen.is_success(), "{event} of {id} was not told to {}", user.id);
            }
        }
        assert_eq!(told.next(), None, "{} was told this of {id} in another order: {since:?}", user.id);
    }
}
