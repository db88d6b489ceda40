//! The state of a room at an event: which event stands for each pair of type and state key.
//!
//! In memory a [`State`] is a shared immutable map, so the states before and after an event share all
//! but what changed. On disk it is a difference from an older state. Differences are merged so that
//! each is at least twice as large as the one that builds on it: a state of `n` entries is loaded from
//! at most `log2(n)` rows, and a change costs `log2(n)` written entries on average.
//!
//! Spec: server-server-api#room-state-resolution (what a state is; resolving is `protocol::resolve`)

use std::collections::BTreeMap;

use imbl::OrdMap;

use crate::{
    error::{Error, Result},
    store::{
        Rows, Write,
        schema::{
            EventNo, StateKeyNo, StateNo,
            events::{STATE_PAGES, STATES, StateRow},
        },
    },
};

/// How many entries stand in one row.
const PAGE: usize = 3_000;
/// No chain of differences is longer than this; a longer one is a damaged store.
const LONGEST_CHAIN: usize = 64;

/// A state: numbers of state keys, and of the events that stand for them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Its number in the store; 0 is the empty state before the create event.
    pub number: StateNo,
    map: OrdMap<StateKeyNo, EventNo>,
}

/// An entry of a state that changes: the event that stands there from now on, if any.
pub type Change = (StateKeyNo, Option<EventNo>);

impl State {
    /// The event that stands for a state key.
    pub fn get(&self, key: StateKeyNo) -> Option<EventNo> {
        self.map.get(&key).copied()
    }

    /// All entries, by state key number.
    pub fn iter(&self) -> impl Iterator<Item = (StateKeyNo, EventNo)> + '_ {
        self.map.iter().map(|(key, event)| (*key, *event))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether this is the state before the create event.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// The same state with one more entry, not saved: it keeps the number of the state it comes from.
    pub fn with(&self, key: StateKeyNo, event: EventNo) -> Self {
        Self { number: self.number, map: self.map.update(key, event) }
    }

    /// The same with another event, or none, for a state key; not saved either.
    pub fn set(&mut self, key: StateKeyNo, event: Option<EventNo>) {
        match event {
            Some(event) => self.map.insert(key, event),
            None => self.map.remove(&key),
        };
    }

    /// What has to change in `self` to become `other`: key, the event here, the event there.
    pub fn diff(&self, other: &Self) -> Vec<(StateKeyNo, Option<EventNo>, Option<EventNo>)> {
        use imbl::ordmap::DiffItem;
        self.map
            .diff(&other.map)
            .map(|item| match item {
                DiffItem::Add(key, new) => (*key, None, Some(*new)),
                DiffItem::Update { old, new } => (*new.0, Some(*old.1), Some(*new.1)),
                DiffItem::Remove(key, old) => (*key, Some(*old), None),
            })
            .collect()
    }

    /// The state that `changes` make of this one, as new rows in `write`.
    ///
    /// Changes that change nothing make no new state.
    pub fn derive(&self, write: &mut Write, changes: &[Change]) -> Result<Self> {
        let mut map = self.map.clone();
        let mut difference = BTreeMap::new();
        for &(key, event) in changes {
            if map.get(&key).copied() == event {
                continue;
            }
            match event {
                Some(event) => map.insert(key, event),
                None => map.remove(&key),
            };
            difference.insert(key, event);
        }
        if difference.is_empty() {
            return Ok(self.clone());
        }
        let number = StateNo(write.number());
        save(write, number, self.number, difference)?;
        Ok(Self { number, map })
    }

    /// The state behind a number. `known` returns states that are in memory already, so that the walk
    /// ends early and shares what they hold.
    pub fn load(rows: &impl Rows, number: StateNo, known: impl Fn(StateNo) -> Option<Self>) -> Result<Self> {
        let mut differences = Vec::new();
        let mut at = number;
        let mut map = loop {
            if at == StateNo(0) {
                break OrdMap::new();
            }
            if let Some(state) = known(at) {
                break state.map;
            }
            if differences.len() > LONGEST_CHAIN {
                return Err(Error::internal(format!("the states before state {number} have no end")));
            }
            let row = rows.row(STATES, &at)?.ok_or_else(|| missing(at))?;
            let parent = row.parent.unwrap_or_default();
            differences.push(entries(rows, at, row)?);
            at = parent;
        };
        for (key, event) in differences.into_iter().rev().flatten() {
            match event {
                Some(event) => map.insert(key, event),
                None => map.remove(&key),
            };
        }
        Ok(Self { number, map })
    }
}

