//! Reading a room as a client asks for it: pages of messages, an event with what surrounds it, the state and
//! the members at some time.
//!
//! Everything here is what one [`Viewer`] may see, as JSON that is ready to be sent.
//!
//! Spec: client-server-api#getting-events-for-a-room

use std::{collections::BTreeSet, sync::Arc};

use ruma::{EventId, OwnedUserId, RoomId, UserId, events::room::member::MembershipState};

use super::{
    Room, Rooms,
    access::{self, Access},
    backfill,
    cache::Known,
    filter::EventFilter,
    history::{self, Direction},
    state::State,
    token::Cursor,
    view::Viewer,
};
use crate::{
    error::{Error, Result},
    store::schema::{
        RoomNo,
        events::HISTORY,
        numbers,
        rooms::{MEMBERS, MemberRow},
    },
};

/// How many events a page holds at most.
const MOST_EVENTS: usize = 1_000;
/// How many events are looked back through for one whose state is known.
const MOST_BACK: usize = 100;

/// What a client asks of `/messages`.
#[derive(Debug)]
pub struct PageQuery {
    /// Where to start; at the end that the direction leads away from, if absent.
    pub from: Option<String>,
    /// Where to stop.
    pub to: Option<String>,
    /// Which way.
    pub direction: Direction,
    /// How many events at most.
    pub limit: u64,
    /// Which events.
    pub filter: EventFilter,
}

/// A page of messages.
#[derive(Debug)]
pub struct MessagePage {
    /// Where it starts.
    pub start: String,
    /// Where the next one starts, unless this is the last.
    pub end: Option<String>,
    /// The events, in the direction of the page.
    pub chunk: Vec<String>,
    /// The member events that go with them, if they are loaded lazily.
    pub state: Vec<String>,
    /// An event on the page, or the oldest of all if the page comes to the end, before which something is missing
    /// that other servers may have.
    pub gap: Option<Arc<Known>>,
}

/// A page of a room's history.
///
/// Errors: 403 `M_FORBIDDEN`; 400 `M_INVALID_PARAM` for tokens that are none.
/// Spec: client-server-api#get_matrixclientv3roomsroomidmessages
pub fn messages(rooms: &Rooms, viewer: &Viewer<'_>, room: &RoomId, query: &PageQuery) -> Result<MessagePage> {
    let (room, _) = access::look(rooms, room, viewer.user())?;
    let token = |token: &String| history::cursor(rooms, room.number, token);
    let from = match (query.from.as_ref().filter(|from| !from.is_empty()), query.direction) {
        (Some(from), _) => token(from)?,
        (None, Direction::Forward) => Cursor::START,
        (None, Direction::Backward) => history::at_position(rooms, room.number, rooms.store.position())?,
    };
    let to = query.to.as_ref().filter(|to| !to.is_empty()).map(token).transpose()?;
    let start = query.from.clone().filter(|from| !from.is_empty()).unwrap_or_else(|| from.to_string());
    let limit = limit(query.limit, &query.filter);
    if limit == 0 || !query.filter.wants_room(room.id.as_str()) {
        let end = (limit == 0).then(|| from.to_string());
        return Ok(MessagePage { start, end, chunk: Vec::new(), state: Vec::new(), gap: None });
    }
    let shared = backfill::is_shared(rooms, room.number)?;
    let mut passed = Vec::new();
    // A page begins right before an event. What is missing before that one is missing here.
    if shared
        && query.direction == Direction::Backward
        && rooms.store.contains(HISTORY, &(room.number, from.depth, from.event))?
    {
        passed.push(rooms.known(from.event)?);
    }
    let page = history::page(rooms, room.number, query.direction, from, to, limit, |known| {
        if shared {
            passed.push(Arc::clone(known));
        }
        Ok(query.filter.wants(rooms, known)? && !viewer.ignores(known)? && viewer.may_see(known)?)
    })?;
    let state = match (query.filter.lazy_load_members, page.events.first()) {
        (true, Some(first)) => {
            let state = rooms.state(first.before.unwrap_or_default())?;
            senders(rooms, viewer, &state, page.events.iter())?
        }
        _ => Vec::new(),
    };
    let chunk = page.events.iter().map(|known| viewer.event(known, true)).collect::<Result<_>>()?;
    let gap = match backfill::gap(rooms, &passed)? {
        // Something may be missing at the far end, which is not on the page.
        None if shared && page.end.is_none() && query.direction == Direction::Backward => {
            backfill::oldest(rooms, room.number)?
        }
        gap => gap,
    };
    Ok(MessagePage { start, end: page.end.map(|end| end.to_string()), chunk, state, gap })
}

fn limit(asked: u64, filter: &EventFilter) -> usize {
    let asked = asked.min(filter.limit.unwrap_or(u64::MAX));
    usize::try_from(asked).unwrap_or(MOST_EVENTS).min(MOST_EVENTS)
}

