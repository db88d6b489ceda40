//! What people are told of by push, where to, and how far that has got.

use serde::{Deserialize, Serialize};

use super::{EventNo, RoomNo, UserNo};
use crate::store::{Position, Table};

/// Somewhere a user's notifications go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PusherRow {
    /// The device that set it; it goes with it.
    #[serde(rename = "d")]
    pub device: String,
    /// The name of the application, for people.
    #[serde(rename = "a")]
    pub app_display_name: String,
    /// The name of the device, for people.
    #[serde(rename = "n")]
    pub device_display_name: String,
    /// Which set of rules of the device it is for.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub profile_tag: Option<String>,
    /// The language for what people are shown.
    #[serde(rename = "l")]
    pub lang: String,
    /// The address of the push gateway.
    #[serde(rename = "u")]
    pub url: String,
    /// What the gateway is told besides, as JSON text.
    #[serde(rename = "j")]
    pub data: String,
    /// When it was set, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub set_at: u64,
}

/// Pushers: `(user, application ID, push key)`. Written by `users::pushers`.
pub const PUSHERS: Table<(UserNo, String, String), PusherRow> = Table::new("pushers");

/// Who has a pusher: `(application ID, push key, user)`. Written with [`PUSHERS`].
pub const PUSHKEYS: Table<(String, String, UserNo), ()> = Table::new("pushkeys");

/// How far a pusher has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PushedRow {
    /// Of everything up to here it was told, or it need not be told.
    #[serde(rename = "p")]
    pub at: Position,
    /// How much was unread, as it was last told.
    #[serde(rename = "u", default)]
    pub unread: u64,
    /// How many calls were missed, likewise.
    #[serde(rename = "c", default)]
    pub missed_calls: u64,
}

/// How far each pusher has got, by its key in [`PUSHERS`]. Begun by `users::pushers`, written by `push`.
pub const PUSHED: Table<(UserNo, String, String), PushedRow> = Table::new("pushed");

/// Something of which local users are, or were, notified: an event, or an invite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotifiedRow {
    /// The event.
    #[serde(rename = "e")]
    pub event: EventNo,
    /// When, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub ts: u64,
    /// The root of its thread.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub thread: Option<EventNo>,
    /// Whether it is a call.
    #[serde(rename = "c", default, skip_serializing_if = "std::ops::Not::not")]
    pub call: bool,
    /// Who is told, by how.
    #[serde(rename = "p")]
    pub told: Vec<Told>,
}

/// Those whose push rules say the same of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// Who.
    #[serde(rename = "u")]
    pub users: Vec<UserNo>,
    /// Whether it is highlighted.
    #[serde(rename = "h", default, skip_serializing_if = "std::ops::Not::not")]
    pub highlight: bool,
    /// The actions of the push rule, as JSON text; without a text, just `["notify"]`.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<String>,
}

impl NotifiedRow {
    /// How a user is told; nothing for whom it does not concern.
    pub fn to(&self, user: UserNo) -> Option<&Told> {
        self.told.iter().find(|told| told.users.contains(&user))
    }
}

/// What local users were notified of, by room, at the position of the event or of the invite. One row serves all
/// of them: for whom it is unread say [`READ_TO`] and [`SPOKE_AT`]. Written by `rooms::projections::unread`, and
/// shortened by `push`.
pub const NOTIFIED: Table<(RoomNo, Position), NotifiedRow> = Table::new("notified");

/// Stands for the main timeline where the root of a thread stands otherwise.
pub const MAIN_TIMELINE: EventNo = EventNo(u64::MAX - 1);

/// Stands for the main timeline and all threads where the root of a thread stands otherwise.
pub const EVERY_THREAD: EventNo = EventNo(u64::MAX);

/// Up to where in the log a local user's receipts go: `(user, room, root of the thread)`. Only ever moved on, with
/// the receipts.
pub const READ_TO: Table<(UserNo, RoomNo, EventNo), Position> = Table::new("read_to");

/// Where in the log a local user has spoken last, and so has read what came before: as [`READ_TO`]. A row of its own,
/// because receipts and events are written under different locks.
pub const SPOKE_AT: Table<(UserNo, RoomNo, EventNo), Position> = Table::new("spoke_at");
