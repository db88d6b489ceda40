//! What must be true in the end.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ingle::{
    protocol::acl::ServerAcl,
    rooms::cache::Known,
    store::schema::{
        RoomNo, StateNo,
        events::{EVENTS, Standing, TIMELINE},
        numbers::STATE_KEYS,
    },
};
use ruma::{OwnedEventId, OwnedServerName, ServerName, events::room::member::MembershipState};

use super::{client, world::World};
use crate::harness::Server;

type Named = BTreeMap<(String, String), OwnedEventId>;
/// What comes right before each event.
type Graph = BTreeMap<OwnedEventId, Vec<OwnedEventId>>;
/// Events of which not everybody hears.
type Unheard = BTreeMap<OwnedEventId, Arc<Known>>;

/// A room as one server has it.
struct Copy {
    server: Server,
    name: String,
    room: RoomNo,
    /// The events that it has given a place in the graph.
    placed: BTreeMap<OwnedEventId, Arc<Known>>,
    current: Named,
    /// Who is in it, as this server sees it.
    servers: BTreeSet<OwnedServerName>,
    /// Whom the room keeps out, as this server sees it.
    acl: Option<ServerAcl>,
}

impl Copy {
    /// Whether this server listens to the one with this name.
    fn hears(&self, name: &str) -> bool {
        let name = <&ServerName>::try_from(name).expect("a server name");
        self.servers.contains(name) && self.acl.as_ref().is_none_or(|acl| acl.allows(name))
    }
}

/// All servers agree on all rooms, and all clients with their servers.
pub fn check(world: &mut World) {
    for place in 0..world.places.len() {
        let id = world.places[place].id.clone();
        let copies: Vec<Copy> = (0..world.houses.len()).filter_map(|house| copy(world, house, &id)).collect();
        let graph = graph(&copies);
        let all = copies.iter().flat_map(|copy| &copy.placed);
        let kept_back = all.filter(|(_, known)| known.standing == Standing::SoftFailed);
        let mut unheard: BTreeMap<_, _> = kept_back.map(|(event, known)| (event.clone(), known.clone())).collect();
        unheard.extend(copies.iter().flat_map(|copy| last_words(copy, &graph)));
        for (at, one) in copies.iter().enumerate() {
            // A server that was removed or shut out while it could not be reached may never learn of it, for nobody
            // answers its questions any more, and one that has left takes in nothing more: only those who believe
            // each other and themselves to be in the room can agree.
            let agrees = |one: &Copy, other: &Copy| one.hears(&one.name) && one.hears(&other.name);
            for other in copies[at + 1..].iter().filter(|other| agrees(one, other) && agrees(other, one)) {
                same_state(&id, &graph, &unheard, one, other);
                same_judgement(&id, one, other);
                same_events(&id, &graph, &unheard, one, other);
                same_events(&id, &graph, &unheard, other, one);
            }
        }
    }
    for person in 0..world.people.len() {
        client::check(world, person);
    }
}

/// Whether a server waits in vain for the members of a room: the others have removed it, and answer it no more.
pub fn waits_in_vain(world: &World, house: usize, id: &str) -> bool {
    let is_partial = |server: &Server| {
        let room = server.ctx.rooms.find(id.try_into().expect("a room ID"));
        room.is_ok_and(|room| room.is_partial())
    };
    let name = &world.houses[house].name;
    let others = (0..world.houses.len()).filter(|other| *other != house);
    world.server(house).is_some_and(is_partial)
        && others.filter_map(|other| copy(world, other, id)).all(|copy| !copy.hears(name))
}

/// The events of a room as a server shows them, oldest first.
pub fn timeline(server: &Server, room: RoomNo) -> Vec<String> {
    let rows = server.ctx.store.scan(TIMELINE, &(room,));
    let event = |number| server.ctx.rooms.known(number).expect("an event").event.event_id.to_string();
    rows.map(|row| event(row.expect("a row").1)).collect()
}

