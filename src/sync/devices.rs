//! What concerns the reader's device alone: messages for it, whose keys to ask for again, and how many of
//! its own keys are left.
//!
//! An answer brings a limited number of messages, so the token says how far the inbox was read besides
//! how far everything else was told. The messages that a token names are removed by whoever takes it.
//!
//! Spec: client-server-api#send-to-device-messaging, client-server-api#e2e-extensions-to-sync

use std::fmt::Write as _;

use super::Reader;
use crate::{
    e2ee::{device_lists, fallback_keys, inbox, one_time_keys},
    error::{Error, Result},
    rooms::token::SyncToken,
    store::{Position, Store},
};

/// Writes `to_device` and `device_lists`, if there is anything to tell, each with a comma before it.
/// `now` learns how far the inbox was read.
pub fn news(store: &Store, reader: &Reader, since: Option<SyncToken>, now: &mut SyncToken) -> Result<String> {
    let mut out = String::new();
    let device = reader.device.as_str();
    let from = since.map_or(Position(0), |since| since.inbox);
    let batch = inbox::read(store, reader.number, device, from, now.position, inbox::LIMIT)?;
    now.inbox = batch.through;
    if !batch.events.is_empty() {
        let _ = write!(out, ",\"to_device\":{{\"events\":[{}]}}", batch.events.join(","));
    }
    // A first answer has no lists: such a client asks for everybody's keys.
    if let Some(since) = since {
        let changes = device_lists::between(store, reader.number, since.position, now.position)?;
        if changes != Default::default() {
            let list = |users: &[ruma::OwnedUserId]| serde_json::to_string(users).map_err(Error::internal);
            let (changed, left) = (list(&changes.changed)?, list(&changes.left)?);
            let _ = write!(out, ",\"device_lists\":{{\"changed\":{changed},\"left\":{left}}}");
        }
    }
    Ok(out)
}

/// Writes how many keys the device has left, with a comma before it. In every answer: a client that is told
/// of no keys uploads some.
pub fn supply(store: &Store, reader: &Reader) -> Result<String> {
    let device = reader.device.as_str();
    let json = |error: serde_json::Error| Error::internal(error);
    let counts = one_time_keys::counts(store, reader.number, device)?;
    let counts = serde_json::to_string(&counts).map_err(json)?;
    let unused = fallback_keys::unused(store, reader.number, device)?;
    let unused = serde_json::to_string(&unused).map_err(json)?;
    Ok(format!(",\"device_one_time_keys_count\":{counts},\"device_unused_fallback_key_types\":{unused}"))
}
