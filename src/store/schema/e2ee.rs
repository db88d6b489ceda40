//! Keys of devices and people, messages between devices, and backups of room keys.
//!
//! Everything here is written by `e2ee`, each table by the module of the same name.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{RoomNo, UserNo};
use crate::store::{Position, Table};

/// A key object that its owner has signed: the keys of a device, or a cross-signing key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRow {
    /// What was signed, as canonical JSON: the object without `signatures` and `unsigned`.
    #[serde(rename = "j")]
    pub json: String,
    /// The signatures by keys of the owner: key ID → signature. Every one was checked.
    #[serde(rename = "s")]
    pub signatures: BTreeMap<String, String>,
}

/// The identity keys of a device: `(user, device)`.
pub const DEVICE_KEYS: Table<(UserNo, String), SignedRow> = Table::new("device_keys");

/// The public cross-signing keys of a user: `(user, usage)`, see [`usage`].
pub const CROSS_SIGNING: Table<(UserNo, u8), SignedRow> = Table::new("cross_signing");

/// What the second half of a key of [`CROSS_SIGNING`] stands for.
pub mod usage {
    /// The master key.
    pub const MASTER: u8 = 0;
    /// The key that signs the user's own devices.
    pub const SELF_SIGNING: u8 = 1;
    /// The key that signs other people's master keys. Only its owner sees it.
    pub const USER_SIGNING: u8 = 2;
}

/// What somebody else's user-signing key says of a user's master key: `(user, signer)` → `(key ID,
/// signature)`. Only the signer sees it. Gone with the master key.
pub const MASTER_SIGNATURES: Table<(UserNo, UserNo), (String, String)> = Table::new("master_signatures");

/// A one-time key that nobody has claimed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKeyRow {
    /// The name after the algorithm.
    #[serde(rename = "i")]
    pub id: String,
    /// The key object as canonical JSON.
    #[serde(rename = "j")]
    pub json: String,
}

/// One-time keys in the order in which they were uploaded: `(user, device, algorithm, number)`. A key that
/// is handed out is removed, and that is on the disk before it is handed out.
///
/// Spec: client-server-api#post_matrixclientv3keysclaim
pub const ONE_TIME_KEYS: Table<(UserNo, String, String, u64), OneTimeKeyRow> = Table::new("one_time_keys");

/// A one-time key by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OneTimeKeyIdRow {
    /// The last part of its key in [`ONE_TIME_KEYS`].
    #[serde(rename = "n")]
    pub number: u64,
    /// The hash of its JSON.
    #[serde(rename = "h")]
    pub hash: u64,
    /// Whether it was handed out: then it is gone, and the same upload, sent again, must not bring it back.
    #[serde(rename = "c", default, skip_serializing_if = "std::ops::Not::not")]
    pub issued: bool,
}

/// The names of one-time keys: `(user, device, algorithm:id)`. Those handed out are kept for a while.
pub const ONE_TIME_KEY_IDS: Table<(UserNo, String, String), OneTimeKeyIdRow> = Table::new("one_time_key_ids");

/// The names of one-time keys that were handed out, in that order, so that the oldest can be forgotten:
/// `(user, device, number)` → `algorithm:id`.
pub const ONE_TIME_KEYS_ISSUED: Table<(UserNo, String, u64), String> = Table::new("one_time_keys_issued");

/// How many one-time keys of a device nobody has claimed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SupplyRow {
    /// By algorithm.
    #[serde(rename = "c")]
    pub counts: BTreeMap<String, u64>,
    /// How many rows the device has in [`ONE_TIME_KEYS_ISSUED`].
    #[serde(rename = "i", default)]
    pub issued: u64,
}

/// One row per device that ever uploaded one-time keys.
pub const SUPPLY: Table<(UserNo, String), SupplyRow> = Table::new("key_supply");

/// The key that is handed out when there are no one-time keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackKeyRow {
    /// The name after the algorithm.
    #[serde(rename = "i")]
    pub id: String,
    /// The key object as canonical JSON.
    #[serde(rename = "j")]
    pub json: String,
    /// Whether it was handed out.
    #[serde(rename = "u", default, skip_serializing_if = "std::ops::Not::not")]
    pub used: bool,
}

/// Fallback keys: `(user, device, algorithm)`.
pub const FALLBACK_KEYS: Table<(UserNo, String, String), FallbackKeyRow> = Table::new("fallback_keys");

/// The epoch of the store in which the one-time keys were uploaded. One row. In a store of another epoch,
/// restored or rebuilt with a loss, which of them were handed out is unknown, and none may be handed out
/// twice: they are forgotten, and clients upload others.
pub const ONE_TIME_KEYS_EPOCH: Table<(), u64> = Table::new("one_time_keys_epoch");