/// The member events of those who sent these events.
fn senders<'a>(
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    state: &State,
    events: impl Iterator<Item = &'a Arc<Known>>,
) -> Result<Vec<String>> {
    let senders: BTreeSet<&OwnedUserId> = events.map(|known| &known.event.sender).collect();
    let mut members = Vec::new();
    for sender in senders {
        if let Some(member) = rooms.in_state(state, "m.room.member", sender.as_str())? {
            members.push(viewer.event(&member, true)?);
        }
    }
    Ok(members)
}

/// An event that somebody may see; 404 `M_NOT_FOUND` otherwise.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomideventeventid
pub fn event(rooms: &Rooms, viewer: &Viewer<'_>, room: &RoomId, id: &EventId) -> Result<Arc<Known>> {
    let not_found = || Error::not_found("there is no such event in this room, or you may not see it");
    let room = numbers::find_room(&rooms.store, room)?.ok_or_else(not_found)?;
    match rooms.by_id(id)? {
        Some(known) if known.room == room && viewer.may_see(&known)? => match viewer.has_forgotten(room)? {
            true if !access::is_world_readable(rooms, room)? => Err(not_found()),
            _ => Ok(known),
        },
        _ => Err(not_found()),
    }
}

/// An event with what happened around it.
#[derive(Debug)]
pub struct Context {
    /// Where `/messages` goes on towards the past.
    pub start: String,
    /// Where `/messages` goes on towards the future.
    pub end: String,
    /// The event.
    pub event: String,
    /// What was before, newest first.
    pub before: Vec<String>,
    /// What came after, oldest first.
    pub after: Vec<String>,
    /// The state after the last of them.
    pub state: Vec<String>,
}

/// The events around another one, and the places where `/messages` goes on.
pub struct Surroundings {
    /// Before the first of them.
    pub start: Cursor,
    /// After the last.
    pub end: Cursor,
    /// What was before, newest first.
    pub before: Vec<Arc<Known>>,
    /// What came after, oldest first.
    pub after: Vec<Arc<Known>>,
}

/// Up to so many events before and after another one, as far as they may be shown.
pub fn surroundings(
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    known: &Known,
    (most_before, most_after): (usize, usize),
    filter: &EventFilter,
) -> Result<Surroundings> {
    let here = Cursor { depth: known.event.depth, event: known.number };
    let after_here = Cursor::after(here.depth, here.event);
    let page = |direction, from, limit| match limit {
        0 => Ok(Vec::new()),
        _ => history::page(rooms, known.room, direction, from, None, limit, |other| {
            Ok(filter.wants(rooms, other)? && !viewer.ignores(other)? && viewer.may_see(other)?)
        })
        .map(|page| page.events),
    };
    let before = page(Direction::Backward, here, most_before)?;
    let after = page(Direction::Forward, after_here, most_after)?;
    let start = before.last().map_or(here, |last| Cursor { depth: last.event.depth, event: last.number });
    let end = after.last().map_or(after_here, |last| Cursor::after(last.event.depth, last.number));
    Ok(Surroundings { start, end, before, after })
}

/// What happened around an event.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomidcontexteventid
pub fn context(
    rooms: &Rooms,
    viewer: &Viewer<'_>,
    room: &RoomId,
    id: &EventId,
    asked: u64,
    filter: &EventFilter,
) -> Result<Context> {
    let known = event(rooms, viewer, room, id)?;
    let limit = limit(asked, filter);
    let Surroundings { start, end, before, after } =
        surroundings(rooms, viewer, &known, (limit / 2, limit - limit / 2), filter)?;
    let last = after.last().unwrap_or(&known);
    let state = rooms.state_after(last)?.unwrap_or_default();
    let shown: Vec<_> = before.iter().chain(&after).chain([&known]).collect();
    let mut events = Vec::new();
    for (_, number) in state.iter() {
        let entry = rooms.known(number)?;
        let needed = || shown.iter().any(|known| Some(known.event.sender.as_str()) == entry.event.state_key.as_deref());
        let skipped = filter.lazy_load_members && entry.event.kind == "m.room.member" && !needed();
        if !skipped && filter.wants(rooms, &entry)? {
            events.push(viewer.event(&entry, true)?);
        }
    }
    let json = |events: &[Arc<Known>]| events.iter().map(|known| viewer.event(known, true)).collect::<Result<_>>();
    Ok(Context {
        start: start.to_string(),
        end: end.to_string(),
        event: viewer.event(&known, true)?,
        before: json(&before)?,
        after: json(&after)?,
        state: events,
    })
}

