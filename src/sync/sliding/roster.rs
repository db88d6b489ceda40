//! A user's rooms by activity, kept in memory from look to look.
//!
//! A look brings up to date what was touched since the look before, so that it costs what changed. What
//! only filters ask for is found out when one asks.
//!
//! Spec: MSC4186 (Lists)

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, events::room::member::MembershipState};
use serde::Deserialize;

use super::super::Look;
use crate::{
    error::Result,
    store::{
        Position,
        schema::{
            RoomNo, UserNo,
            events::TIMELINE,
            rooms::{self, STRIPPED_STATE, USER_ROOMS, UserRoomRow},
        },
    },
};

/// The rosters of how many users are kept.
const MOST_USERS: usize = 200;

/// All rosters.
#[derive(Default)]
pub struct Rosters(Mutex<HashMap<UserNo, Arc<Mutex<Roster>>>>);

impl Rosters {
    /// The roster of a user.
    pub fn of(&self, user: UserNo) -> Arc<Mutex<Roster>> {
        let mut all = self.0.lock();
        if all.len() >= MOST_USERS && !all.contains_key(&user) {
            all.retain(|_, roster| Arc::strong_count(roster) > 1);
        }
        Arc::clone(all.entry(user).or_default())
    }
}

/// A user's rooms.
#[derive(Default)]
pub struct Roster {
    /// What was touched after this may have changed; nothing before the first look.
    upto: Option<Position>,
    rooms: HashMap<RoomNo, Entry>,
    order: BTreeSet<(Reverse<Position>, RoomNo)>,
}

/// A room of a user.
#[derive(Debug)]
pub struct Entry {
    /// Its ID.
    pub id: OwnedRoomId,
    /// Where the user stands.
    pub row: UserRoomRow,
    /// The position of the newest event, or of the membership of who is not in the room.
    activity: Position,
    encrypted: Option<bool>,
    kind: Option<Option<String>>,
    removed: Option<bool>,
}

impl Roster {
    /// Brings the roster up to date. The position to wait for, if a row is ahead of what is published.
    pub fn refresh(&mut self, look: &Look<'_>) -> Result<Result<(), Position>> {
        let (store, user) = (look.store(), look.reader.number);
        let touched = self.upto.and_then(|upto| store.wakers().touched_since(upto));
        match touched {
            Some(touched) => {
                for room in touched {
                    let row = store.get(USER_ROOMS, &(user, room))?;
                    if let Some(position) = self.put(look, room, row)? {
                        return Ok(Err(position));
                    }
                }
            }
            None => {
                *self = Self::default();
                for row in store.scan(USER_ROOMS, &(user,)) {
                    let ((_, room), row) = row?;
                    if let Some(position) = self.put(look, room, Some(row))? {
                        return Ok(Err(position));
                    }
                }
            }
        }
        self.upto = Some(look.now.position);
        Ok(Ok(()))
    }

    fn put(&mut self, look: &Look<'_>, room: RoomNo, row: Option<UserRoomRow>) -> Result<Option<Position>> {
        let before = self.rooms.remove(&room);
        if let Some(before) = &before {
            self.order.remove(&(Reverse(before.activity), room));
        }
        let Some(row) = row else { return Ok(None) };
        if row.since > look.now.position {
            // What is known is not lost with it.
            self.upto = None;
            return Ok(Some(row.since));
        }
        let activity = match row.membership {
            MembershipState::Join => newest(look, room)?.unwrap_or(row.since),
            _ => row.since,
        };
        let mut entry = match before {
            Some(before) => before,
            None => {
                let Some(found) = rooms::find(look.store(), room)? else { return Ok(None) };
                Entry { id: found.id, row: row.clone(), activity, encrypted: None, kind: None, removed: None }
            }
        };
        if entry.row.membership != row.membership {
            (entry.kind, entry.removed) = (None, None);
        }
        // A room stays encrypted for ever.
        entry.encrypted = entry.encrypted.filter(|encrypted| *encrypted);
        (entry.row, entry.activity) = (row, activity);
        self.order.insert((Reverse(activity), room));
        self.rooms.insert(room, entry);
        Ok(None)
    }

    /// The rooms, the one with the newest activity first.
    pub fn order(&self) -> impl Iterator<Item = RoomNo> + '_ {
        self.order.iter().map(|(_, room)| *room)
    }

    /// One room.
    pub fn get(&mut self, room: RoomNo) -> Option<&mut Entry> {
        self.rooms.get_mut(&room)
    }
}

/// The position of the newest event of a room.
fn newest(look: &Look<'_>, room: RoomNo) -> Result<Option<Position>> {
    let row = look.store().scan(TIMELINE, &(room,)).next_back().transpose()?;
    Ok(row.map(|((_, at), _)| at))
}

impl Entry {
    /// Whether the room is encrypted.
    pub fn encrypted(&mut self, look: &Look<'_>, room: RoomNo) -> Result<bool> {
        if let Some(encrypted) = self.encrypted {
            return Ok(encrypted);
        }
        let encrypted = self.content(look, room, "m.room.encryption")?.is_some();
        self.encrypted = Some(encrypted);
        Ok(encrypted)
    }

    /// The type of the room.
    pub fn kind(&mut self, look: &Look<'_>, room: RoomNo) -> Result<Option<&str>> {
        #[derive(Deserialize)]
        struct Create {
            #[serde(rename = "type", default)]
            kind: Option<String>,
        }
        if self.kind.is_none() {
            let create = self.content(look, room, "m.room.create")?;
            let create = create.and_then(|content| serde_json::from_str::<Create>(&content).ok());
            self.kind = Some(create.and_then(|create| create.kind));
        }
        Ok(self.kind.as_ref().and_then(Option::as_deref))
    }

    /// Whether somebody else put the user out of a room in which they were.
    pub fn removed(&mut self, look: &Look<'_>) -> Result<bool> {
        if let Some(removed) = self.removed {
            return Ok(removed);
        }
        let removed = self.row.before == Some(MembershipState::Join)
            && look.rooms.known(self.row.event)?.event.sender != look.reader.user;
        self.removed = Some(removed);
        Ok(removed)
    }

    /// The content of a state event, as far as the user may know.
    fn content(&self, look: &Look<'_>, room: RoomNo, kind: &str) -> Result<Option<String>> {
        #[derive(Deserialize)]
        struct Stripped<'a> {
            #[serde(borrow, rename = "type")]
            kind: std::borrow::Cow<'a, str>,
            #[serde(borrow)]
            content: &'a serde_json::value::RawValue,
        }
        if let Some(stripped) = look.store().get(STRIPPED_STATE, &(look.reader.number, room))? {
            let events = stripped.iter().filter_map(|text| serde_json::from_str::<Stripped<'_>>(text).ok());
            let event = events.into_iter().find(|event| event.kind == kind);
            return Ok(event.map(|event| event.content.get().to_owned()));
        }
        let state = match self.row.membership {
            MembershipState::Join => Some(look.rooms.current(room)?),
            _ => look.rooms.state_after(&*look.rooms.known(self.row.event)?)?,
        };
        let Some(state) = state else { return Ok(None) };
        let known = look.rooms.in_state(&state, kind, "")?;
        Ok(known.map(|known| known.event.content().to_owned()))
    }
}
