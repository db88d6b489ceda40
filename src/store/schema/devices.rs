//! Devices of local users, and the tokens by which they are known.

use serde::{Deserialize, Serialize};

use super::UserNo;
use crate::store::{Store, StoreError, Table};

/// The SHA-256 of a token. The token itself is only known to the client.
pub type TokenKey = [u8; 32];

/// A device: where somebody is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceRow {
    /// The name that people see.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When it logged in first, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub created: u64,
    /// Its access tokens: one, or two between a refresh and the first use of the new one.
    #[serde(rename = "a", default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<TokenKey>,
    /// Its refresh tokens, likewise.
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    pub refresh: Vec<TokenKey>,
}

/// One row per user and device ID. Written by `users::devices`.
pub const DEVICES: Table<(UserNo, String), DeviceRow> = Table::new("devices");

/// When and from where a device was last seen. Written now and then by `users::devices`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenRow {
    /// When, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub at: u64,
    /// From which address.
    #[serde(rename = "a", default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// With which program, as it calls itself.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
}

/// One row per device that was seen.
pub const DEVICES_SEEN: Table<(UserNo, String), SeenRow> = Table::new("devices_seen");

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRow {
    /// Whose it is.
    #[serde(rename = "u")]
    pub user: UserNo,
    /// The device.
    #[serde(rename = "d")]
    pub device: String,
    /// Until when it holds, in milliseconds since the epoch.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// Whether it replaces tokens that end when it is first used.
    #[serde(rename = "f", default, skip_serializing_if = "std::ops::Not::not")]
    pub fresh: bool,
}

/// Access tokens. Written by `users::sessions`.
pub const ACCESS_TOKENS: Table<TokenKey, TokenRow> = Table::new("access_tokens");

/// Refresh tokens. Written by `users::sessions`.
pub const REFRESH_TOKENS: Table<TokenKey, TokenRow> = Table::new("refresh_tokens");

/// A device of a user.
pub fn find(store: &Store, user: UserNo, device: &str) -> Result<Option<DeviceRow>, StoreError> {
    store.get(DEVICES, &(user, device.to_owned()))
}

/// The devices of a user, by ID.
pub fn of_user(store: &Store, user: UserNo) -> Result<Vec<(String, DeviceRow)>, StoreError> {
    store.scan(DEVICES, &user).map(|row| row.map(|((_, device), row)| (device, row))).collect()
}
