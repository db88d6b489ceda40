//! A room in a few words: what the directory, spaces and invitations show of it.
//!
//! Read from the current state, which is in memory for rooms that somebody looks at.

use std::sync::Arc;

use ruma::{OwnedRoomId, RoomVersionId};
use serde::{Deserialize, Serialize};

use super::{
    Room, Rooms,
    cache::{self, Known},
    state::State,
};
use crate::{
    error::Result,
    protocol::{
        auth::power::PowerLevels,
        visibility::{self, HistoryVisibility},
    },
};

/// What is shown of a room. Its JSON is what the directory, spaces and room summaries have in common, here and
/// in the answers of other servers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// Its ID.
    pub room_id: OwnedRoomId,
    /// Its version; older servers do not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_version: Option<RoomVersionId>,
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Its avatar.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    /// The name that it calls itself by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    /// Its join rule.
    #[serde(default = "public")]
    pub join_rule: String,
    /// The rooms whose members may join, where the join rule is restricted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    /// Whether everybody may read it.
    #[serde(default)]
    pub world_readable: bool,
    /// Whether guests may join.
    #[serde(default)]
    pub guest_can_join: bool,
    /// Its type, such as `m.space`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// The algorithm with which it is encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    /// How many are joined.
    #[serde(default)]
    pub num_joined_members: u64,
}

/// What a room without a join rule in an answer has.  Spec: client-server-api#get_matrixclientv3publicrooms
fn public() -> String {
    "public".to_owned()
}

/// What the current state of a room says of it.
pub fn of(rooms: &Rooms, room: &Room) -> Result<Summary> {
    let head = rooms.published(room.number)?;
    let state = rooms.state(head.state)?;
    let find = |kind: &str| rooms.in_state(&state, kind, "");
    let text = |known: &Option<Arc<Known>>, field: &str| -> Option<String> {
        known.as_ref()?.event.content_field::<String>(field).filter(|text| !text.is_empty())
    };
    let rules = find("m.room.join_rules")?;
    Ok(Summary {
        room_id: room.id.clone(),
        room_version: Some(room.version.clone()),
        name: text(&find("m.room.name")?, "name"),
        topic: text(&find("m.room.topic")?, "topic"),
        avatar_url: text(&find("m.room.avatar")?, "url"),
        canonical_alias: text(&find("m.room.canonical_alias")?, "alias"),
        join_rule: text(&rules, "join_rule").unwrap_or_else(|| "invite".to_owned()),
        allowed_room_ids: rules.as_ref().map(|known| allowed(known)).unwrap_or_default(),
        world_readable: find("m.room.history_visibility")?
            .is_some_and(|known| visibility::of(&known.event) == HistoryVisibility::WorldReadable),
        guest_can_join: text(&find("m.room.guest_access")?, "guest_access").as_deref() == Some("can_join"),
        room_type: text(&find("m.room.create")?, "type"),
        encryption: text(&find("m.room.encryption")?, "algorithm"),
        num_joined_members: head.members.0,
    })
}

/// The rooms whose members a restricted join rule lets in.
pub fn allowed(join_rules: &Known) -> Vec<OwnedRoomId> {
    let conditions = join_rules.event.content_value("allow");
    let conditions = conditions.as_ref().and_then(|value| value.as_array()).unwrap_or_default();
    let rooms = conditions.iter().filter_map(|condition| {
        let kind = condition.get("type")?.as_str()?;
        let room = condition.get("room_id")?.as_str()?;
        (kind == "m.room_membership").then(|| OwnedRoomId::try_from(room).ok())?
    });
    rooms.collect()
}

impl Rooms {
    /// The power levels of a room in this state.
    pub fn power_levels(&self, room: &Room, state: &State) -> Result<PowerLevels> {
        cache::power_levels(room.rules, |kind| self.in_state(state, kind, ""))
    }
}
