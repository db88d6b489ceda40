//! The rules of Matrix, as ordinary functions and small state machines over values.
//!
//! Nothing here does I/O, waits, asks for the time or draws a random number: whatever a rule needs is
//! an argument, and lookups come in as closures. So every rule can be tested as text in, text out, and
//! state resolution may read the store directly from a blocking thread.
//!
//! Reading order: [`version`] (what differs between room versions), [`canonical`] (the JSON that is
//! hashed), [`event`] and [`compose`] (an event, from outside and from here), [`hash`], [`redact`] and
//! [`sign`], [`auth`] (is it allowed), [`visibility`], [`push`] and [`acl`] (who sees it, who is told, who may
//! take part), [`graph`] (how events hang together), [`resolve`] (one state out of several),
//! [`intake`] (what becomes of an event from elsewhere), [`vetting`] and [`pieces`] (large answers); beside
//! events, [`presence`].

pub mod acl;
pub mod auth;
pub mod canonical;
pub mod compose;
pub mod event;
pub mod glob;
pub mod graph;
pub mod hash;
pub mod intake;
pub mod pieces;
pub mod policy;
pub mod presence;
pub mod push;
pub mod redact;
pub mod resolve;
pub mod sign;
#[cfg(test)]
mod testing;
pub mod version;
pub mod vetting;
pub mod visibility;
pub mod words;
