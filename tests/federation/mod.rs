//! Scenes with several servers.

mod directory;
mod intake;
mod keys;
mod presence;
mod rooms;
