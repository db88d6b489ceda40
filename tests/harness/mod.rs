//! What the scenes are told with: a server, people with verbs, and answers.
//!
//! ```ignore
//! let (ann, bob) = server().await.with_users("ann", "bob").await;
//! let room = ann.create_room().invite(&bob).await;
//! bob.put(&format!("/_matrix/client/v3/rooms/{room}/typing/{}", ann.id), json!({})).await.is("403 M_FORBIDDEN");
//! ```
//!
//! Nothing sleeps, nothing listens: time passes when a scene says so ([`Server::later`]).

// Not every verb has a scene at all times.
#![allow(dead_code)]

mod answer;
mod network;
mod server;
mod talk;
mod user;

pub use self::{
    answer::Answer,
    network::{Network, network},
    server::{Server, server, server_with},
    talk::{bodies, in_room, quoted},
    user::User,
};
