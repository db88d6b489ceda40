//! Events, their places in a room, and the states of rooms.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use super::{EventNo, RoomNo, StateKeyNo, StateNo, UserNo};
use crate::store::{Position, Table};

/// An event as it was accepted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct EventRow {
    /// Its ID.
    #[serde(rename = "i")]
    pub id: OwnedEventId,
    /// The room it belongs to.
    #[serde(rename = "r")]
    pub room: RoomNo,
    /// The canonical JSON of the PDU; redacted once the event has been redacted.
    #[serde(rename = "j")]
    pub json: String,
    /// How it stands in the room.
    #[serde(rename = "s", default, skip_serializing_if = "Standing::is_accepted")]
    pub standing: Standing,
    /// The state before it; unknown for outliers.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub before: Option<StateNo>,
    /// The state event whose place it took.
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<EventNo>,
    /// The event that redacted it.
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    pub redacted_by: Option<EventNo>,
}

/// How an event stands in its room.
///
/// Spec: server-server-api#rejection, server-server-api#soft-failure
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Standing {
    /// Part of the room.
    #[default]
    Accepted,
    /// Kept for the graph and for state resolution, not shown.
    SoftFailed,
    /// Kept only so that what refers to it is understood.
    Rejected,
    /// Known (as part of a state, or of an auth chain), but without a place in the timeline.
    Outlier,
}

impl Standing {
    fn is_accepted(&self) -> bool {
        *self == Self::Accepted
    }

    /// Whether the event is in the graph of the room and can never be an end of it.
    pub fn is_hidden(self) -> bool {
        matches!(self, Self::SoftFailed | Self::Rejected)
    }
}

/// One row per event that this server has, outliers and rejected ones too. Written by `rooms`.
pub const EVENTS: Table<EventNo, EventRow> = Table::new("events");

/// What `/sync` shows of a room: its events in the order in which they arrived. Backfilled,
/// soft-failed, rejected events and outliers have no row. Written by `rooms::projections::timeline`.
pub const TIMELINE: Table<(RoomNo, Position), EventNo> = Table::new("timeline");

/// The history of a room as `/messages` walks it: by depth, then in order of arrival. The value is the
/// position of the event's [`TIMELINE`] row; backfilled events have 0.
/// Written by `rooms::projections::timeline`.
pub const HISTORY: Table<(RoomNo, u64, EventNo), Position> = Table::new("history");

/// What a room's state gained and lost at a position, by resolution as well as by an event. Both `state`
/// and `state_after` of `/sync` are made of these. Written by `rooms::state`.
pub const STATE_DELTAS: Table<(RoomNo, Position, StateKeyNo), DeltaRow> = Table::new("state_deltas");

/// One changed entry of a room's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeltaRow(
    /// The event that was there.
    pub Option<EventNo>,
    /// The event that is there now.
    pub Option<EventNo>,
);

/// A state as the difference from its parent. Written by `rooms::state`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StateRow {
    /// The state that this one differs from; a root is a whole state by itself.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<StateNo>,
    /// How many entries this difference has, with those in [`STATE_PAGES`].
    #[serde(rename = "n", default)]
    pub size: u64,
    /// How many further pages there are in [`STATE_PAGES`].
    #[serde(rename = "g", default, skip_serializing_if = "is_zero")]
    pub pages: u64,
    /// Entries added or replaced.
    #[serde(rename = "s", default)]
    pub set: Vec<(StateKeyNo, EventNo)>,
    /// Entries removed.
    #[serde(rename = "u", default, skip_serializing_if = "Vec::is_empty")]
    pub unset: Vec<StateKeyNo>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// One row per state that some event refers to.
///
/// A reader may see the rows of a `Write` before it is published, and those of one `Write` come up in the
/// order of their tables' names: this one sorts before [`EVENTS`] and [`HEADS`], so that the state that such
/// a row names is always there.
pub const STATES: Table<StateNo, StateRow> = Table::new("differences");

/// What a large state sets beyond its first page, so that no value grows beyond what the engine stores
/// well: pages are counted from 0.
pub const STATE_PAGES: Table<(StateNo, u64), Vec<(StateKeyNo, EventNo)>> = Table::new("difference_pages");

/// The forward extremities of a room, its depth and its current state. One small row, rewritten with
/// every event. Written by `rooms::append`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HeadRow {
    /// The forward extremities.
    #[serde(rename = "e")]
    pub extremities: Vec<EventNo>,
    /// The greatest depth among them.
    #[serde(rename = "d")]
    pub depth: u64,
    /// The depth at which this server has come into the room; what happened before is history.
    #[serde(rename = "f", default, skip_serializing_if = "is_zero")]
    pub floor: u64,
    /// The current (resolved) state.
    #[serde(rename = "s")]
    pub state: StateNo,
    /// How many users are joined, and how many are invited.
    #[serde(rename = "j")]
    pub members: (u64, u64),
}

/// One row per room.
pub const HEADS: Table<RoomNo, HeadRow> = Table::new("heads");

/// Which event a client's transaction made: `(user, fingerprint)`. Written with the event, removed after a while
/// together with its [`TRANSACTION_OF`].
///
/// Spec: client-server-api#transaction-identifiers
pub const TRANSACTIONS: Table<(UserNo, Fingerprint), EventNo> = Table::new("transactions");

/// A hash of the device, the transaction ID, and the path of the endpoint.
pub type Fingerprint = u128;

/// The transaction that made an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransactionRow {
    /// Who sent it.
    #[serde(rename = "u")]
    pub user: UserNo,
    /// On which device.
    #[serde(rename = "d")]
    pub device: String,
    /// The transaction ID, which is told to that device.
    #[serde(rename = "t")]
    pub id: String,
    /// Where it stands in [`TRANSACTIONS`].
    #[serde(rename = "f")]
    pub fingerprint: Fingerprint,
    /// When, in milliseconds since the epoch.
    #[serde(rename = "w")]
    pub at: u64,
}

/// The transaction that made an event, by event.
pub const TRANSACTION_OF: Table<EventNo, TransactionRow> = Table::new("transaction_of");

/// An event that relates to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationRow {
    /// Who sent it.
    #[serde(rename = "u")]
    pub sender: UserNo,
    /// Its depth, which with its number is its place in the history of the room.
    #[serde(rename = "d")]
    pub depth: u64,
    /// The key of an annotation.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// Events that relate to another: `(parent, relation type, event type, child)`. Redacted children have no
/// row. Written by `rooms::projections::relations`.
pub const RELATIONS: Table<(EventNo, String, String, EventNo), RelationRow> = Table::new("relations");

/// Relations whose parent is not known yet: `(parent's event ID, child)`. Moved to [`RELATIONS`] when it comes.
pub const RELATIONS_AHEAD: Table<(String, EventNo), (String, String, RelationRow)> = Table::new("relations_ahead");

/// Events that have begun a thread: `(room, root)`. A thread whose replies are all redacted keeps its row.
/// Written by `rooms::projections::relations`.
pub const THREADS: Table<(RoomNo, EventNo), ()> = Table::new("threads");

/// Events that were removed because their time is over: they do not come back. Written by `rooms::retention`.
pub const REMOVED: Table<EventNo, ()> = Table::new("removed");

/// Those of them whose rows in [`EVENTS`] are still there, without what they said, for whoever is just reading them.
pub const LEFTOVERS: Table<EventNo, ()> = Table::new("removed_leftovers");

/// Redactions of events that are not here yet, by the ID of the event that they are about.
pub const REDACTIONS_AHEAD: Table<String, EventNo> = Table::new("redactions_ahead");
