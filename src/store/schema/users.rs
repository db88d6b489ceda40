//! The accounts of this server and what people keep in them.

use serde::{Deserialize, Serialize};

use super::{RoomNo, UserNo, devices::TokenKey};
use crate::store::{Position, Table};

/// An account of this server.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AccountRow {
    /// The hash of the password, as a PHC string. Without one nobody can log in by password.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub password: Option<String>,
    /// When it was made, in milliseconds since the epoch.
    #[serde(rename = "t")]
    pub created: u64,
    /// Whether its owner runs the server.
    #[serde(rename = "a", default, skip_serializing_if = "std::ops::Not::not")]
    pub admin: bool,
    /// Whether it is a guest's.
    #[serde(rename = "g", default, skip_serializing_if = "std::ops::Not::not")]
    pub guest: bool,
    /// Whether it was given up for ever. Its name stays taken.
    #[serde(rename = "d", default, skip_serializing_if = "std::ops::Not::not")]
    pub deactivated: bool,
    /// Whether its owner asked that what they sent be hidden from whoever comes later.
    #[serde(rename = "e", default, skip_serializing_if = "std::ops::Not::not")]
    pub erased: bool,
    /// Whether it may do nothing at all for now.  Spec: client-server-api#account-locking
    #[serde(rename = "l", default, skip_serializing_if = "std::ops::Not::not")]
    pub locked: bool,
    /// Whether it may only read and leave for now.  Spec: client-server-api#account-suspension
    #[serde(rename = "s", default, skip_serializing_if = "std::ops::Not::not")]
    pub suspended: bool,
    /// The application service that it belongs to.
    #[serde(rename = "b", default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
}

/// One row per account, also of those given up. Written by `users::accounts`.
pub const ACCOUNTS: Table<UserNo, AccountRow> = Table::new("accounts");

/// The profile of a local user: `(user, field)`, where the value is JSON text. Written by `users::profiles`.
pub const PROFILES: Table<(UserNo, String), String> = Table::new("profiles");

/// What a client keeps at the server for its user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccountDataRow {
    /// The content, as JSON text.
    #[serde(rename = "j")]
    pub json: String,
    /// The position of its newest change, where it stands in [`ACCOUNT_DATA_CHANGES`].
    #[serde(rename = "p")]
    pub position: Position,
}

/// Stands for "no room" in the keys of account data. No room has this number.
pub const GLOBAL: RoomNo = RoomNo(0);

/// Account data: `(user, room or [`GLOBAL`], type)`. Written by `users::account_data`.
pub const ACCOUNT_DATA: Table<(UserNo, RoomNo, String), AccountDataRow> = Table::new("account_data");

/// Which account data changed when: `(user, position)` → `(room or [`GLOBAL`], type)`. One row per row of
/// [`ACCOUNT_DATA`], at its newest change, so that a sync finds what is new. Written with it.
pub const ACCOUNT_DATA_CHANGES: Table<(UserNo, Position), (RoomNo, String)> = Table::new("account_data_changes");

/// Filters: `(user, hash of the JSON)` → JSON text. The hash is the filter's ID. Written by `users::filters`.
pub const FILTERS: Table<(UserNo, u64), String> = Table::new("filters");

/// How often a registration token was used. Written by `users::registration`.
pub const REGISTRATION_TOKENS: Table<String, RegistrationTokenRow> = Table::new("registration_tokens");

/// A token that lets whoever knows it make an account.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RegistrationTokenRow {
    /// How many accounts may be made with it; without a number, any.
    #[serde(rename = "u", default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u64>,
    /// How many were.
    #[serde(rename = "c", default)]
    pub completed: u64,
    /// Until when it holds, in milliseconds since the epoch.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
}

/// A link with which somebody sets a new password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResetRow {
    /// Whose password.
    #[serde(rename = "u")]
    pub user: UserNo,
    /// Until when it holds, in milliseconds since the epoch.
    #[serde(rename = "x")]
    pub expires: u64,
}

/// Such links, by the hash of their secret. Written by `users::resets`.
pub const PASSWORD_RESETS: Table<TokenKey, ResetRow> = Table::new("password_resets");
