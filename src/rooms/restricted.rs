//! Rooms that members of other rooms may join.
//!
//! Spec: client-server-api#restricted-rooms, server-server-api#restricted-rooms

use ruma::{OwnedUserId, RoomId, UserId, events::room::member::MembershipState};
use serde::Deserialize;

use super::{append::Deciding, partial, resident};
use crate::{
    error::{Error, Result},
    store::schema::{RoomNo, numbers},
};

#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
    #[serde(default)]
    allow: serde_json::Value,
}

#[derive(Deserialize)]
struct Allow {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    room_id: String,
}

impl Deciding<'_> {
    /// Who on this server lets a user into a restricted room: `None` where nobody has to, because the room is
    /// open to the user anyway.
    ///
    /// Errors: 403 `M_FORBIDDEN` if the user meets none of the conditions, 400 `M_UNABLE_TO_AUTHORISE_JOIN` if
    /// this server cannot check them, 400 `M_UNABLE_TO_GRANT_JOIN` if nobody here has the power to let the
    /// user in.
    pub fn authoriser(&self, user: &UserId) -> Result<Option<OwnedUserId>> {
        let Some(rules) = self.state("m.room.join_rules", "")? else { return Ok(None) };
        let Ok(rules) = rules.event.content_as::<JoinRules>() else { return Ok(None) };
        let restricted = match rules.join_rule.as_str() {
            "restricted" => self.room.rules.restricted,
            "knock_restricted" => self.room.rules.knock_restricted,
            _ => false,
        };
        let welcome = matches!(self.membership(user)?, MembershipState::Join | MembershipState::Invite);
        if !restricted || welcome {
            return Ok(None);
        }
        self.check_conditions(rules.allow, user)?;
        let levels = self.power_levels()?;
        for number in &self.head().locals {
            let Some(local) = numbers::user_id(&self.rooms.store, *number)? else { continue };
            if levels.can_invite(&local) {
                return Ok(Some(local));
            }
        }
        let message = "nobody on this server has the power to let the user in";
        Err(Error::bad_request("M_UNABLE_TO_GRANT_JOIN", message))
    }

    fn check_conditions(&self, allow: serde_json::Value, user: &UserId) -> Result<()> {
        let mut unknown = false;
        // What is no condition that anybody knows is met by nobody.
        let conditions =
            allow.as_array().into_iter().flatten().filter_map(|condition| Allow::deserialize(condition).ok());
        for condition in conditions.filter(|condition| condition.kind == "m.room_membership") {
            let Ok(room) = RoomId::parse(&condition.room_id) else { continue };
            match numbers::find_room(&self.rooms.store, &room)? {
                Some(number) if self.rooms.membership(number, user)? == MembershipState::Join => return Ok(()),
                Some(number) if self.knows_members(number)? => {}
                _ => unknown = true,
            }
        }
        match unknown {
            true => Err(resident::unable_to_authorise("this server is not in the rooms whose members may join")),
            false => Err(Error::forbidden("the room is open only to members of certain other rooms")),
        }
    }

    /// Whether this server is in a room and knows everybody there.
    fn knows_members(&self, room: RoomNo) -> Result<bool> {
        Ok(!super::ephemeral::locals(self.rooms, room)?.is_empty() && partial::arrived(self.rooms, room)?.0)
    }
}
