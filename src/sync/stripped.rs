//! What somebody who is invited to a room, or knocks at it, may see of it.
//!
//! Spec: client-server-api#stripped-state

use serde::Deserialize;

use super::{Look, ephemeral::comma};
use crate::{
    error::Result,
    protocol::event::stripped_format,
    store::schema::{
        RoomNo,
        rooms::{STRIPPED_STATE, UserRoomRow},
    },
};

/// The state events that are shown, all with an empty state key.
const SHOWN: [&str; 8] = [
    "m.room.create",
    "m.room.name",
    "m.room.avatar",
    "m.room.topic",
    "m.room.join_rules",
    "m.room.canonical_alias",
    "m.room.encryption",
    "m.room.tombstone",
];

/// Writes the stripped events, without brackets: those that another server sent with the invite, or those of
/// the room as it was then; and the reader's own membership.
pub fn write(look: &Look<'_>, room: RoomNo, row: &UserRoomRow, out: &mut String) -> Result<()> {
    let own = look.rooms.known(row.event)?;
    let mut first = true;
    if let Some(sent) = look.store().get(STRIPPED_STATE, &(look.reader.number, room))? {
        for text in sent.iter().filter(|text| !is_member(text, look.reader.user.as_str())) {
            comma(out, &mut first);
            out.push_str(text);
        }
    } else if let Some(state) = look.rooms.state_after(&own)? {
        for kind in SHOWN {
            if let Some(known) = look.rooms.in_state(&state, kind, "")? {
                comma(out, &mut first);
                out.push_str(&stripped_format(&known.event));
            }
        }
        // Who invites, by name and face.
        let inviter = look.rooms.in_state(&state, "m.room.member", own.event.sender.as_str())?;
        if let Some(inviter) = inviter.filter(|inviter| inviter.number != own.number) {
            comma(out, &mut first);
            out.push_str(&stripped_format(&inviter.event));
        }
    }
    comma(out, &mut first);
    out.push_str(&stripped_format(&own.event));
    Ok(())
}

/// Whether a stripped event is a user's membership.
fn is_member(text: &str, user: &str) -> bool {
    #[derive(Deserialize)]
    struct Header<'a> {
        #[serde(borrow, rename = "type")]
        kind: std::borrow::Cow<'a, str>,
        #[serde(borrow, default)]
        state_key: std::borrow::Cow<'a, str>,
    }
    serde_json::from_str::<Header<'_>>(text)
        .is_ok_and(|header| header.kind == "m.room.member" && header.state_key == user)
}
