//! Scenes with several servers.

mod keys;
mod rooms;
