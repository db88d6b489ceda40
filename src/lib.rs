//! Ingle: a Matrix homeserver for one household.

pub mod clock;
pub mod config;
pub mod error;
pub mod protocol;
pub mod store;
pub mod rooms;
pub mod users;
