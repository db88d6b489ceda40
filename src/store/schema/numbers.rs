//! Identifiers and their numbers, both ways.
//!
//! A number is given inside the `Write` that first uses it ([`user`], [`room`], [`state_key`]), and
//! looked up by readers ([`find_user`], …).

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};

use super::{EventNo, RoomNo, StateKeyNo, UserNo};
use crate::store::{Store, StoreError, Table, Write};

/// The number of a user. Written by whoever first names the user.
pub const USER_NUMBERS: Table<String, UserNo> = Table::new("user_numbers");
/// The user behind a number.
pub const USERS: Table<UserNo, OwnedUserId> = Table::new("users");
/// The number of a room. Written by `rooms` when the room is first heard of.
pub const ROOM_NUMBERS: Table<String, RoomNo> = Table::new("room_numbers");
/// The number of an event.
pub const EVENT_NUMBERS: Table<String, EventNo> = Table::new("event_numbers");
/// The number of an event type and state key.
pub const STATE_KEY_NUMBERS: Table<(String, String), StateKeyNo> = Table::new("state_key_numbers");
/// The event type and state key behind a number.
pub const STATE_KEYS: Table<StateKeyNo, (String, String)> = Table::new("state_keys");

impl StateKeyNo {
    /// Whether this is the key of a member event: such numbers are odd, so that whoever loads members only
    /// on demand need not look at each.
    pub fn is_member(self) -> bool {
        self.0 % 2 == 1
    }
}

/// The number of a user, given now if there is none.
pub fn user(write: &mut Write, id: &UserId) -> Result<UserNo, StoreError> {
    let (number, new) = write.number_of(USER_NUMBERS, &id.as_str().to_owned(), UserNo)?;
    if new {
        write.put(USERS, &number, &id.to_owned());
    }
    Ok(number)
}

/// The number of a room, given now if there is none.
pub fn room(write: &mut Write, id: &RoomId) -> Result<RoomNo, StoreError> {
    Ok(write.number_of(ROOM_NUMBERS, &id.as_str().to_owned(), RoomNo)?.0)
}

/// The number of an event, given now if there is none.
pub fn event(write: &mut Write, id: &EventId) -> Result<EventNo, StoreError> {
    Ok(write.number_of(EVENT_NUMBERS, &id.as_str().to_owned(), EventNo)?.0)
}

/// The number of an event type and state key, given now if there is none.
pub fn state_key(write: &mut Write, kind: &str, state_key: &str) -> Result<StateKeyNo, StoreError> {
    let key = (kind.to_owned(), state_key.to_owned());
    let make = |number| StateKeyNo((number << 1) | u64::from(kind == "m.room.member"));
    let (number, new) = write.number_of(STATE_KEY_NUMBERS, &key, make)?;
    if new {
        write.put(STATE_KEYS, &number, &key);
    }
    Ok(number)
}

/// The number of a user that was named before.
pub fn find_user(store: &Store, id: &UserId) -> Result<Option<UserNo>, StoreError> {
    store.get(USER_NUMBERS, &id.as_str().to_owned())
}

/// The user behind a number.
pub fn user_id(store: &Store, number: UserNo) -> Result<Option<OwnedUserId>, StoreError> {
    store.get(USERS, &number)
}

/// The number of a known room.
pub fn find_room(store: &Store, id: &RoomId) -> Result<Option<RoomNo>, StoreError> {
    store.get(ROOM_NUMBERS, &id.as_str().to_owned())
}

/// The room behind a number.
pub fn room_id(store: &Store, number: RoomNo) -> Result<Option<OwnedRoomId>, StoreError> {
    Ok(super::rooms::find(store, number)?.map(|room| room.id))
}

/// The number of a known event.
pub fn find_event(store: &Store, id: &EventId) -> Result<Option<EventNo>, StoreError> {
    store.get(EVENT_NUMBERS, &id.as_str().to_owned())
}

/// The event ID behind a number.
pub fn event_id(store: &Store, number: EventNo) -> Result<Option<OwnedEventId>, StoreError> {
    Ok(store.get(super::events::EVENTS, &number)?.map(|row| row.id))
}

/// The number of an event type and state key that occurred before.
pub fn find_state_key(store: &Store, kind: &str, state_key: &str) -> Result<Option<StateKeyNo>, StoreError> {
    store.get(STATE_KEY_NUMBERS, &(kind.to_owned(), state_key.to_owned()))
}
