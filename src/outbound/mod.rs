//! Sending to other servers: one queue per destination, retried until it is delivered.
//!
//! [`queue`] decides what goes out next (pure); [`follow`] reads the outbox and sends, `passing` adds what is worth
//! sending now or never, [`edus`] writes what is no event of a room, [`resync`] asks for device lists of which
//! something was missed, and [`hello`] lets the others know that this server is back. Nobody calls this module: to reach another server, append an event, or put a row into the
//! outbox.
//!
//! Spec: server-server-api#transactions

pub mod edus;
pub mod follow;
pub mod hello;
mod passing;
pub mod queue;
pub mod resync;
