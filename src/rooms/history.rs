//! Walking through a room's past: pages of events, and an event with what surrounds it.
//!
//! History is ordered by depth, then by the order of arrival. What a reader may see is the caller's to
//! say, so that filters and visibility cost one look per event.
//!
//! Spec: client-server-api#get_matrixclientv3roomsroomidmessages

use std::sync::Arc;

use super::{
    Rooms,
    cache::Known,
    token::{Cursor, SyncToken},
};
use crate::{
    error::{Error, Result},
    store::{
        Position, Scan,
        schema::{
            EventNo, RoomNo,
            events::{HISTORY, TIMELINE},
        },
    },
};

/// How many events one request may pass over while it looks for those that it may show.
const MOST_PASSED: usize = 2_000;

/// How far around its likely place, in depth, an event is sought by its time; and how many that fit are compared.
const AROUND: u64 = 1_000;
const CANDIDATES: usize = 100;
/// How many events are asked for the time at which they were sent.
const WITNESSES: usize = 5;

/// Which way a page goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Towards older events.
    Backward,
    /// Towards newer events.
    Forward,
}

/// A page of history.
#[derive(Debug)]
pub struct Page {
    /// The events, in the direction of the walk.
    pub events: Vec<Arc<Known>>,
    /// Where the next page begins, unless this was the last.
    pub end: Option<Cursor>,
}

/// Reads up to `limit` events that `keep` wants, from a cursor on and no further than `to`.
pub fn page(
    rooms: &Rooms,
    room: RoomNo,
    direction: Direction,
    from: Cursor,
    to: Option<Cursor>,
    limit: usize,
    mut keep: impl FnMut(&Arc<Known>) -> Result<bool>,
) -> Result<Page> {
    let (low, high) = match direction {
        Direction::Backward => (to.unwrap_or(Cursor::START), from),
        Direction::Forward => (from, to.unwrap_or(Cursor::END)),
    };
    let mut rows = rooms.store.range(HISTORY, &(room, low.depth, low.event), &(room, high.depth, high.event));
    let mut events = Vec::new();
    for _ in 0..MOST_PASSED {
        let row = match direction {
            Direction::Backward => rows.next_back(),
            Direction::Forward => rows.next(),
        };
        let Some(row) = row else { return Ok(Page { events, end: None }) };
        let ((_, depth, number), _) = row?;
        let known = rooms.known(number)?;
        let shown = keep(&known)?;
        if shown {
            events.push(known);
        }
        if events.len() >= limit {
            return Ok(Page { events, end: Some(next(direction, depth, number)) });
        }
    }
    let end = rows_end(direction, &mut rows);
    Ok(Page { events, end })
}

/// The cursor that continues after an event.
fn next(direction: Direction, depth: u64, number: EventNo) -> Cursor {
    match direction {
        Direction::Backward => Cursor { depth, event: number },
        Direction::Forward => Cursor::after(depth, number),
    }
}

/// Where a walk goes on that has passed over all it may.
fn rows_end(direction: Direction, rows: &mut Scan<(RoomNo, u64, EventNo), Position>) -> Option<Cursor> {
    let ((_, depth, number), _) = match direction {
        Direction::Backward => rows.next_back()?.ok()?,
        Direction::Forward => rows.next()?.ok()?,
    };
    Some(match direction {
        Direction::Backward => Cursor::after(depth, number),
        Direction::Forward => Cursor { depth, event: number },
    })
}

/// The event closest to a moment (milliseconds since the epoch), not before it (forward) or not after it (backward),
/// that `keep` wants. Time goes with depth, nearly: it is sought there, and among those around for the closest, since
/// the clocks of senders differ.
///
/// Spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
pub fn closest(
    rooms: &Rooms,
    room: RoomNo,
    moment: u64,
    direction: Direction,
    mut keep: impl FnMut(&Arc<Known>) -> Result<bool>,
) -> Result<Option<Arc<Known>>> {
    let depth = depth_at(rooms, room, moment)?;
    let from = match direction {
        Direction::Forward => Cursor { depth: depth.saturating_sub(AROUND), event: EventNo(0) },
        Direction::Backward => Cursor { depth: depth.saturating_add(AROUND), event: EventNo(0) },
    };
    let found = page(rooms, room, direction, from, None, CANDIDATES, |known| {
        let sent = known.event.origin_server_ts;
        let fits = if direction == Direction::Forward { sent >= moment } else { sent <= moment };
        Ok(fits && keep(known)?)
    })?;
    // Of several at the same time, the one that comes first on the way.
    Ok(found.events.into_iter().min_by_key(|known| known.event.origin_server_ts.abs_diff(moment)))
}

/// The least depth at which events are not from before a moment, if time went with depth. A few of them together say
/// how late it was: a single clock may be wrong.
fn depth_at(rooms: &Rooms, room: RoomNo, moment: u64) -> Result<u64> {
    let (mut low, mut high) = (0, rooms.published(room)?.depth + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let (mut first, mut times) = (None, Vec::with_capacity(WITNESSES));
        for row in rooms.store.range(HISTORY, &(room, middle), &(room, high)).take(WITNESSES) {
            let ((_, depth, number), _) = row?;
            first.get_or_insert(depth);
            times.push(rooms.known(number)?.event.origin_server_ts);
        }
        times.sort_unstable();
        match (first, times.get(times.len() / 2)) {
            (Some(depth), Some(median)) if *median < moment => low = depth + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

/// The place in a room's history that a token means: one of `/messages`, or one of `/sync`.
///
/// Errors: 400 `M_INVALID_PARAM` for what is neither.
pub fn cursor(rooms: &Rooms, room: RoomNo, token: &str) -> Result<Cursor> {
    if let Some(cursor) = Cursor::parse(token) {
        return Ok(cursor);
    }
    // A `pos` of sliding sync is a token with a number behind.
    let token = token.split_once('~').map_or(token, |(token, _)| token);
    let Some(token) = SyncToken::parse(token) else {
        return Err(Error::invalid_param("this token was not given by this server"));
    };
    at_position(rooms, room, token.position)
}

/// The place in a room's history after all that had arrived at `position`. What comes late from another server may
/// stand before what was here already: the place is after the deepest, not after the newest.
pub fn at_position(rooms: &Rooms, room: RoomNo, position: Position) -> Result<Cursor> {
    for row in rooms.store.scan(HISTORY, &(room,)).rev().take(MOST_PASSED) {
        let ((_, depth, number), arrived) = row?;
        if arrived <= position {
            return Ok(Cursor::after(depth, number));
        }
    }
    let after = Position(position.0.saturating_add(1));
    let newest = rooms.store.range(TIMELINE, &(room,), &(room, after)).next_back().transpose()?;
    let Some((_, number)) = newest else { return Ok(Cursor::START) };
    Ok(Cursor::after(rooms.known(number)?.event.depth, number))
}
