//! Who may look into a room, and at which of its states.
//!
//! Members see the room as it is. Those who have left see it as it was when they left, until they forget it.
//! Everybody else sees only rooms that the world may read. Which single events somebody may see is
//! [`super::view`]'s to say.
//!
//! Spec: client-server-api#get_matrixclientv3roomsroomidstate, client-server-api#server-behaviour-5

use std::sync::Arc;

use ruma::{RoomId, UserId, events::room::member::MembershipState};

use super::{Room, Rooms, cache::Known, state::State};
use crate::{
    error::{Error, Result},
    protocol::visibility::{self, HistoryVisibility},
    store::schema::{EventNo, RoomNo, UserNo, numbers, rooms::USER_ROOMS},
};

/// How many membership changes are looked back through for the one with which somebody left.
const MOST_CHANGES: usize = 32;

/// What of a room somebody may look at.
pub enum Access {
    /// The room as it is, as a member.
    Member,
    /// The room as it was when they left with this event.
    Departed(Arc<Known>),
    /// The room as it is, because the world may read it.
    World,
}

/// What a user may look at in a room; 403 `M_FORBIDDEN` for those who never were in it.
pub fn look(rooms: &Rooms, id: &RoomId, user: &UserId) -> Result<(Arc<Room>, Access)> {
    let forbidden = || Error::forbidden("you are not in this room, and have not been");
    let Some(room) = numbers::find_room(&rooms.store, id)?.map(|number| rooms.open(number)).transpose()?.flatten()
    else {
        return Err(forbidden());
    };
    if let Some(user) = numbers::find_user(&rooms.store, user)?
        && let Some(row) = rooms.store.get(USER_ROOMS, &(user, room.number))?
    {
        if row.membership == MembershipState::Join {
            return Ok((room, Access::Member));
        }
        if !row.forgotten
            && let Some(departure) = departure(rooms, row.event)?
        {
            return Ok((room, Access::Departed(departure)));
        }
    }
    match is_world_readable(rooms, room.number)? {
        true => Ok((room, Access::World)),
        false => Err(forbidden()),
    }
}

/// The state of a room as far as a user may look at it.
pub fn state(rooms: &Rooms, id: &RoomId, user: &UserId) -> Result<(Arc<Room>, State)> {
    let (room, access) = look(rooms, id, user)?;
    let state = access.state(rooms, &room)?;
    Ok((room, state))
}

impl Access {
    /// The state that may be looked at.
    pub fn state(&self, rooms: &Rooms, room: &Room) -> Result<State> {
        match self {
            Self::Member | Self::World => rooms.current(room.number),
            Self::Departed(left) => Ok(rooms.state_after(left)?.unwrap_or_default()),
        }
    }
}

/// Whether everybody may read what happens in a room now.
pub fn is_world_readable(rooms: &Rooms, room: RoomNo) -> Result<bool> {
    let setting = rooms.in_state(&rooms.current(room)?, "m.room.history_visibility", "")?;
    Ok(setting.is_some_and(|known| visibility::of(&known.event) == HistoryVisibility::WorldReadable))
}

/// The event with which somebody who is not in a room (any more) left it, if they ever were in it. `newest` is
/// their newest member event.
pub fn departure(rooms: &Rooms, newest: EventNo) -> Result<Option<Arc<Known>>> {
    let mut known = rooms.known(newest)?;
    for _ in 0..MOST_CHANGES {
        let Some(before) = known.replaces else { return Ok(None) };
        let before = rooms.known(before)?;
        if before.event.membership() == Some(MembershipState::Join) {
            return Ok(Some(known));
        }
        known = before;
    }
    Ok(None)
}

/// The rooms in which a user has this membership.
pub fn rooms_of(rooms: &Rooms, user: UserNo, membership: &MembershipState) -> Result<Vec<RoomNo>> {
    let mut found = Vec::new();
    for row in rooms.store.scan(USER_ROOMS, &(user,)) {
        let ((_, room), row) = row?;
        if row.membership == *membership {
            found.push(room);
        }
    }
    Ok(found)
}
