//! Scenes with several servers.

mod directory;
mod keys;
mod presence;
mod rooms;
