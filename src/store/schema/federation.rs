//! What is remembered of other servers.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use super::{EventNo, RoomNo, UserNo};
use crate::store::{Position, Table};

/// A signing key of another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerKeyRow {
    /// The public key, in Base64.
    #[serde(rename = "k")]
    pub key: String,
    /// Until when the server vouches for it, in milliseconds since the epoch; for an old key, when it was
    /// given up.
    #[serde(rename = "v")]
    pub valid_until: u64,
    /// Whether the server has given it up: it verifies old events, and no requests.
    #[serde(rename = "o", default, skip_serializing_if = "std::ops::Not::not")]
    pub old: bool,
}

/// One row per key: `(server name, key ID)`. Written by `remote::keys`.
pub const SERVER_KEYS: Table<(String, String), ServerKeyRow> = Table::new("server_keys");

/// The newest statement of each server about its keys, as it was signed, so that this server can vouch for it.
/// Written by `remote::keys`.
pub const SERVER_STATEMENTS: Table<String, String> = Table::new("server_statements");

/// A server that could not be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackOffRow {
    /// Since when, in milliseconds since the epoch.
    #[serde(rename = "s")]
    pub since: u64,
    /// How often in a row.
    #[serde(rename = "n")]
    pub failures: u32,
    /// When to try again, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub retry: u64,
}

/// One row per server that cannot be reached at present. Written by `remote::back_off`.
pub const BACK_OFF: Table<String, BackOffRow> = Table::new("back_off");

/// Something that other servers are to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutboxRow {
    /// An event, for the servers that are in its room.
    Pdu(EventNo),
    /// An ephemeral event, as JSON text, for all other servers in a room.
    ToRoom(RoomNo, String),
    /// An ephemeral event, as JSON text, for these servers.
    ToServers(Vec<String>, String),
    /// That the keys of a device of a user of this server have changed, or that it is gone, for all servers that
    /// share a room.
    Device {
        /// Whose device it is.
        user: UserNo,
        /// The device.
        device: String,
        /// The number of this change among those of the user.
        stream: u64,
        /// The number of the change before it.
        prev: Option<u64>,
    },
    /// That the cross-signing keys of a user of this server have changed, likewise.
    SigningKeys(UserNo),
    /// That somebody has come into a room or left it, which may concern servers that know the devices of users of this
    /// one.
    Moved(RoomNo, Mover),
}

/// Who has come into a room or left it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mover {
    /// A user of this server.
    User(UserNo),
    /// The first user of another server, or the last one.
    Server(String),
}

/// Servers that have shared a room with a user of this one and share none at present: they do not hear of changes of
/// the user's devices. 0, or when they met again, in milliseconds since the epoch. Written by `outbound`.
pub const PARTED: Table<(UserNo, String), u64> = Table::new("parted");

/// What other servers are to be sent, in the order of the log. Written with what it is about, by whoever
/// makes it; removed by `outbound` once nobody waits for it.
pub const OUTBOX: Table<Position, OutboxRow> = Table::new("outbox");

/// Up to where of [`OUTBOX`] each server has got what is for it; a server without a row has nothing to wait for.
/// Written by `outbound`.
pub const SENT: Table<String, Position> = Table::new("sent");

/// Up to where [`OUTBOX`] was divided among servers; there is one row.
pub const DIVIDED: Table<(), Position> = Table::new("divided");

/// An event of another server that was promised to be taken in. Its format and signatures were checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InboxRow {
    /// Its ID.
    #[serde(rename = "i")]
    pub id: OwnedEventId,
    /// The server that has sent it, which is asked first for what is missing.
    #[serde(rename = "o")]
    pub origin: String,
    /// The canonical JSON of the PDU.
    #[serde(rename = "j")]
    pub json: String,
    /// How often it could not be judged, because nobody had what it rests on.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub failures: u32,
    /// When to try again, in milliseconds since the epoch.
    #[serde(rename = "t", default, skip_serializing_if = "is_now")]
    pub retry: u64,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

fn is_now(time: &u64) -> bool {
    *time == 0
}

/// The events of other servers that wait to be taken in, by room and in the order in which they came.
/// Written by `rooms::inbox`; a row goes with the `Write` that takes the event in.
pub const INBOX: Table<(RoomNo, u64), InboxRow> = Table::new("inbox");

/// An event of a room that has come while this server was on its way in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EarlyRow {
    /// Who has sent it.
    #[serde(rename = "o")]
    pub origin: String,
    /// The event as it came, as JSON text: nothing of it was checked.
    #[serde(rename = "j")]
    pub json: String,
}

/// Events that have come before their rooms, by room and in the order in which they came. Written by `rooms::early`,
/// and removed once they are in the room or its inbox.
pub const EARLY_EVENTS: Table<(RoomNo, u64), EarlyRow> = Table::new("early_events");
