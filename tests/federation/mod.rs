//! Scenes with several servers.

mod directory;
mod keys;
mod rooms;
