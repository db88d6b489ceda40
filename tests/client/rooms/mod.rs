//! Rooms.

mod aliases;
mod create;
mod directory;
mod membership;
mod messages;
mod receipts;
mod send;
mod state;
