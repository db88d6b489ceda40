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

/// Writes `to_device` after `inbox`, and `device_lists` after `lists`, if there is anything to tell, each with
/// a comma before it.
/// `now` learns how far the inbox was read.
pub fn news(
    store: &Store,
    reader: &Reader,
    inbox: Option<Position>,
    lists: Option<Position>,
    now: &mut SyncToken,
) -> Result<String> {
    let mut out = String::new();
    let device = reader.device.as_str();
    let batch = inbox::read(store, reader.number, device, inbox.unwrap_or_default(), now.position, inbox::LIMIT)?;
    now.inbox = batch.through;
    if !batch.events.is_empty() {
        let _ = write!(out, ",\"to_device\":{{\"events\":[{}]}}", batch.events.join(","));
    }
    // A first answer has no lists: such a client asks for everybody's keys.
    let lists = lists.map(|since| self::lists(store, reader, since, now.position)).transpose()?;
    if let Some(lists) = lists.flatten() {
        let _ = write!(out, ",\"device_lists\":{lists}");
    }
    Ok(out)
}

/// Whose keys to ask for again, as a JSON object; nothing if nobody's.
pub fn lists(store: &Store, reader: &Reader, since: Position, upto: Position) -> Result<Option<String>> {
    let changes = device_lists::between(store, reader.number, since, upto)?;
    if changes == Default::default() {
        return Ok(None);
    }
    let list = |users: &[ruma::OwnedUserId]| serde_json::to_string(users).map_err(Error::internal);
    let (changed, left) = (list(&changes.changed)?, list(&changes.left)?);
    Ok(Some(format!("{{\"changed\":{changed},\"left\":{left}}}")))
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
