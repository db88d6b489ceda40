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

/// Something that a local user is, or was, notified of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotificationRow {
    /// Where it happened.
    #[serde(rename = "r")]
    pub room: RoomNo,
    /// The event.
    #[serde(rename = "e")]
    pub event: EventNo,
    /// When, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub ts: u64,
    /// Whether it is highlighted.
    #[serde(rename = "h", default, skip_serializing_if = "std::ops::Not::not")]
    pub highlight: bool,
    /// The actions of the push rule, as JSON text; without a text, just `["notify"]`.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub actions: Option<String>,
}

/// What local users were notified of, in the order of the log. The place is that of the row in
/// [`super::rooms::UNREAD`], which is gone once it was read. Written by `rooms::projections::unread`, and shortened
/// by `push`.
pub const NOTIFICATIONS: Table<(UserNo, Position), NotificationRow> = Table::new("notifications");

/// Where in the log something stopped being unread for a user, for the last time. Written with that.
pub const READ_AT: Table<UserNo, Position> = Table::new("read_at");