fn copy(world: &World, house: usize, id: &str) -> Option<Copy> {
    let server = world.server(house)?.clone();
    let rooms = &server.ctx.rooms;
    let room = rooms.find(id.try_into().expect("a room ID")).ok()?.number;
    let mut placed = BTreeMap::new();
    for row in server.ctx.store.scan(EVENTS, &()) {
        let (number, row) = row.expect("a row");
        if row.room == room && row.standing != Standing::Outlier {
            placed.insert(row.id, rooms.known(number).expect("an event"));
        }
    }
    let current = named(&server, rooms.published(room).expect("a head").state);
    let servers = ingle::rooms::forks::servers(rooms, room).expect("servers").into_iter().collect();
    let acl = current.get(&("m.room.server_acl".to_owned(), String::new()));
    let acl = acl.map(|acl| ServerAcl::new(&rooms.by_id(acl).expect("rows").expect("an event").event));
    Some(Copy { name: world.houses[house].name.clone(), server, room, placed, current, servers, acl })
}

/// A state by names.
fn named(server: &Server, number: StateNo) -> Named {
    let rooms = &server.ctx.rooms;
    let state = rooms.state(number).expect("a state");
    let name = |key| server.ctx.store.get(STATE_KEYS, &key).expect("a row").expect("a state key");
    state.iter().map(|(key, event)| (name(key), rooms.known(event).expect("an event").event.event_id.clone())).collect()
}

fn differences(one: &Named, other: &Named) -> Vec<String> {
    let keys: BTreeSet<_> = one.keys().chain(other.keys()).collect();
    let differ = keys.into_iter().filter(|key| one.get(*key) != other.get(*key));
    differ.map(|key| format!("{key:?}: {:?} / {:?}", one.get(key), other.get(key))).collect()
}

/// Both have the same current state, but for what only one of them has accepted, and after which nobody says anything:
/// in a room that was upgraded most people cannot.
fn same_state(id: &str, graph: &Graph, unheard: &Unheard, one: &Copy, other: &Copy) {
    let followed = followed(graph);
    let accepts =
        |copy: &Copy, id: &OwnedEventId| copy.placed.get(id).is_some_and(|known| known.standing == Standing::Accepted);
    let open = unheard.iter().filter(|(id, _)| !followed.contains(*id) && accepts(one, id) != accepts(other, id));
    let open = open.map(|(_, known)| &known.event);
    let [mine, theirs] = [one, other].map(|copy| {
        let (mut state, mut servers) = (copy.current.clone(), copy.servers.clone());
        for event in open.clone() {
            if let Some((kind, key)) = event.key() {
                state.remove(&(kind.to_owned(), key.to_owned()));
                servers.remove(event.server());
            }
        }
        (state, servers)
    });
    let differ = differences(&mine.0, &theirs.0);
    assert!(differ.is_empty(), "{} and {} disagree on the state of {id}: {differ:#?}", one.name, other.name);
    assert_eq!(mine.1, theirs.1, "{} and {} disagree on who is in {id}", one.name, other.name);
}

/// With these a server has left, and nobody has said anything after them. Whoever had come into the room without its
/// knowledge is not told.
fn last_words(copy: &Copy, graph: &Graph) -> impl Iterator<Item = (OwnedEventId, Arc<Known>)> {
    let followed = followed(graph);
    let last = move |(event, known): &(&OwnedEventId, &Arc<Known>)| {
        let leaves = known.event.membership() == Some(MembershipState::Leave);
        leaves && !followed.contains(*event) && !copy.servers.contains(known.event.server())
    };
    copy.placed.iter().filter(last).map(|(event, known)| (event.clone(), known.clone()))
}

fn followed(graph: &Graph) -> BTreeSet<OwnedEventId> {
    graph.values().flatten().cloned().collect()
}

/// What both have placed they judge alike: the state before it, and whether it is rejected.
fn same_judgement(id: &str, one: &Copy, other: &Copy) {
    let mut seen = HashSet::new();
    for (event, known) in &one.placed {
        let Some(theirs) = other.placed.get(event) else { continue };
        same_text(id, one, other, known, theirs);
        // Without its content a redaction is none: in old rooms it is then rejected.
        if known.event.kind == "m.room.redaction" && known.event.json() != theirs.event.json() {
            continue;
        }
        let rejected = [known, theirs].map(|known| known.standing == Standing::Rejected);
        assert_eq!(rejected[0], rejected[1], "{} and {} judge {event} of {id} differently", one.name, other.name);
        let (Some(mine), Some(theirs)) = (known.before, theirs.before) else { continue };
        if seen.insert((mine, theirs)) {
            let differ = differences(&named(&one.server, mine), &named(&other.server, theirs));
            let names = (&one.name, &other.name);
            let told = [one, other].map(|copy| explain(copy, event, 2));
            assert!(differ.is_empty(), "{names:?} disagree on the state before {event} of {id}: {differ:#?} {told:#?}");
        }
    }
}

