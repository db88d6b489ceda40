//! What it costs to resolve forked state.
//!
//! In rooms of a hundred, a thousand and ten thousand members: the room forks once; on one branch somebody is banned
//! and a topic is set, on the other one in twenty members joins and another topic is set. And where a hundred, a
//! thousand and ten thousand events conflict: each branch has set the same keys, and every tenth time the power
//! levels too; or there are fifty branches.

use std::{collections::HashMap, hint::black_box, sync::Arc};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ingle::protocol::{
    auth::auth_types,
    canonical::{Numbers, parse_object, write_object},
    compose::Draft,
    event::Event,
    resolve::{Lookup, StateMap, resolve},
    version::{Rules, by_name},
};
use ruma::{EventId, OwnedEventId};

struct Room {
    rules: &'static Rules,
    events: HashMap<OwnedEventId, Arc<Event>>,
}

impl Room {
    /// Adds a state event to a branch, without hashes and signatures: nobody looks at them here.
    fn add(&mut self, state: &mut StateMap, sender: &str, kind: &str, state_key: &str, content: &str) {
        let content = parse_object(content.as_bytes(), Numbers::Strict).unwrap();
        let mut draft = Draft::new(kind, sender.try_into().unwrap(), content);
        draft.state_key = Some(state_key.to_owned());
        draft.depth = self.events.len() as u64 + 1;
        draft.origin_server_ts = self.events.len() as u64;
        let types = auth_types(kind, &draft.sender, Some(state_key), &draft.content, self.rules);
        let types = types.into_iter().map(|(kind, key)| (kind.to_owned(), key));
        draft.auth_events = types.filter_map(|key| state.get(&key).cloned()).collect();
        let id: OwnedEventId = format!("${:043}", self.events.len()).try_into().unwrap();
        let room_id = format!("!{:043}", 0);
        if !(self.rules.room_id_is_hash && kind == "m.room.create") {
            draft.room_id = Some(room_id.as_str().try_into().unwrap());
        }
        let json = write_object(&draft.into_pdu(self.rules));
        let event = Event::from_stored(id.clone(), room_id.try_into().unwrap(), json.into()).unwrap();
        self.events.insert(id.clone(), Arc::new(event));
        state.insert((kind.to_owned(), state_key.to_owned()), id);
    }

    fn join(&mut self, state: &mut StateMap, number: usize) {
        let user = format!("@user{number}:example.org");
        self.add(state, &user, "m.room.member", &user, r#"{"displayname":"Somebody","membership":"join"}"#);
    }
}

fn forked(version: &str, members: usize) -> (Room, [StateMap; 2]) {
    let mut room = Room { rules: by_name(version).unwrap(), events: HashMap::new() };
    let mut trunk = StateMap::new();
    let ann = "@ann:example.org";
    room.add(&mut trunk, ann, "m.room.create", "", r#"{"room_version":"11"}"#);
    room.add(&mut trunk, ann, "m.room.member", ann, r#"{"membership":"join"}"#);
    let levels = if version == "12" { r#"{"users":{}}"# } else { r#"{"users":{"@ann:example.org":100}}"# };
    room.add(&mut trunk, ann, "m.room.power_levels", "", levels);
    room.add(&mut trunk, ann, "m.room.join_rules", "", r#"{"join_rule":"public"}"#);
    for number in 0..members {
        room.join(&mut trunk, number);
    }
    let [mut left, mut right] = [trunk.clone(), trunk];
    room.add(&mut left, ann, "m.room.member", "@user1:example.org", r#"{"membership":"ban"}"#);
    room.add(&mut left, ann, "m.room.topic", "", r#"{"topic":"tea"}"#);
    for number in members..members + members / 20 {
        room.join(&mut right, number);
    }
    room.add(&mut right, ann, "m.room.topic", "", r#"{"topic":"coffee"}"#);
    (room, [left, right])
}

/// States in which so many events conflict.
fn conflicted(version: &str, events: usize, branches: usize) -> (Room, Vec<StateMap>) {
    let (mut room, [trunk, _]) = forked(version, 10);
    let ann = "@ann:example.org";
    let mut states = vec![trunk; branches];
    for (branch, state) in states.iter_mut().enumerate() {
        for number in 0..events / branches {
            if number % 10 == 0 {
                let level = number + branch;
                let ann = if version == "12" { "" } else { r#""@ann:example.org":100,"# };
                let levels = format!(r#"{{"users":{{{ann}"@user2:example.org":{level}}}}}"#);
                room.add(state, "@ann:example.org", "m.room.power_levels", "", &levels);
            }
            room.add(state, ann, "org.example.note", &number.to_string(), "{}");
        }
    }
    (room, states)
}

fn measure(c: &mut Criterion, group: &str, sizes: &[usize], states: impl Fn(usize) -> (Room, Vec<StateMap>)) {
    let mut group = c.benchmark_group(group);
    for size in sizes {
        let (room, states) = states(*size);
        let find = |id: &EventId| room.events.get(id).cloned();
        let lookup = Lookup { event: &find, rejected: &|_| false };
        let states: Vec<&StateMap> = states.iter().collect();
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| resolve(room.rules, black_box(&states), &lookup).unwrap())
        });
    }
    group.finish();
}

fn resolving_conflicts(c: &mut Criterion) {
    for version in ["1", "2", "12"] {
        measure(c, &format!("conflicts/version_{version}"), &[100, 1_000, 10_000], |events| {
            conflicted(version, events, 2)
        });
        measure(c, &format!("fifty_branches/version_{version}"), &[1_000], |events| conflicted(version, events, 50));
    }
}

fn resolving(c: &mut Criterion) {
    for version in ["11", "12"] {
        let mut group = c.benchmark_group(format!("resolve/version_{version}"));
        for members in [100, 1_000, 10_000] {
            let (room, states) = forked(version, members);
            let find = |id: &EventId| room.events.get(id).cloned();
            let lookup = Lookup { event: &find, rejected: &|_| false };
            let states = [&states[0], &states[1]];
            let resolved = resolve(room.rules, &states, &lookup).unwrap();
            assert_eq!(resolved.len(), members + members / 20 + 5);
            group.bench_function(BenchmarkId::from_parameter(members), |b| {
                b.iter(|| resolve(room.rules, black_box(&states), &lookup).unwrap())
            });
        }
        group.finish();
    }
}

criterion_group!(benches, resolving, resolving_conflicts);
criterion_main!(benches);
