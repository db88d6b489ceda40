//! State resolution: one state out of several, the same on every server.
//!
//! Where the event graph forks, each branch has a state of its own; where branches meet, [`resolve`]
//! decides which events make up the state after both. Events and whether they were rejected come in
//! through a [`Lookup`], so resolution reads the store directly and may run on a blocking thread.
//!
//! [`v1`] is for rooms of version 1, [`v2`] for all others (with what version 12 changed). Finding the
//! states before an event, and fetching events that are missing, is the work of `rooms`.
//!
//! Spec: server-server-api#room-state-resolution

mod chains;
mod v1;
mod v2;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

use ruma::{EventId, OwnedEventId};

use super::{
    event::Event,
    version::{Resolution, Rules},
};

/// A state: event IDs by type and state key.
pub type StateMap = BTreeMap<(String, String), OwnedEventId>;

/// The most events of auth chains that one resolution reads.
pub const MAX_CHAIN: usize = 1_000_000;

/// Where resolution finds what it does not hold.
pub struct Lookup<'a> {
    /// An event by ID: each one in the states, and all their auth events, and so on.
    pub event: &'a dyn Fn(&EventId) -> Option<Arc<Event>>,
    /// Whether an event was rejected when it came in.
    pub rejected: &'a dyn Fn(&EventId) -> bool,
}

/// Why states could not be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// An event of a state or of an auth chain is not there.
    Missing(OwnedEventId),
    /// The auth chains are longer than [`MAX_CHAIN`].
    TooLarge,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(event_id) => write!(f, "the event {event_id} is needed to resolve the room's state"),
            Self::TooLarge => write!(f, "resolving the room's state would need more than {MAX_CHAIN} events"),
        }
    }
}

impl std::error::Error for ResolveError {}

/// What states agree on, looked up as it is needed: of a large room that is little.
pub trait Agreed {
    /// The event that all of them have for a key.
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId>;
    /// Calls `each` with all these events until it returns false; first with those that are no member events, on
    /// which most others rest.
    fn walk(&self, each: &mut dyn FnMut(&EventId) -> bool);
}

impl Agreed for StateMap {
    fn get(&self, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        Self::get(self, &(kind.to_owned(), state_key.to_owned())).cloned()
    }

    fn walk(&self, each: &mut dyn FnMut(&EventId) -> bool) {
        let is_member = |kind: &str| kind == "m.room.member";
        let others = self.iter().filter(|((kind, _), _)| !is_member(kind));
        let members = self.iter().filter(|((kind, _), _)| is_member(kind));
        let _ = others.chain(members).all(|(_, id)| each(id));
    }
}

/// Resolves states of which only the entries on which they differ are given; `agreed` has the others. Returns what
/// becomes of those, and of others that nobody has and that an auth chain brings back. From room version 2 on.
pub fn resolve_conflicts(
    rules: &Rules,
    agreed: &dyn Agreed,
    states: &[&StateMap],
    lookup: &Lookup<'_>,
) -> Result<StateMap, ResolveError> {
    let (_, conflicts) = divide(states, true);
    v2::resolve_conflicts(rules, agreed, states, &conflicts, lookup)
}

/// Resolves these states into one. Their order does not matter.
pub fn resolve(rules: &Rules, states: &[&StateMap], lookup: &Lookup<'_>) -> Result<StateMap, ResolveError> {
    match rules.resolution {
        Resolution::V1 => v1::resolve(rules, states, lookup),
        Resolution::V2 | Resolution::V2_1 => v2::resolve(rules, states, lookup),
    }
}

/// The IDs on which the states differ, by key.
type Conflicts = BTreeMap<(String, String), BTreeSet<OwnedEventId>>;

/// Divides the states into what they agree on and what they do not. With `everywhere`, a key that one
/// of them lacks is a conflict too; version 1 does not see it so.
fn divide(states: &[&StateMap], everywhere: bool) -> (StateMap, Conflicts) {
    let mut values: BTreeMap<&(String, String), (usize, BTreeSet<&OwnedEventId>)> = BTreeMap::new();
    for state in states {
        for (key, id) in *state {
            let (count, ids) = values.entry(key).or_default();
            *count += 1;
            ids.insert(id);
        }
    }
    let mut agreed = StateMap::new();
    let mut conflicts = Conflicts::new();
    for (key, (count, ids)) in values {
        match ids.first() {
            Some(only) if ids.len() == 1 && (!everywhere || count == states.len()) => {
                agreed.insert(key.clone(), (*only).clone());
            }
            _ => {
                conflicts.insert(key.clone(), ids.into_iter().cloned().collect());
            }
        }
    }
    (agreed, conflicts)
}

impl Lookup<'_> {
    fn find(&self, id: &EventId) -> Result<Arc<Event>, ResolveError> {
        (self.event)(id).ok_or_else(|| ResolveError::Missing(id.to_owned()))
    }
}

/// A state under construction, with its events at hand.
#[derive(Default)]
struct Partial {
    events: HashMap<String, HashMap<String, Arc<Event>>>,
}

impl Partial {
    fn get(&self, kind: &str, state_key: &str) -> Option<&Arc<Event>> {
        self.events.get(kind)?.get(state_key)
    }

    fn insert(&mut self, event: Arc<Event>) {
        if let Some((kind, key)) = event.key() {
            self.events.entry(kind.to_owned()).or_default().insert(key.to_owned(), event.clone());
        }
    }

    fn into_state(self) -> StateMap {
        let of_kind = |(kind, events): (String, HashMap<String, Arc<Event>>)| {
            events.into_iter().map(move |(key, event)| ((kind.clone(), key), event.event_id.clone()))
        };
        self.events.into_iter().flat_map(of_kind).collect()
    }
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod tests;
