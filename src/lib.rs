//! Ingle: a Matrix homeserver for one household.

pub mod clock;
pub mod config;
pub mod error;
pub mod protocol;
pub mod remote;
pub mod rooms;
pub mod store;
pub mod users;
