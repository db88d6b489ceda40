//! Scenes with several servers.

mod directory;
mod doors;
mod intake;
mod keys;
mod outgoing;
mod presence;
mod rooms;
