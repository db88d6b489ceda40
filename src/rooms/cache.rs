//! What the room core keeps in memory: decoded events, states, and numbers of state keys.
//!
//! Each cache is bounded in bytes. What is in it is what a [`crate::store::Write`] has committed, which
//! may be a moment before it is published: look things up by a number that a published row told you.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use quick_cache::{Weighter, sync::Cache as Bounded};

use super::state::State;
use crate::{
    error::Result,
    protocol::{auth::PowerLevels, event::Event, version::Rules},
    store::schema::{EventNo, RoomNo, StateKeyNo, StateNo, events::Standing},
};

/// An event with what the store knows of it.
#[derive(Debug, Clone)]
pub struct Known {
    /// Its number.
    pub number: EventNo,
    /// The room it belongs to.
    pub room: RoomNo,
    /// The event; redacted once it has been redacted.
    pub event: Arc<Event>,
    /// How it stands in the room.
    pub standing: Standing,
    /// The state before it; unknown for outliers.
    pub before: Option<StateNo>,
    /// The state event whose place it took.
    pub replaces: Option<EventNo>,
    /// The event that redacted it.
    pub redacted_by: Option<EventNo>,
}

/// The power levels that stand in a state, of which `entry` gives the event of each type.
pub fn power_levels(rules: &Rules, entry: impl Fn(&str) -> Result<Option<Arc<Known>>>) -> Result<PowerLevels> {
    let (create, levels) = (entry("m.room.create")?, entry("m.room.power_levels")?);
    let event = |known: &Option<Arc<Known>>| known.as_ref().map(|known| Arc::clone(&known.event));
    Ok(PowerLevels::new(rules, event(&create).as_deref(), event(&levels).as_deref()))
}

#[derive(Clone)]
struct Size;

impl Weighter<EventNo, Arc<Known>> for Size {
    fn weight(&self, _: &EventNo, known: &Arc<Known>) -> u64 {
        known.event.memory_size() as u64 + 128
    }
}

impl Weighter<StateNo, (State, u64)> for Size {
    fn weight(&self, _: &StateNo, (_, bytes): &(State, u64)) -> u64 {
        *bytes
    }
}

impl Weighter<(String, String), StateKeyNo> for Size {
    fn weight(&self, (kind, key): &(String, String), _: &StateKeyNo) -> u64 {
        (kind.len() + key.len()) as u64 + 96
    }
}

/// Where a state comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Derivation {
    /// It is the one after this state event, on top of the state before it.
    After(EventNo, StateNo),
    /// It is what these resolve to; sorted.
    Resolved(Vec<StateNo>),
}

/// How many derivations of states are kept.
const DERIVED: usize = 4_000;

/// The caches of the room core.
pub struct Cache {
    events: Bounded<EventNo, Arc<Known>, Size>,
    states: Bounded<StateNo, (State, u64), Size>,
    state_keys: Bounded<(String, String), StateKeyNo, Size>,
    derived: Bounded<Derivation, StateNo>,
    commits: AtomicU64,
}

impl Cache {
    /// Caches of at most `bytes` together.
    pub fn new(bytes: u64) -> Self {
        Self {
            events: Bounded::with_weighter(2_000, bytes / 2, Size),
            states: Bounded::with_weighter(500, bytes * 3 / 8, Size),
            state_keys: Bounded::with_weighter(500, bytes / 8, Size),
            derived: Bounded::new(DERIVED),
            commits: AtomicU64::new(0),
        }
    }

    /// An event, if it is here.
    pub fn event(&self, number: EventNo) -> Option<Arc<Known>> {
        self.events.get(&number)
    }

    /// Keeps events as they were just committed.
    pub fn keep_events(&self, committed: Vec<Arc<Known>>) {
        self.commits.fetch_add(1, Ordering::AcqRel);
        for known in committed {
            self.events.insert(known.number, known);
        }
    }

    /// Lets go of events whose rows are gone.
    pub fn forget_events(&self, numbers: &[EventNo]) {
        self.commits.fetch_add(1, Ordering::AcqRel);
        for number in numbers {
            self.events.remove(number);
        }
    }

    /// How many commits there were: what was read from a row before the newest of them is not kept,
    /// because it may be older than what is here.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Keeps an event that was read from its row when there had been `commits`.
    pub fn keep_read(&self, known: Arc<Known>, commits: u64) {
        if self.commits() == commits {
            self.events.insert(known.number, known);
        }
    }

    /// A state, if it is here.
    pub fn state(&self, number: StateNo) -> Option<State> {
        self.states.get(&number).map(|(state, _)| state)
    }

    /// Keeps a state that shares all but `own` entries with others that are kept.
    pub fn keep_state(&self, state: &State, own: usize) {
        self.states.insert(state.number, (state.clone(), 400 + 64 * own as u64));
    }

    /// The state that was derived like this before, if that is known.
    pub fn derived(&self, from: &Derivation) -> Option<StateNo> {
        self.derived.get(from)
    }

    /// Keeps how states were derived whose rows are committed.
    pub fn keep_derived(&self, derived: impl IntoIterator<Item = (Derivation, StateNo)>) {
        derived.into_iter().for_each(|(from, state)| self.derived.insert(from, state));
    }

    /// The number of a state key, if it is here.
    pub fn state_key(&self, kind: &str, key: &str) -> Option<StateKeyNo> {
        self.state_keys.get(&(kind.to_owned(), key.to_owned()))
    }

    /// Keeps the number of a state key.
    pub fn keep_state_key(&self, kind: &str, key: &str, number: StateKeyNo) {
        self.state_keys.insert((kind.to_owned(), key.to_owned()), number);
    }
}
