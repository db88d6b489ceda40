//! Messages from device to device. Each waits in the inbox of its device until the client has come back
//! with the token that it got together with the message.
//!
//! A batch may be cut short by its limit, so how far a client has read its inbox is a position of its
//! own: whoever answers with a [`Batch`] puts [`Batch::through`] into the token, and begins from there
//! the next time. The exact same request, sent twice by a client, delivers its messages once.
//!
//! Spec: client-server-api#send-to-device-messaging

use std::collections::BTreeMap;

use ruma::{OwnedUserId, ServerName, UserId, to_device::DeviceIdOrAllDevices};
use serde_json::{json, value::RawValue};

use super::{Device, E2ee, published};
use crate::{
    error::{Error, Result},
    protocol::canonical,
    store::{
        Position, Store, StoreError, Ticket, Write,
        schema::{
            UserNo,
            devices::DEVICES,
            e2ee::{INBOX, SENT, SENT_AT},
            federation::{OUTBOX, OutboxRow},
            numbers,
        },
    },
};

/// How many messages one answer brings. Spec: client-server-api#send-to-device-messaging
pub const LIMIT: usize = 100;
/// How many bytes of messages one answer brings, unless the first one alone is longer.
const MOST_AT_ONCE: usize = 1 << 20;
/// How long the content of a message may be, in bytes: as long as a room event.
const MOST_CONTENT: usize = 65_536;
/// How much one request may put into all inboxes together, in bytes.
const MOST_BYTES: usize = 4 << 20;
/// How long the type of a message, or a transaction ID, may be, in bytes.
const MOST_NAME: usize = 255;
/// How long a transaction ID is remembered: a day, in milliseconds.
const REMEMBERED: u64 = 24 * 3600 * 1000;
/// How many messages are removed in one `Write`.
const REMOVED_AT_ONCE: usize = 1_000;

/// What is sent: by user and device, or all devices of the user, the content.
pub type Messages = BTreeMap<OwnedUserId, BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>>;

/// Puts messages of one type into the inboxes of devices. Devices that are not there get nothing.
///
/// Errors: 413 `M_TOO_LARGE`.
pub async fn send(e2ee: &E2ee, sender: Device<'_>, kind: &str, transaction: &str, messages: &Messages) -> Result<()> {
    if kind.len() > MOST_NAME || transaction.len() > MOST_NAME {
        return Err(Error::too_large(format!("types and transaction IDs have at most {MOST_NAME} bytes")));
    }
    if messages.values().flat_map(BTreeMap::values).any(|content| content.get().len() > MOST_CONTENT) {
        return Err(Error::too_large(format!("the content of a message has at most {MOST_CONTENT} bytes")));
    }
    let ticket = decide(e2ee, sender, kind, transaction, messages)?;
    published([ticket]).await
}

fn decide(e2ee: &E2ee, sender: Device<'_>, kind: &str, transaction: &str, messages: &Messages) -> Result<Ticket> {
    let _deciding = e2ee.decide(sender.number);
    let mut write = e2ee.store.write();
    sender.check_there(&write)?;
    if !begin(e2ee, &mut write, sender.place(), &format!("{kind}/{transaction}"))? {
        // This was sent before. An empty `Write` is on the disk after that one.
        return Ok(write.commit()?);
    }
    put(e2ee, &mut write, sender.user, kind, messages)?;
    put_out(e2ee, &mut write, sender.user, kind, messages);
    Ok(write.commit()?)
}

/// Puts the messages for users of this server into their inboxes.
fn put(e2ee: &E2ee, write: &mut Write, sender: &UserId, kind: &str, messages: &Messages) -> Result<()> {
    let slot = write.slot();
    let mut bytes = 0;
    for (user, messages) in messages.iter().filter(|(user, _)| e2ee.is_local(user)) {
        let Some(number) = numbers::find_user(&e2ee.store, user)? else { continue };
        for (device, content) in recipients(write, number, messages)? {
            let event = event(sender, kind, content);
            bytes += event.len();
            if bytes > MOST_BYTES {
                return Err(Error::too_large("these are too many messages for one request; send them in parts"));
            }
            write.put_at(INBOX, slot, move |at| ((number, device, at), event));
        }
        write.wake(number);
    }
    Ok(())
}

/// Puts the messages for users of other servers out, as few ephemeral events per server as their size allows.
///
/// Spec: server-server-api#send-to-device-messaging
fn put_out(e2ee: &E2ee, write: &mut Write, sender: &UserId, kind: &str, messages: &Messages) {
    type Part<'a> = (usize, BTreeMap<&'a UserId, BTreeMap<&'a DeviceIdOrAllDevices, &'a RawValue>>);
    let mut servers: BTreeMap<&ServerName, Vec<Part<'_>>> = BTreeMap::new();
    for (user, messages) in messages.iter().filter(|(user, _)| !e2ee.is_local(user)) {
        let parts = servers.entry(user.server_name()).or_default();
        for (device, content) in messages {
            let size = content.get().len() + 100;
            if parts.last().is_none_or(|(before, _)| before + size > MOST_CONTENT) {
                parts.push(Default::default());
            }
            if let Some((bytes, part)) = parts.last_mut() {
                *bytes += size;
                part.entry(user).or_default().insert(device, content);
            }
        }
    }
    let parts = servers.into_iter().flat_map(|(server, parts)| parts.into_iter().map(move |(_, part)| (server, part)));
    for (server, messages) in parts {
        let content = json!({
            "sender": sender,
            "type": kind,
            // No more than 32 characters, also of a store that was restored.
            "message_id": format!("{:x}.{:x}", e2ee.clock.now(), write.number()),
            "messages": messages,
        });
        let edu = json!({ "edu_type": "m.direct_to_device", "content": content }).to_string();
        let (servers, slot) = (vec![server.to_string()], write.slot());
        write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::ToServers(servers, edu)));
    }
}

