//! Rooms.

mod aliases;
mod create;
mod directory;
mod membership;
mod messages;
mod receipts;
mod relations;
mod retention;
mod send;
mod state;
mod upgrade;
