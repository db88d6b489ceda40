//! What is remembered of other servers.

use serde::{Deserialize, Serialize};

use crate::store::Table;

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