/// Takes in messages that a user of another server has sent; the same message is taken in once.
pub async fn receive(e2ee: &E2ee, sender: &UserId, kind: &str, message: &str, messages: &Messages) -> Result<()> {
    if kind.len() > MOST_NAME || message.len() > MOST_NAME {
        return Err(Error::too_large(format!("types and message IDs have at most {MOST_NAME} bytes")));
    }
    let ticket = {
        let mut write = e2ee.store.write();
        let number = numbers::user(&mut write, sender)?;
        let _deciding = e2ee.decide(number);
        if !begin(e2ee, &mut write, (number, String::new()), message)? {
            return Ok(());
        }
        put(e2ee, &mut write, sender, kind, messages)?;
        write.commit()?
    };
    published([ticket]).await
}

/// Remembers a transaction; false if it is known already.
fn begin(e2ee: &E2ee, write: &mut Write, (user, device): (UserNo, String), transaction: &str) -> Result<bool> {
    let place = (user, device.clone(), transaction.to_owned());
    if write.get(SENT, &place)?.is_some() {
        return Ok(false);
    }
    let now = e2ee.clock.now();
    // Each one that comes lets two go, so that there are never many more than those of a day.
    let ancient = now.saturating_sub(REMEMBERED);
    for row in e2ee.store.range(SENT_AT, &(user, device.clone()), &(user, device.clone(), ancient)).take(2) {
        let (key, ()) = row?;
        write.delete(SENT, &(user, device.clone(), key.3.clone()));
        write.delete(SENT_AT, &key);
    }
    write.put(SENT, &place, &now);
    write.put(SENT_AT, &(user, device, now, transaction.to_owned()), &());
    Ok(true)
}

/// The devices of a user that get something, and what. A device that is named gets its own message only.
fn recipients<'a>(
    write: &Write,
    user: UserNo,
    messages: &'a BTreeMap<DeviceIdOrAllDevices, Box<RawValue>>,
) -> Result<BTreeMap<String, &'a RawValue>, StoreError> {
    let mut all = BTreeMap::new();
    if let Some(content) = messages.get(&DeviceIdOrAllDevices::AllDevices) {
        all.extend(write.scan(DEVICES, &user)?.into_iter().map(|((_, id), _)| (id, &**content)));
    }
    for (device, content) in messages {
        if let DeviceIdOrAllDevices::DeviceId(id) = device
            && write.get(DEVICES, &(user, id.to_string()))?.is_some()
        {
            all.insert(id.to_string(), &**content);
        }
    }
    Ok(all)
}

fn event(sender: &UserId, kind: &str, content: &RawValue) -> String {
    let mut event = String::with_capacity(content.get().len() + 100);
    event.push_str(r#"{"type":"#);
    canonical::write_string(&mut event, kind);
    event.push_str(r#","sender":"#);
    canonical::write_string(&mut event, sender.as_str());
    event.push_str(r#","content":"#);
    event.push_str(content.get());
    event.push('}');
    event
}

/// Messages for a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// The events as JSON texts, in the order of arrival.
    pub events: Vec<String>,
    /// How far the inbox is read with these: where the next batch begins.
    pub through: Position,
    /// Whether there is more to read at once.
    pub more: bool,
}

/// The messages after `since`, up to and with `upto`, at most `limit` of them and about a megabyte.
pub fn read(
    store: &Store,
    user: UserNo,
    device: &str,
    since: Position,
    upto: Position,
    limit: usize,
) -> Result<Batch, StoreError> {
    let at = |position: Position| (user, device.to_owned(), Position(position.0.saturating_add(1)));
    let mut batch = Batch { events: Vec::new(), through: upto.max(since), more: false };
    let (mut last, mut bytes) = (since, 0);
    for row in store.range(INBOX, &at(since), &at(upto)) {
        let ((_, _, position), event) = row?;
        bytes += event.len();
        let full = bytes > MOST_AT_ONCE && !batch.events.is_empty();
        if full || batch.events.len() >= limit {
            (batch.through, batch.more) = (last, true);
            break;
        }
        batch.events.push(event);
        last = position;
    }
    Ok(batch)
}

/// Removes the messages up to and with `through`: the device has them. Nothing is written if there are
/// none.
pub fn acknowledge(store: &Store, user: UserNo, device: &str, through: Position) -> Result<(), StoreError> {
    let from = (user, device.to_owned());
    let to = (user, device.to_owned(), Position(through.0.saturating_add(1)));
    let mut rows = store.range(INBOX, &from, &to).map(|row| row.map(|(key, _)| key)).peekable();
    while rows.peek().is_some() {
        let mut write = store.write();
        for key in rows.by_ref().take(REMOVED_AT_ONCE) {
            write.delete(INBOX, &key?);
        }
        // Nobody waits for this: if it gets lost, it is done again with the next token.
        drop(write.commit()?);
    }
    Ok(())
}
