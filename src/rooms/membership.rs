//! Joining, leaving, inviting, kicking, banning: what changes who is in a room.
//!
//! Each function adds one member event. What the authorization rules say is not repeated here; only what a
//! person should read instead of a rule is.
//!
//! Spec: client-server-api#room-membership

use std::sync::Arc;

use ruma::{UserId, events::room::member::MembershipState};

use super::{
    Rooms,
    append::{Deciding, NewEvent},
};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{Object, Value},
        event::Event,
    },
};

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
            _ => Err(Error::forbidden(format!("{target} is not banned from the room"))),
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
