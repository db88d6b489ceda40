//! Sending to other servers: one queue per destination, retried until it is delivered.
//!
//! [`queue`] decides what goes out next (pure); [`follow`] reads the outbox and divides it, `deliver` sends, and
//! `progress` knows how far each server has got. `passing` adds what is worth sending now or never, `hello` lets the
//! others know that this server is back, and [`acquaintance`] finds servers whose picture of somebody's devices has
//! gaps. [`edus`] writes what is no event of a room, and [`resync`] asks for device lists of which something was
//! missed. Nobody calls this module: to reach another server, append an event, or put a row into the outbox.
//!
//! Spec: server-server-api#transactions

pub mod acquaintance;
mod deliver;
pub mod edus;
pub mod follow;
mod hello;
mod passing;
mod progress;
pub mod queue;
pub mod resync;
