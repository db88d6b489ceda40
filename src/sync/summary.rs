//! What clients need to name a room: its heroes and how many people are in it.
//!
//! Spec: client-server-api#get_matrixclientv3sync (`summary`)

use std::fmt::Write as _;

use ruma::{OwnedUserId, events::room::member::MembershipState};

use super::{Look, ephemeral::comma, state::Changes};
use crate::{
    error::Result,
    protocol::canonical::write_string,
    rooms::state::State,
    store::schema::{RoomNo, numbers, rooms::MEMBERS},
};

/// How many heroes there are at most.
const HEROES: usize = 5;
/// How many members are looked at for them.
const MOST_MEMBERS: usize = 2_000;

/// The summary of a room.
pub struct Summary {
    /// Who stands for a room without a name.
    pub heroes: Option<Vec<OwnedUserId>>,
    /// How many users are joined.
    pub joined: u64,
    /// How many users are invited.
    pub invited: u64,
}

impl Summary {
    /// The summary of a room in a state.
    pub fn read(look: &Look<'_>, room: RoomNo, state: &State) -> Result<Self> {
        let (joined, invited) = look.rooms.published(room)?.members;
        let heroes = match named(look, state)? {
            true => None,
            false => Some(heroes(look, room)?),
        };
        Ok(Self { heroes, joined, invited })
    }

    /// Whether something changed that this tells of.
    pub fn changed(look: &Look<'_>, changes: &Changes<'_>) -> Result<bool> {
        let name = look.rooms.state_key("m.room.name", "")?;
        let alias = look.rooms.state_key("m.room.canonical_alias", "")?;
        Ok(changes.any(|key| key.is_member() || Some(key) == name || Some(key) == alias))
    }

    /// Writes the JSON object.
    pub fn write(&self, out: &mut String) {
        out.push('{');
        if let Some(heroes) = &self.heroes {
            out.push_str("\"m.heroes\":[");
            let mut first = true;
            for hero in heroes {
                comma(out, &mut first);
                write_string(out, hero.as_str());
            }
            out.push_str("],");
        }
        let _ = write!(out, "\"m.joined_member_count\":{},\"m.invited_member_count\":{}}}", self.joined, self.invited);
    }
}

/// Whether a room has a name or a main alias.
fn named(look: &Look<'_>, state: &State) -> Result<bool> {
    for (kind, field) in [("m.room.name", "name"), ("m.room.canonical_alias", "alias")] {
        let event = look.rooms.in_state(state, kind, "")?;
        let text = event.and_then(|known| known.event.content_field::<String>(field));
        if text.is_some_and(|text| !text.is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The first members besides the reader: those who are joined or invited, or else those who were.
pub fn heroes(look: &Look<'_>, room: RoomNo) -> Result<Vec<OwnedUserId>> {
    let (mut present, mut past) = (Vec::new(), Vec::new());
    for row in look.store().scan(MEMBERS, &(room,)).take(MOST_MEMBERS) {
        let ((_, user), member) = row?;
        if user == look.reader.number {
            continue;
        }
        match member.membership {
            MembershipState::Join | MembershipState::Invite => present.push((member.event, user)),
            MembershipState::Leave | MembershipState::Ban => past.push((member.event, user)),
            _ => {}
        }
    }
    let mut chosen = if present.is_empty() { past } else { present };
    chosen.sort_unstable();
    chosen.truncate(HEROES);
    let mut heroes = Vec::new();
    for (_, user) in chosen {
        heroes.extend(numbers::user_id(look.store(), user)?);
    }
    Ok(heroes)
}
