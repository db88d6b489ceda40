//! Which rooms a reader has to hear of.
//!
//! A look from the beginning walks all rooms of the user. A later one looks only at rooms that are
//! newer than the reader, which the store knows without reading anything.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{OwnedRoomId, events::room::member::MembershipState};

use super::Look;
use crate::{
    error::Result,
    rooms::cache::Known,
    store::{
        Position,
        schema::{
            EventNo, RoomNo,
            events::HISTORY,
            rooms::{self, USER_ROOMS, UserRoomRow},
        },
    },
};

/// Above this many rooms that changed, walking all rooms of the user is the shorter way.
const MANY_ROOMS: usize = 200;
/// How many older memberships of a user are looked at.
const LONGEST_PAST: usize = 10;

/// A room and where the reader stands towards it.
#[derive(Debug)]
pub struct Place {
    /// The room's number.
    pub room: RoomNo,
    /// Its ID.
    pub id: OwnedRoomId,
    /// The membership.
    pub row: UserRoomRow,
}

/// The places of the reader among which news may be.
pub enum Places {
    /// These.
    Of(Vec<Place>),
    /// One of them is newer than what is published.
    Behind(Position),
}

/// All places of the reader, or those where something may have happened after `since`, and `also` these.
pub fn find(look: &Look<'_>, since: Option<Position>, also: impl IntoIterator<Item = RoomNo>) -> Result<Places> {
    let (store, user) = (look.store(), look.reader.number);
    let mut rows = BTreeMap::<RoomNo, UserRoomRow>::new();
    let touched = since.and_then(|since| store.wakers().touched_since(since));
    match touched.filter(|touched| touched.len() <= MANY_ROOMS) {
        Some(touched) => {
            for room in touched.into_iter().chain(also) {
                if let Some(row) = store.get(USER_ROOMS, &(user, room))? {
                    rows.insert(room, row);
                }
            }
        }
        None => {
            let also: std::collections::BTreeSet<RoomNo> = also.into_iter().collect();
            for row in store.scan(USER_ROOMS, &(user,)) {
                let ((_, room), row) = row?;
                let news = since.is_none_or(|since| store.wakers().newest_in(room) > since);
                if news || also.contains(&room) {
                    rows.insert(room, row);
                }
            }
        }
    }
    let mut places = Vec::with_capacity(rows.len());
    for (room, row) in rows {
        if row.since > look.now.position {
            return Ok(Places::Behind(row.since));
        }
        if let Some(found) = rooms::find(store, room)? {
            places.push(Place { room, id: found.id, row });
        }
    }
    Ok(Places::Of(places))
}

impl Place {
    /// Whether the membership became what it is after `since`.
    pub fn is_new(&self, since: Option<Position>) -> bool {
        since.is_none_or(|since| self.row.since > since)
    }

    /// Whether the reader was in the room, or had left it, before the membership of now.
    pub fn has_past(&self, look: &Look<'_>) -> Result<bool> {
        let mut past = look.rooms.known(self.row.event)?.replaces;
        for _ in 0..LONGEST_PAST {
            let Some(number) = past else { return Ok(false) };
            let known = look.rooms.known(number)?;
            if !matches!(known.event.membership(), Some(MembershipState::Invite | MembershipState::Knock)) {
                return Ok(true);
            }
            past = known.replaces;
        }
        Ok(true)
    }

    /// How the reader went out of the room. Nothing if they were never in it, as far as this server knows.
    pub fn departure(&self, look: &Look<'_>) -> Result<Option<Departure>> {
        let joined = |known: &Known| known.event.membership() == Some(MembershipState::Join);
        let mut event = look.rooms.known(self.row.event)?;
        for _ in 0..LONGEST_PAST {
            let Some(mut join) = earlier(look, &event)? else { return Ok(None) };
            if !joined(&join) || joined(&event) {
                event = join;
                continue;
            }
            // What comes before are joins as well, as long as the reader only changed their profile.
            for _ in 0..LONGEST_PAST {
                match earlier(look, &join)?.filter(|known| joined(known)) {
                    Some(known) => join = known,
                    None => break,
                }
            }
            let Some(at) = position(look, self.room, &event)? else { return Ok(None) };
            let joined = position(look, self.room, &join)?.unwrap_or_default();
            return Ok(Some(Departure { at, event, joined }));
        }
        Ok(None)
    }

    /// The event of the membership.
    pub fn event(&self) -> EventNo {
        self.row.event
    }
}

/// How somebody went out of a room.
#[derive(Debug)]
pub struct Departure {
    /// The place in the timeline.
    pub at: Position,
    /// The event.
    pub event: Arc<Known>,
    /// Since when they had been in the room.
    pub joined: Position,
}

/// The event whose place another one took.
fn earlier(look: &Look<'_>, known: &Known) -> Result<Option<Arc<Known>>> {
    known.replaces.map(|number| look.rooms.known(number)).transpose()
}

/// Where an event stands in the timeline, if it does.
fn position(look: &Look<'_>, room: RoomNo, known: &Known) -> Result<Option<Position>> {
    let at = look.store().get(HISTORY, &(room, known.event.depth, known.number))?;
    Ok(at.filter(|at| *at > Position(0)))
}