/// Why somebody may have to look at a user's keys again, or no longer has to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListChange {
    /// The user's devices or cross-signing keys changed.
    #[serde(rename = "k")]
    Keys,
    /// The user joined the room.
    #[serde(rename = "j")]
    Joined,
    /// The user is no longer joined to the room.
    #[serde(rename = "l")]
    Left,
    /// The named user, and nobody else, sees another signature on the user's master key.
    #[serde(rename = "s")]
    SignedBy(UserNo),
}

/// Everything that changes whose keys somebody must know: `(position, user, room)`, where the room is 0 for
/// what concerns no room. Whom it concerns is found by the reader. The rows for rooms are written by
/// `rooms::projections::device_lists`.
pub const LIST_CHANGES: Table<(Position, UserNo, RoomNo), ListChange> = Table::new("device_list_changes");

/// How often the devices of a local user have changed, as other servers count it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamRow {
    /// The number of the newest change.
    #[serde(rename = "n")]
    pub number: u64,
    /// The epoch of the store in which it was given out: numbers of a lost future are not given out again.
    #[serde(rename = "e")]
    pub epoch: u64,
}

/// One row per local user whose devices ever changed. Written by `e2ee::device_lists`.
///
/// Spec: server-server-api#device-management
pub const STREAMS: Table<UserNo, StreamRow> = Table::new("device_streams");

/// What is known of the devices of another server's user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteListRow {
    /// The number of the newest change, if the server told one.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<u64>,
    /// When the server was asked: who has shared a room with the user ever since is told of every change.
    #[serde(rename = "p")]
    pub since: Position,
    /// Whether a change was missed.
    #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
    pub stale: bool,
}

/// One row per user of another server whose devices are kept. Written, like the tables below, by
/// `e2ee::elsewhere`.
pub const REMOTE_LISTS: Table<UserNo, RemoteListRow> = Table::new("remote_lists");

/// The devices of such users: `(user, device)` → the keys as JSON text.
pub const REMOTE_DEVICES: Table<(UserNo, String), String> = Table::new("remote_devices");

/// Their cross-signing keys: `(user, usage)` → the key as JSON text.
pub const REMOTE_IDENTITIES: Table<(UserNo, u8), String> = Table::new("remote_identities");

/// Users of other servers whose devices are to be asked for again: `(server, user)`.
pub const LOST_LISTS: Table<(String, UserNo), ()> = Table::new("lost_lists");

/// Messages for a device that it has not acknowledged: `(user, device, position)` → the event as JSON text.
/// A device gets at most one message per `Write`.
///
/// Spec: client-server-api#send-to-device-messaging
pub const INBOX: Table<(UserNo, String, Position), String> = Table::new("to_device");

/// Transaction IDs of messages to devices: `(user, device, transaction ID)` → when it came, in
/// milliseconds since the epoch. Forgotten after a while, and with the device.
pub const SENT: Table<(UserNo, String, String), u64> = Table::new("to_device_sent");

/// The same in the order of time: `(user, device, when, transaction ID)`.
pub const SENT_AT: Table<(UserNo, String, u64, String), ()> = Table::new("to_device_sent_at");

/// A device that receives keys while nobody is logged in on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DehydratedRow {
    /// Its ID.
    #[serde(rename = "d")]
    pub device: String,
    /// Its private part, encrypted by the client, as JSON text.
    #[serde(rename = "j")]
    pub data: String,
}

/// At most one dehydrated device per user. Spec: MSC3814
pub const DEHYDRATED: Table<UserNo, DehydratedRow> = Table::new("dehydrated_devices");

/// A backup of room keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupRow {
    /// How its keys are encrypted.
    #[serde(rename = "a")]
    pub algorithm: String,
    /// What goes with the algorithm, as JSON text.
    #[serde(rename = "j")]
    pub auth_data: String,
    /// Whether it was deleted: it has no keys then, but its number stays taken.
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

/// Backups: `(user, version)`. Versions count from 1.
pub const BACKUPS: Table<(UserNo, u64), BackupRow> = Table::new("backups");

/// How much is in a backup: `(user, version)` → `(number of keys, number of changes so far)`.
pub const BACKUP_COUNTS: Table<(UserNo, u64), (u64, u64)> = Table::new("backup_counts");

/// The keys in a backup: `(user, version, room, session)` → the key data as JSON text.
pub const BACKUP_KEYS: Table<(UserNo, u64, String, String), String> = Table::new("backup_keys");
