//! Joining, leaving, inviting, kicking, banning: what changes who is in a room.
//!
//! Each function adds one member event. What the authorization rules say is not repeated here; only what a
//! person should read instead of a rule is.
//!
//! Spec: client-server-api#room-membership

use std::sync::Arc;

use ruma::{RoomId, UserId, events::room::member::MembershipState};

use super::{
    Rooms,
    append::{Deciding, NewEvent},
    notices,
};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{Object, Value},
        event::Event,
    },
    store::{
        Ticket,
        schema::{
            numbers,
            rooms::USER_ROOMS,
            users::{ACCOUNT_DATA, GLOBAL},
        },
    },
};

/// Refuses an invite of a local user who wants none: 403 `M_INVITE_BLOCKED`.
///
/// Spec: client-server-api#invite-permission
pub fn check_wanted(rooms: &Rooms, guest: &UserId) -> Result<()> {
    let Some(number) = numbers::find_user(&rooms.store, guest)?.filter(|_| rooms.is_local(guest)) else {
        return Ok(());
    };
    let config = rooms.store.get(ACCOUNT_DATA, &(number, GLOBAL, "m.invite_permission_config".to_owned()))?;
    let config: Option<serde_json::Value> = config.and_then(|row| serde_json::from_str(&row.json).ok());
    match config.is_some_and(|config| config["default_action"] == "block") {
        true => Err(Error::new(
            http::StatusCode::FORBIDDEN,
            "M_INVITE_BLOCKED",
            format!("{guest} does not accept invitations"),
        )),
        false => Ok(()),
    }
}

/// Lets a user forget a room that they are not in: they no longer see its past. Nothing if there is nothing to
/// forget; 400 `M_UNKNOWN` if they are still in it.
///
/// Spec: client-server-api#post_matrixclientv3roomsroomidforget
pub fn forget(rooms: &Rooms, user: &UserId, room: &RoomId) -> Result<Option<Ticket>> {
    let Some(number) = numbers::find_room(&rooms.store, room)? else {
        return Err(Error::not_found("this server does not know the room"));
    };
    let Some(user) = numbers::find_user(&rooms.store, user)? else { return Ok(None) };
    // The row is the room's to write.
    let room = rooms.open(number)?;
    let deciding = room.as_deref().map(|room| rooms.decide(room));
    let mut write = rooms.store.write();
    let Some(mut row) = write.get(USER_ROOMS, &(user, number))? else { return Ok(None) };
    if !matches!(row.membership, MembershipState::Leave | MembershipState::Ban) {
        return Err(Error::bad_request("M_UNKNOWN", "leave the room before you forget it"));
    }
    row.forgotten = true;
    write.put(USER_ROOMS, &(user, number), &row);
    write.wake(user);
    let ticket = write.commit()?;
    drop(deciding);
    Ok(Some(ticket))
}

