//! Ingle: a Matrix homeserver for one household.

pub mod admin;
pub mod api;
pub mod app;
pub mod chance;
pub mod cli;
pub mod clock;
pub mod config;
pub mod e2ee;
pub mod error;
pub mod http;
pub mod limits;
pub mod observe;
pub mod outbound;
pub mod protocol;
pub mod remote;
pub mod rooms;
pub mod server;
pub mod store;
pub mod sync;
pub mod tasks;
pub mod users;
