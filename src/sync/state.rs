//! How the state of a room changed, from what a reader knows to the start or the end of a timeline.
//!
//! Made of the rows that tell each change of the current state, so that what state resolution changed
//! without any event in the timeline is told as well.
//!
//! Spec: client-server-api#get_matrixclientv3sync (`state`, `state_after`)

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
};

use super::Look;
use crate::{
    error::Result,
    rooms::state::State,
    store::{
        Position,
        schema::{
            EventNo, RoomNo, StateKeyNo,
            events::{DeltaRow, STATE_DELTAS},
        },
    },
};

/// The changes of a room's state in a part of its log.
pub struct Changes<'a> {
    look: &'a Look<'a>,
    room: RoomNo,
    /// Whether the reader knows nothing of the state.
    whole: bool,
    until: Position,
    turns: BTreeMap<StateKeyNo, Turn>,
    state: OnceCell<State>,
}

/// What became of one state key.
#[derive(Debug, Clone, Copy)]
struct Turn {
    /// What the reader knows.
    old: Option<EventNo>,
    /// What stood there when the timeline begins.
    start: Option<EventNo>,
    /// What stands there at the end.
    end: Option<EventNo>,
}

/// Entries of a state.
pub type Entries = Vec<(StateKeyNo, EventNo)>;

impl<'a> Changes<'a> {
    /// The changes after `since`, or all state there is, up to and with `until`; the timeline begins at
    /// `start`.
    pub fn read(
        look: &'a Look<'a>,
        room: RoomNo,
        since: Option<Position>,
        start: Position,
        until: Position,
    ) -> Result<Self> {
        let from = since.map_or(start, |since| Position(since.0.saturating_add(1)));
        let mut turns = BTreeMap::<StateKeyNo, Turn>::new();
        for row in look.store().range(STATE_DELTAS, &(room, from), &(room, Position(until.0.saturating_add(1)))) {
            let ((_, at, key), DeltaRow(old, new)) = row?;
            let turn = turns.entry(key).or_insert(Turn { old, start: old, end: new });
            turn.end = new;
            if at < start {
                turn.start = new;
            }
        }
        Ok(Self { look, room, whole: since.is_none(), until, turns, state: OnceCell::new() })
    }

    /// The same where the state at the end is known.
    pub fn with_state(mut self, state: State) -> Self {
        self.state = state.into();
        self
    }

    /// The state at the end.
    pub fn state(&self) -> Result<&State> {
        if let Some(state) = self.state.get() {
            return Ok(state);
        }
        let mut state = self.look.rooms.current(self.room)?;
        let mut undone = BTreeSet::new();
        let after = Position(self.until.0.saturating_add(1));
        for row in self.look.store().range(STATE_DELTAS, &(self.room, after), &(RoomNo(self.room.0 + 1),)) {
            let ((_, _, key), DeltaRow(old, _)) = row?;
            if undone.insert(key) {
                state.set(key, old);
            }
        }
        Ok(self.state.get_or_init(|| state))
    }

    /// What stood at a state key when the timeline begins.
    pub fn at_start(&self, key: StateKeyNo) -> Result<Option<EventNo>> {
        match self.turns.get(&key) {
            Some(turn) => Ok(turn.start),
            None => Ok(self.state()?.get(key)),
        }
    }

    /// What stands at a state key at the end.
    pub fn at_end(&self, key: StateKeyNo) -> Result<Option<EventNo>> {
        match self.turns.get(&key) {
            Some(turn) => Ok(turn.end),
            None => Ok(self.state()?.get(key)),
        }
    }

    /// What stands now where the reader knows something else.
    pub fn ends(&self) -> impl Iterator<Item = (StateKeyNo, Option<EventNo>)> + '_ {
        self.turns.iter().filter(|(_, turn)| turn.old != turn.end).map(|(key, turn)| (*key, turn.end))
    }

    /// Whether any of these keys has changed.
    pub fn any(&self, mut is: impl FnMut(StateKeyNo) -> bool) -> bool {
        self.turns.keys().any(|key| is(*key))
    }

    /// What a reader lacks who applies the timeline on top: `shown` are the state keys of its events.
    ///
    /// For those it is what stood there when the timeline begins. What changed otherwise is told as it is at
    /// the end, because nothing in the timeline will.
    pub fn under(&self, shown: &BTreeSet<StateKeyNo>) -> Result<Entries> {
        if !self.whole {
            let lacks = self.turns.iter().filter_map(|(key, turn)| {
                let target = if shown.contains(key) { turn.start } else { turn.end };
                target.filter(|_| target != turn.old).map(|event| (*key, event))
            });
            return Ok(lacks.collect());
        }
        let mut entries = Vec::new();
        for (key, event) in self.state()?.iter().filter(|(key, _)| !shown.contains(key)) {
            entries.push((key, event));
        }
        for key in shown {
            entries.extend(self.at_start(*key)?.map(|event| (*key, event)));
        }
        Ok(entries)
    }

    /// What a reader lacks who does not look at the timeline for state.
    pub fn over(&self) -> Result<Entries> {
        match self.whole {
            true => Ok(self.state()?.iter().collect()),
            false => {
                let changed = self.turns.iter().filter(|(_, turn)| turn.old != turn.end);
                Ok(changed.filter_map(|(key, turn)| Some((*key, turn.end?))).collect())
            }
        }
    }
}