/// The event of a room that is closest to a time, not before it (forward) or not after it (backward).
///
/// Spec: client-server-api#get_matrixclientv1roomsroomidtimestamp_to_event
pub fn at_time(rooms: &Rooms, viewer: &Viewer<'_>, room: &RoomId, time: u64, direction: Direction) -> Result<AtTime> {
    let (room, _) = access::look(rooms, room, viewer.user())?;
    let event = history::closest(rooms, room.number, time, direction, |known| viewer.may_see(known))?;
    let is_uncertain = backfill::is_shared(rooms, room.number)?
        && match (direction, &event) {
            (Direction::Forward, Some(known)) => backfill::gap(rooms, [known])?.is_some(),
            (Direction::Forward, None) => false,
            (Direction::Backward, Some(known)) => {
                let after = Cursor::after(known.event.depth, known.number);
                let next = history::page(rooms, room.number, Direction::Forward, after, None, 1, |_| Ok(true))?;
                backfill::gap(rooms, &next.events)?.is_some()
            }
            (Direction::Backward, None) => backfill::oldest(rooms, room.number)?.is_some(),
        };
    Ok(AtTime { event, is_uncertain })
}

/// What is known of a moment.
pub struct AtTime {
    /// The closest event that is here.
    pub event: Option<Arc<Known>>,
    /// Whether other servers may have one that is closer.
    pub is_uncertain: bool,
}

/// The state of a room at a place in its history.
pub fn state_at(rooms: &Rooms, room: RoomNo, place: Cursor) -> Result<State> {
    let rows = rooms.store.range(HISTORY, &(room,), &(room, place.depth, place.event));
    for row in rows.rev().take(MOST_BACK) {
        let ((_, _, number), _) = row?;
        if let Some(state) = rooms.state_after(&*rooms.known(number)?)? {
            return Ok(state);
        }
    }
    Ok(State::default())
}

/// All state that somebody may look at, as JSON.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomidstate
pub fn state(rooms: &Rooms, viewer: &Viewer<'_>, room: &RoomId) -> Result<Vec<String>> {
    let (_, state) = access::state(rooms, room, viewer.user())?;
    state.iter().map(|(_, number)| viewer.event(&*rooms.known(number)?, true)).collect()
}

/// A state event that somebody may look at; 404 `M_NOT_FOUND` if the room has none.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomidstateeventtypestatekey
pub fn state_event(rooms: &Rooms, user: &UserId, room: &RoomId, kind: &str, state_key: &str) -> Result<Arc<Known>> {
    let (_, state) = access::state(rooms, room, user)?;
    let found = rooms.in_state(&state, kind, state_key)?;
    found.ok_or_else(|| Error::not_found(format!("the room has no {kind} with the state key {state_key:?}")))
}

/// Which members a client asks for.
#[derive(Debug, Default)]
pub struct MemberQuery {
    /// When; now if absent.
    pub at: Option<String>,
    /// Those with this membership.
    pub is: Option<MembershipState>,
    /// Those with another than this.
    pub is_not: Option<MembershipState>,
}

impl MemberQuery {
    fn wants(&self, membership: &MembershipState) -> bool {
        match (&self.is, &self.is_not) {
            (None, None) => true,
            (is, is_not) => {
                is.as_ref().is_some_and(|is| is == membership)
                    || is_not.as_ref().is_some_and(|is_not| is_not != membership)
            }
        }
    }
}

/// The member events of a room, as JSON.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomidmembers
pub fn members(rooms: &Rooms, viewer: &Viewer<'_>, room: &RoomId, query: &MemberQuery) -> Result<Vec<String>> {
    let (room, access) = access::look(rooms, room, viewer.user())?;
    let place = query.at.as_ref().map(|at| history::cursor(rooms, room.number, at)).transpose()?;
    let state = match (place, &access) {
        (None, Access::Member | Access::World) => return current_members(rooms, viewer, &room, query),
        (Some(place), Access::Departed(left)) if place > Cursor::after(left.event.depth, left.number) => {
            access.state(rooms, &room)?
        }
        (None, Access::Departed(_)) => access.state(rooms, &room)?,
        (Some(place), _) => state_at(rooms, room.number, place)?,
    };
    let mut members = Vec::new();
    for (_, number) in state.iter() {
        let known = rooms.known(number)?;
        if known.event.membership().is_some_and(|membership| query.wants(&membership)) {
            members.push(viewer.event(&known, true)?);
        }
    }
    Ok(members)
}

fn current_members(rooms: &Rooms, viewer: &Viewer<'_>, room: &Room, query: &MemberQuery) -> Result<Vec<String>> {
    let mut members = Vec::new();
    for row in rooms.store.scan(MEMBERS, &(room.number,)) {
        let (_, MemberRow { membership, event }) = row?;
        if query.wants(&membership) {
            members.push(viewer.event(&*rooms.known(event)?, true)?);
        }
    }
    Ok(members)
}

/// The joined members of a room with the events that say so, for one of them.
///
/// Spec: client-server-api#get_matrixclientv3roomsroomidjoined_members
pub fn joined_members(rooms: &Rooms, user: &UserId, room: &RoomId) -> Result<Vec<Arc<Known>>> {
    let room = rooms.joined(room, user)?;
    let mut members = Vec::new();
    for row in rooms.store.scan(MEMBERS, &(room.number,)) {
        let (_, MemberRow { membership, event }) = row?;
        if membership == MembershipState::Join {
            members.push(rooms.known(event)?);
        }
    }
    Ok(members)
}