/// Both have the same text of an event, if neither has redacted it or got it without its content because it may
/// not be seen by that server.
fn same_text(id: &str, one: &Copy, other: &Copy, mine: &Known, theirs: &Known) {
    let room = one.server.ctx.rooms.open(one.room).expect("rows").expect("the room");
    let [bare, other_bare] = [mine, theirs].map(|known| known.event.redacted(room.rules));
    let names = (&one.name, &other.name, &mine.event.event_id);
    assert_eq!(bare.json(), other_bare.json(), "{names:?} of {id}");
    for (copy, redacted, whole) in [(other, mine, theirs), (one, theirs, mine)] {
        let Some(redaction) = redacted.redacted_by.filter(|_| whole.redacted_by.is_none()) else { continue };
        let from = if copy.name == one.name { other } else { one };
        let redaction = from.server.ctx.rooms.known(redaction).expect("an event");
        let there = copy.placed.get(&redaction.event.event_id);
        // In old rooms one that came without its content, because it was redacted itself, redacts nothing.
        let says_what = |known: &Known| known.event.redacts_under(room.rules).is_some();
        let heard = there.is_some_and(|known| known.standing == Standing::Accepted && says_what(known));
        assert!(!heard, "{names:?} of {id}: {} has the redaction {}", copy.name, redaction.event.event_id);
    }
}

/// An event as a server has it, with those that it names, for whoever reads a failure.
fn explain(copy: &Copy, event: &ruma::EventId, depth: usize) -> Vec<String> {
    let known = copy.server.ctx.rooms.by_id(event).expect("rows");
    let mut lines = vec![match &known {
        Some(known) => {
            let (event, standing) = (&known.event, known.standing);
            let before = known.before.map(|before| before.0);
            format!(
                "{standing:?} {} {:?} {} before {before:?} {}",
                event.kind,
                event.state_key,
                event.sender,
                event.json()
            )
        }
        None => "not there".to_owned(),
    }];
    for prev in known.iter().flat_map(|known| &known.event.prev_events).filter(|_| depth > 0) {
        lines.extend(explain(copy, prev, depth - 1).iter().map(|line| format!("  {line}")));
    }
    lines[0] = format!("{event} on {}: {}", copy.name, lines[0]);
    lines
}

/// The graph of a room as all servers together know it. Each of them may have been out of the room for a while, and
/// lacks what happened meanwhile.
fn graph(copies: &[Copy]) -> Graph {
    let events = copies.iter().flat_map(|copy| &copy.placed);
    events.map(|(event, known)| (event.clone(), known.event.prev_events.clone())).collect()
}

/// What one server has, another that is in the room has too, unless it happened before it came.
///
/// What some server keeps back is followed by nobody else's events, and nobody has to hear of it; nor of the last words
/// of a server that has left.
fn same_events(id: &str, graph: &Graph, unheard: &Unheard, one: &Copy, other: &Copy) {
    // Where the other one's knowledge of the graph begins: its joins that rest on what it does not have.
    let begins = other
        .placed
        .values()
        .filter(|known| known.event.prev_events.iter().any(|prev| !other.placed.contains_key(prev)));
    let mut open: Vec<OwnedEventId> = begins.map(|known| known.event.event_id.clone()).collect();
    let mut before = BTreeSet::new();
    while let Some(event) = open.pop() {
        let prev_events = graph.get(&event).into_iter().flatten();
        open.extend(prev_events.filter(|prev| before.insert((*prev).clone())).cloned());
    }
    let missing = one.placed.iter().filter(|(event, known)| {
        let expected = known.standing == Standing::Accepted && !unheard.contains_key(*event);
        expected && !before.contains(*event) && !other.placed.contains_key(*event)
    });
    let missing: Vec<_> =
        missing.map(|(event, known)| format!("{event} {} {}", known.event.kind, known.event.sender)).collect();
    assert!(missing.is_empty(), "{} ({}) lacks what {} has of {id}: {missing:#?}", other.name, other.room, one.name);
}
