//! Events that are to be sent later. Written by `rooms::delayed`.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde::{Deserialize, Serialize};

use super::{EventNo, UserNo};
use crate::store::Table;

/// An event that somebody has left here to be sent later, and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DelayedRow {
    /// Who sends it.
    #[serde(rename = "u")]
    pub user: OwnedUserId,
    /// Into which room.
    #[serde(rename = "r")]
    pub room: OwnedRoomId,
    /// Its type.
    #[serde(rename = "k")]
    pub kind: String,
    /// Its state key, for a state event.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
    /// Its content, as JSON text.
    #[serde(rename = "j")]
    pub content: String,
    /// How long to wait, in milliseconds.
    #[serde(rename = "d")]
    pub delay: u64,
    /// Since when, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub since: u64,
    /// The transaction that made it, in [`DELAYED_TRANSACTIONS`].
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub transaction: Option<(String, String)>,
    /// How it ended; nothing as long as it waits.
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<EndRow>,
}

impl DelayedRow {
    /// When it is to be sent, in milliseconds since the epoch.
    pub fn due(&self) -> u64 {
        self.since.saturating_add(self.delay)
    }
}

/// How a delayed event ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndRow {
    /// When, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub at: u64,
    /// What came of it.
    #[serde(rename = "h")]
    pub how: End,
}

/// What came of a delayed event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It was sent as this event.
    #[serde(rename = "s")]
    Sent(OwnedEventId),
    /// It was called off.
    #[serde(rename = "c")]
    Cancelled,
    /// It could not be sent: the error, as JSON text.
    #[serde(rename = "f")]
    Failed(String),
}

/// Delayed events: `(user, ID)`. Those that have ended stay for a while.
pub const DELAYED: Table<(UserNo, String), DelayedRow> = Table::new("delayed_events");

/// Whose delayed event has an ID.
pub const DELAYED_OWNERS: Table<String, UserNo> = Table::new("delayed_owners");

/// Delayed events that wait, in the order in which they are to be sent: `(when, user, ID)`.
pub const DELAYED_DUE: Table<(u64, UserNo, String), ()> = Table::new("delayed_due");

/// Delayed events that have ended, in that order: `(when, user, ID)`.
pub const DELAYED_ENDED: Table<(u64, UserNo, String), ()> = Table::new("delayed_ended");

/// Which delayed event a transaction made: `(user, device, transaction)` → ID. Gone with the event.
pub const DELAYED_TRANSACTIONS: Table<(UserNo, String, String), String> = Table::new("delayed_transactions");

/// As which delayed event an event had waited; its sender is told.
pub const DELAYED_AS: Table<EventNo, String> = Table::new("delayed_as");