fn missing(state: StateNo) -> Error {
    Error::internal(format!("state {state} is missing"))
}

/// Writes a state as its difference from `parent`, merging parents that are not twice as large.
fn save(
    write: &mut Write,
    number: StateNo,
    mut parent: StateNo,
    mut difference: BTreeMap<StateKeyNo, Option<EventNo>>,
) -> Result<()> {
    while parent != StateNo(0) {
        let row = write.get(STATES, &parent)?.ok_or_else(|| missing(parent))?;
        if row.size >= 2 * difference.len() as u64 {
            break;
        }
        let next = row.parent.unwrap_or_default();
        for (key, event) in entries(write, parent, row)? {
            difference.entry(key).or_insert(event);
        }
        parent = next;
    }
    let is_root = parent == StateNo(0);
    let set: Vec<_> = difference.iter().filter_map(|(key, event)| Some((*key, (*event)?))).collect();
    let unset = match is_root {
        true => Vec::new(),
        false => difference.iter().filter(|(_, event)| event.is_none()).map(|(key, _)| *key).collect::<Vec<_>>(),
    };
    let (first, rest) = set.split_at(set.len().min(PAGE));
    for (page, entries) in rest.chunks(PAGE).enumerate() {
        write.put(STATE_PAGES, &(number, page as u64), &entries.to_vec());
    }
    let row = StateRow {
        parent: (!is_root).then_some(parent),
        size: (set.len() + unset.len()) as u64,
        pages: rest.len().div_ceil(PAGE) as u64,
        set: first.to_vec(),
        unset,
    };
    write.put(STATES, &number, &row);
    Ok(())
}

/// The entries of one difference.
fn entries(rows: &impl Rows, number: StateNo, row: StateRow) -> Result<Vec<Change>> {
    let mut changes: Vec<Change> = row.unset.into_iter().map(|key| (key, None)).collect();
    changes.extend(row.set.into_iter().map(|(key, event)| (key, Some(event))));
    for page in 0..row.pages {
        let entries = rows.row(STATE_PAGES, &(number, page))?.ok_or_else(|| missing(number))?;
        changes.extend(entries.into_iter().map(|(key, event)| (key, Some(event))));
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::Store;

    fn chain(store: &Store, mut number: StateNo) -> usize {
        let mut length = 0;
        while let Some(row) = store.get(STATES, &number).unwrap() {
            length += 1;
            number = row.parent.unwrap_or_default();
        }
        length
    }

    fn derive(store: &Store, state: &State, changes: &[Change]) -> State {
        let mut write = store.write();
        let state = state.derive(&mut write, changes).unwrap();
        drop(write.commit().unwrap());
        state
    }

    #[test]
    fn a_large_state_is_loaded_from_few_rows() {
        let store = Store::in_memory();
        let mut state = State::default();
        for n in 1..=7_000 {
            state = derive(&store, &state, &[(StateKeyNo(n), Some(EventNo(n)))]);
        }
        assert!(chain(&store, state.number) <= 14);
        assert_eq!(State::load(&store, state.number, |_| None).unwrap(), state);
    }

    #[test]
    fn a_change_to_the_same_makes_no_new_state() {
        let store = Store::in_memory();
        let state = derive(&store, &State::default(), &[(StateKeyNo(1), Some(EventNo(1)))]);
        assert_eq!(derive(&store, &state, &[(StateKeyNo(1), Some(EventNo(1)))]).number, state.number);
    }

    #[test]
    fn a_difference_tells_both_sides() {
        let store = Store::in_memory();
        let one =
            derive(&store, &State::default(), &[(StateKeyNo(1), Some(EventNo(1))), (StateKeyNo(2), Some(EventNo(2)))]);
        let two = derive(&store, &one, &[(StateKeyNo(1), None), (StateKeyNo(3), Some(EventNo(3)))]);
        assert_eq!(one.diff(&two), [(StateKeyNo(1), Some(EventNo(1)), None), (StateKeyNo(3), None, Some(EventNo(3)))]);
    }

    proptest! {
        #[test]
        fn every_state_is_loaded_as_it_was(steps in prop::collection::vec((1u64..40, prop::option::of(1u64..1000)), 1..120)) {
            let store = Store::in_memory();
            let mut states = vec![State::default()];
            for (key, event) in steps {
                let next = derive(&store, states.last().unwrap(), &[(StateKeyNo(key), event.map(EventNo))]);
                states.push(next);
            }
            for state in &states {
                prop_assert_eq!(&State::load(&store, state.number, |_| None).unwrap(), state);
                prop_assert!(chain(&store, state.number) <= 7);
            }
        }
    }
}
