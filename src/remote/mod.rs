//! Other servers: how to reach them, and how both sides know each other by their keys.
//!
//! This layer knows nothing of rooms.

pub mod own_key;
