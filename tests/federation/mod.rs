//! Scenes with several servers.

mod rooms;
