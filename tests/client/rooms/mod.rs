//! Rooms.

mod aliases;
mod create;
mod directory;
mod membership;
mod messages;
mod receipts;
mod relations;
mod send;
mod state;
mod upgrade;
