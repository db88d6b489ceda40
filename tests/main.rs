//! Scenes with a cast: the whole server in memory, asked through the same dispatch as from the network.

mod bytes;
mod client;
mod federation;
mod harness;
mod http;
mod program;
mod schema;