impl Deciding<'_> {
    /// Lets a local user join, with their profile; nothing happens if they are in the room already.
    /// `content` is what the join says besides.
    pub fn join(&mut self, user: &UserId, reason: Option<&str>, mut content: Object) -> Result<Option<Arc<Event>>> {
        match self.membership(user)? {
            MembershipState::Join => return Ok(None),
            MembershipState::Ban => return Err(Error::forbidden("you are banned from this room")),
            _ => {}
        }
        content.extend(self.profile(user)?);
        if let Some(authoriser) = self.authoriser(user)? {
            content.insert("join_authorised_via_users_server".to_owned(), authoriser.as_str().into());
        }
        self.change_member(user, user, MembershipState::Join, reason, content).map(Some)
    }

    /// Takes a user out at their own wish: they leave, or decline an invite, or take back a knock.
    pub fn leave(&mut self, user: &UserId, reason: Option<&str>) -> Result<Option<Arc<Event>>> {
        match self.membership(user)? {
            MembershipState::Leave => Ok(None),
            MembershipState::Ban => Err(Error::forbidden("you are banned from this room")),
            _ => self.change_member(user, user, MembershipState::Leave, reason, Object::new()).map(Some),
        }
    }

    /// Invites a user; nothing happens if they are invited already.
    pub fn invite(
        &mut self,
        sender: &UserId,
        guest: &UserId,
        is_direct: bool,
        reason: Option<&str>,
    ) -> Result<Option<Arc<Event>>> {
        match self.membership(guest)? {
            MembershipState::Join => return Err(Error::forbidden(format!("{guest} is already in the room"))),
            MembershipState::Ban => return Err(Error::forbidden(format!("{guest} is banned from the room"))),
            _ => {}
        }
        if !notices::is_sender(self.rooms, sender) {
            check_wanted(self.rooms, guest)?;
        }
        let mut content = self.profile(guest)?;
        if is_direct {
            content.insert("is_direct".to_owned(), Value::Bool(true));
        }
        self.change_member(sender, guest, MembershipState::Invite, reason, content).map(Some)
    }

    /// Removes somebody else: kicks a member, withdraws an invite, refuses a knock.
    pub fn kick(&mut self, sender: &UserId, target: &UserId, reason: Option<&str>) -> Result<Arc<Event>> {
        match self.membership(target)? {
            MembershipState::Leave | MembershipState::Ban => {
                Err(Error::forbidden(format!("{target} is not in the room")))
            }
            _ => self.change_member(sender, target, MembershipState::Leave, reason, Object::new()),
        }
    }

    /// Bans a user, whether they are in the room or not.
    pub fn ban(&mut self, sender: &UserId, target: &UserId, reason: Option<&str>) -> Result<Option<Arc<Event>>> {
        if self.membership(target)? == MembershipState::Ban {
            return Ok(None);
        }
        self.change_member(sender, target, MembershipState::Ban, reason, Object::new()).map(Some)
    }

    /// Lifts a ban; the user may then join or be invited again.
    pub fn unban(&mut self, sender: &UserId, target: &UserId, reason: Option<&str>) -> Result<Arc<Event>> {
        match self.membership(target)? {
            MembershipState::Ban => self.change_member(sender, target, MembershipState::Leave, reason, Object::new()),
            _ => {
                let message = format!("{target} is not banned from the room");
                Err(Error::new(http::StatusCode::FORBIDDEN, "M_BAD_STATE", message))
            }
        }
    }

    /// Asks to be let in.
    pub fn knock(&mut self, user: &UserId, reason: Option<&str>) -> Result<Option<Arc<Event>>> {
        match self.membership(user)? {
            MembershipState::Knock => return Ok(None),
            MembershipState::Ban => return Err(Error::forbidden("you are banned from this room")),
            MembershipState::Join => return Err(Error::forbidden("you are already in this room")),
            MembershipState::Invite => return Err(Error::forbidden("you are invited: join the room instead")),
            _ => {}
        }
        let content = self.profile(user)?;
        self.change_member(user, user, MembershipState::Knock, reason, content).map(Some)
    }

    fn change_member(
        &mut self,
        sender: &UserId,
        target: &UserId,
        membership: MembershipState,
        reason: Option<&str>,
        mut content: Object,
    ) -> Result<Arc<Event>> {
        content.insert("membership".to_owned(), membership.as_str().into());
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), reason.into());
        }
        self.send(NewEvent::state(sender, "m.room.member", target.as_str(), content))
    }

    fn profile(&self, user: &UserId) -> Result<Object> {
        self.rooms.member_profile(user)
    }
}

impl Rooms {
    /// The display name and avatar that a local user's member events carry.
    pub fn member_profile(&self, user: &UserId) -> Result<Object> {
        let mut content = Object::new();
        if !self.is_local(user) {
            return Ok(content);
        }
        let profile = self.users.profile(user)?;
        if let Some(name) = profile.displayname {
            content.insert("displayname".to_owned(), name.into());
        }
        if let Some(avatar) = profile.avatar_url {
            content.insert("avatar_url".to_owned(), avatar.as_str().into());
        }
        Ok(content)
    }
}
