//! The newest events of a room, in the order of their arrival.
//!
//! Spec: client-server-api#syncing

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Look;
use crate::{
    error::Result,
    rooms::{backfill, cache::Known, history, token::Cursor},
    store::{
        Position,
        schema::{
            EventNo, RoomNo, StateKeyNo,
            events::TIMELINE,
            rooms::{self},
        },
    },
};

/// How many events that are not shown one look passes over in a room.
const MOST_PASSED: usize = 2_000;

/// Which part of a timeline.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    /// What the reader has: the part begins after this.
    pub after: Position,
    /// Where the part ends; included.
    pub until: Position,
    /// How many events at most.
    pub limit: usize,
    /// Whether something that the reader lacks may lie before the part in any case.
    pub gap: bool,
}

/// A part of a timeline.
#[derive(Debug, Default)]
pub struct Timeline {
    /// The events with their positions, oldest first.
    pub events: Vec<(Position, Arc<Known>)>,
    /// Whether there may be events that the reader lacks before these.
    pub limited: bool,
    /// Where pages of what is before begin.
    pub prev_batch: Option<Cursor>,
}

impl Timeline {
    /// Reads the newest events of a window that are wanted. `own` is an event that the reader may see
    /// in any case.
    pub fn read(
        look: &Look<'_>,
        room: RoomNo,
        window: Window,
        own: Option<EventNo>,
        wants: impl Fn(&Known) -> Result<bool>,
    ) -> Result<Self> {
        let (from, to) = (Position(window.after.0.saturating_add(1)), Position(window.until.0.saturating_add(1)));
        let mut rows = look.store().range(TIMELINE, &(room, from), &(room, to));
        let mut events = Vec::new();
        let mut limited = false;
        let mut lowest = to;
        let mut passed = 0;
        while let Some(row) = rows.next_back() {
            let ((_, at), number) = row?;
            let known = look.rooms.known(number)?;
            let unheard = known.event.state_key.is_none() && look.ignored.contains(&known.event.sender);
            let shown = !unheard && wants(&known)? && (own == Some(number) || look.viewer.may_see(&known)?);
            passed += usize::from(!shown);
            if passed > MOST_PASSED || (shown && events.len() >= window.limit) {
                limited = true;
                break;
            }
            lowest = at;
            let gap = backfill::follows_gap(look.rooms, &known)?;
            if shown {
                events.push((at, known));
            }
            if gap {
                limited = true;
                break;
            }
        }
        events.reverse();
        limited |= window.gap || (window.after == Position(0) && !limited && !begins(look, room)?);
        let prev_batch = match limited {
            true => Some(before_gap(look, room, lowest, events.first())?),
            false => events.first().map(|(_, known)| before(known)),
        };
        Ok(Self { events, limited, prev_batch })
    }

    /// The position of the first event; `until` if there is none.
    pub fn start(&self, until: Position) -> Position {
        self.events.first().map_or(Position(until.0.saturating_add(1)), |(at, _)| *at)
    }

    /// Leaves out the events up to and with `last`, as if there had been no place for them.
    pub fn cut(&mut self, look: &Look<'_>, room: RoomNo, last: Position) -> Result<()> {
        self.events.retain(|(at, _)| *at > last);
        self.limited = true;
        self.prev_batch = Some(before_gap(look, room, Position(last.0.saturating_add(1)), self.events.first())?);
        Ok(())
    }

    /// The newest event here of each state key.
    pub fn newest(&self, look: &Look<'_>) -> Result<BTreeMap<StateKeyNo, (Position, EventNo)>> {
        let mut newest = BTreeMap::new();
        for (at, known) in &self.events {
            let Some((kind, state_key)) = known.event.key() else { continue };
            if let Some(key) = look.rooms.state_key(kind, state_key)? {
                newest.insert(key, (*at, known.number));
            }
        }
        Ok(newest)
    }

    /// The state keys of the state events here.
    pub fn state_keys(&self, look: &Look<'_>) -> Result<BTreeSet<StateKeyNo>> {
        Ok(self.newest(look)?.into_keys().collect())
    }
}

/// Whether the timeline of a room begins with the room itself; otherwise there is more on other servers.
fn begins(look: &Look<'_>, room: RoomNo) -> Result<bool> {
    let first = look.store().scan(TIMELINE, &(room,)).next().transpose()?;
    let create = rooms::find(look.store(), room)?.map(|row| row.create);
    Ok(first.map(|(_, number)| number) == create)
}

fn before(known: &Known) -> Cursor {
    Cursor { depth: known.event.depth, event: known.number }
}

/// A place in the history of a room from which pages backwards show all that arrived before `lowest`.
///
/// History goes by depth and the timeline by arrival: better to show an event twice than not at all.
fn before_gap(
    look: &Look<'_>,
    room: RoomNo,
    lowest: Position,
    first: Option<&(Position, Arc<Known>)>,
) -> Result<Cursor> {
    let cursor = first.map_or(Cursor::START, |(_, known)| before(known));
    Ok(cursor.max(history::at_position(look.rooms, room, Position(lowest.0.saturating_sub(1)))?))
}
