//! What another server may see of a room about which it asks.
//!
//! A server in the room gets every event, and its content as far as one of its users may see that. A server that is
//! in the room no more gets what happened while it was: whoever was turned out while the line was down must be able
//! to learn of it. An [`Onlooker`] is made per request and remembers what it has looked up.
//!
//! Spec: server-server-api#backfilling-and-retrieving-missing-events

use std::cell::OnceCell;

use ruma::{OwnedEventId, OwnedUserId, ServerName, UserId, events::room::member::MembershipState};
use serde_json::value::RawValue;

use super::{Room, Rooms, cache::Known, resident, state::State};
use crate::{
    error::{Error, Result},
    protocol::visibility::{self, HistoryVisibility},
    store::schema::{
        numbers,
        rooms::{MEMBERS, ROOM_SERVERS},
    },
};

/// How many events are looked at for one that happened while the server was in the room.
const MOST_LOOKED_AT: usize = 20;

/// Another server that asks about a room.
pub struct Onlooker<'a> {
    rooms: &'a Rooms,
    room: &'a Room,
    server: &'a ServerName,
    is_in_room: bool,
    /// Its users who are in the room, or have been.
    users: OnceCell<Vec<OwnedUserId>>,
}

impl<'a> Onlooker<'a> {
    /// A server, as it stands towards a room.
    pub fn new(rooms: &'a Rooms, room: &'a Room, server: &'a ServerName) -> Result<Self> {
        let is_in_room = rooms.store.contains(ROOM_SERVERS, &(room.number, server.as_str().to_owned()))?;
        Ok(Self { rooms, room, server, is_in_room, users: OnceCell::new() })
    }

    /// Fails with 403 `M_FORBIDDEN` unless a user of the server is in the room.
    pub fn check_in_room(&self) -> Result<()> {
        match self.is_in_room {
            true => Ok(()),
            false => Err(Error::forbidden(format!("{} is not in this room", self.server))),
        }
    }

    /// Fails with 403 `M_FORBIDDEN` unless a user of the server is in the room, or was right before one of these
    /// events. Having been invited is not enough.
    pub fn check_was_in_room(&self, at: &[OwnedEventId]) -> Result<()> {
        for id in at.iter().take(if self.is_in_room { 0 } else { MOST_LOOKED_AT }) {
            if let Some(known) = self.rooms.by_id(id)?
                && known.room == self.room.number
                && self.was_joined_before(&known)?
            {
                return Ok(());
            }
        }
        self.check_in_room()
    }

    /// Whether the server is told of an event of the room at all: it is in the room, was right before the event, or one
    /// of its users is whom the event invites, turns out or lets in.
    pub fn is_told_of(&self, known: &Known) -> Result<bool> {
        if known.room != self.room.number {
            return Ok(false);
        }
        Ok(self.is_in_room || self.is_about_own_user(known) || self.was_joined_before(known)?)
    }

    /// Whether the server may have the content of an event that it is told of.
    pub fn may_see(&self, known: &Known) -> Result<bool> {
        let Some(before) = known.before else { return Ok(true) };
        let (rooms, sender) = (self.rooms, &known.event.sender);
        if !known.event.is_state() && rooms.is_local(sender) && rooms.users.is_erased(sender)? {
            // Those who were there keep what they were told; nobody else is told again.
            return self.was_joined_before(known);
        }
        let state = rooms.state(before)?;
        let history = rooms.in_state(&state, "m.room.history_visibility", "")?;
        let visibility = history.map_or_else(Default::default, |known| visibility::of(&known.event));
        if [HistoryVisibility::Shared, HistoryVisibility::WorldReadable].contains(&visibility) {
            return Ok(true);
        }
        Ok(visibility::server_may_see(&known.event, self.server, visibility, self.memberships(&state)?))
    }

    /// An event as the server gets it: without content that none of its users may see.
    pub fn pdu(&self, known: &Known) -> Result<Box<RawValue>> {
        Ok(match self.may_see(known)? {
            true => known.event.to_pdu(),
            false => known.event.redacted(self.room.rules).to_pdu(),
        })
    }

    fn is_about_own_user(&self, known: &Known) -> bool {
        let user = known.event.membership().and(known.event.state_key.as_deref());
        user.and_then(|user| <&UserId>::try_from(user).ok()).is_some_and(|user| user.server_name() == self.server)
    }

    fn was_joined_before(&self, known: &Known) -> Result<bool> {
        let Some(before) = known.before else { return Ok(false) };
        Ok(self.memberships(&self.rooms.state(before)?)?.contains(&MembershipState::Join))
    }

    /// The memberships of the server's users in a state.
    fn memberships(&self, state: &State) -> Result<Vec<MembershipState>> {
        let mut memberships = Vec::new();
        for user in self.users()? {
            let member = self.rooms.in_state(state, "m.room.member", user.as_str())?;
            memberships.extend(member.and_then(|member| member.event.membership()));
        }
        Ok(memberships)
    }

    fn users(&self) -> Result<&[OwnedUserId]> {
        if let Some(users) = self.users.get() {
            return Ok(users);
        }
        let mut users = Vec::new();
        for row in self.rooms.store.scan(MEMBERS, &(self.room.number,)) {
            let ((_, user), _) = row?;
            let user = numbers::user_id(&self.rooms.store, user)?;
            users.extend(user.filter(|user| user.server_name() == self.server));
        }
        Ok(self.users.get_or_init(|| users))
    }
}

/// Whether a room is a server's business at all: it is a room of all servers, and its ACL lets that one in.
pub fn is_open_to(rooms: &Rooms, room: &Room, server: &ServerName) -> Result<bool> {
    let create = rooms.in_state(&rooms.current(room.number)?, "m.room.create", "")?;
    let federates = create.and_then(|known| known.event.content_field::<bool>("m.federate")) != Some(false);
    Ok(federates && resident::acl_allows(rooms, room, server)?)
}
