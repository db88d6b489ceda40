//! Sending what a client has written: once per transaction ID, and only what the specification lets a client
//! send.
//!
//! [`message`] and [`state`] are what the endpoints call; the events themselves are made by
//! [`Deciding::send`], which knows the authorization rules. The ticket that comes back must be awaited before
//! the client is told.
//!
//! Spec: client-server-api#sending-events-to-a-room

use std::time::Duration;

use ruma::{
    DeviceId, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomAliasId, RoomId, UserId,
    events::room::member::MembershipState,
};
use sha2::{Digest as _, Sha256};

use super::{
    Room, Rooms,
    append::{Deciding, NewEvent},
    membership, notices,
    projections::relations::Relation,
};
use crate::{
    error::{Error, Result},
    protocol::canonical::{self, Object, Value},
    store::{
        Ticket, Write,
        schema::{
            EventNo, UserNo,
            events::{Fingerprint, RELATIONS, TRANSACTION_OF, TRANSACTIONS, TransactionRow},
            numbers,
            rooms::ALIASES,
        },
    },
};

/// The longest transaction ID, in bytes.
const LONGEST_TRANSACTION: usize = 255;
/// How long a client that does not know whether it has sent something may try again.
const TRANSACTIONS_KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How many transactions one `Write` forgets.
const FORGOTTEN_AT_ONCE: usize = 500;

/// A device that sends something.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// Whose it is.
    pub user: &'a UserId,
    /// The same as a number.
    pub number: UserNo,
    /// The device, whose transaction IDs are its own.
    pub device: &'a DeviceId,
}

/// What a client wants to send.
#[derive(Debug, Clone)]
pub struct NewMessage<'a> {
    /// The event type.
    pub kind: &'a str,
    /// The content, as JSON.
    pub content: &'a str,
    /// The event that a redaction is about, where the endpoint says so.
    pub redacts: Option<&'a EventId>,
    /// The transaction ID.
    pub transaction: &'a str,
    /// When it happened, for bridges that know.
    pub timestamp: Option<MilliSecondsSinceUnixEpoch>,
}

/// Sends an event without a state key. A transaction ID that the device has used answers the event that it
/// made then.
///
/// Errors: 403 `M_FORBIDDEN`, 413 `M_TOO_LARGE`, 400 `M_BAD_JSON`, `M_INVALID_PARAM`, `M_DUPLICATE_ANNOTATION`.
pub fn message(rooms: &Rooms, by: Sender<'_>, room: &RoomId, new: &NewMessage<'_>) -> Result<(OwnedEventId, Ticket)> {
    if new.transaction.len() > LONGEST_TRANSACTION {
        return Err(Error::invalid_param(format!("a transaction ID has at most {LONGEST_TRANSACTION} bytes")));
    }
    let room = rooms.joined(room, by.user)?;
    let fingerprint = fingerprint(by.device, &room.id, new);
    let mut event = NewEvent::message(by.user, new.kind, content(&room, new.content)?);
    event.timestamp = new.timestamp;
    event.redacts = redacted(&room, &mut event, new.redacts)?;
    let mut deciding = rooms.decide(&room);
    if let Some(earlier) = deciding.write.get(TRANSACTIONS, &(by.number, fingerprint))? {
        let id = deciding.known(earlier)?.event.event_id.clone();
        // Nothing new; but the event may still be on its way to the disk, and this comes after it.
        return Ok((id, rooms.store.write().commit()?));
    }
    deciding.check(&event)?;
    let sent = deciding.send(event)?;
    let number = deciding.newest().ok_or_else(|| Error::internal("an event was sent and is not there"))?;
    let (device, id) = (by.device.to_string(), new.transaction.to_owned());
    let row = TransactionRow { user: by.number, device, id, fingerprint, at: rooms.clock.now() };
    deciding.write.put(TRANSACTIONS, &(by.number, fingerprint), &number);
    deciding.write.put(TRANSACTION_OF, &number, &row);
    Ok((sent.event_id.clone(), deciding.commit()?))
}

/// Puts a state event into a room.
///
/// Errors: as [`message`], and 400 `M_BAD_ALIAS` for a canonical alias that is not the room's.
pub fn state(
    rooms: &Rooms,
    by: &UserId,
    room: &RoomId,
    (kind, state_key): (&str, &str),
    json: &str,
    timestamp: Option<MilliSecondsSinceUnixEpoch>,
) -> Result<(OwnedEventId, Ticket)> {
    let room = match kind {
        // Who is not in the room may still join, knock, or decline.
        "m.room.member" => rooms.find(room)?,
        _ => rooms.joined(room, by)?,
    };
    let mut event = NewEvent::state(by, kind, state_key, content(&room, json)?);
    let leaves = event.content.get("membership").and_then(Value::as_str) == Some("leave");
    if kind == "m.room.member" && by == state_key && leaves {
        notices::check_may_leave(rooms, &room.id, by)?;
    }
    event.timestamp = timestamp;
    let mut deciding = rooms.decide(&room);
    deciding.check(&event)?;
    let sent = deciding.send(event)?;
    Ok((sent.event_id.clone(), deciding.commit()?))
}

/// An event without anything that belongs to one request.
pub(super) struct Plain<'a> {
    /// The type.
    pub kind: &'a str,
    /// The state key, for a state event.
    pub state_key: Option<&'a str>,
    /// The content, as JSON.
    pub content: &'a str,
}

/// Sends an event of either kind, together with what `also` puts into the same `Write`.
///
/// Errors: as [`message`] and [`state`].
pub(super) fn plain(
    rooms: &Rooms,
    by: &UserId,
    room: &RoomId,
    new: &Plain<'_>,
    also: impl FnOnce(&mut Write, EventNo, &EventId) -> Result<()>,
) -> Result<(OwnedEventId, Ticket)> {
    let room = rooms.joined(room, by)?;
    let content = content(&room, new.content)?;
    let event = match new.state_key {
        Some(state_key) => NewEvent::state(by, new.kind, state_key, content),
        None => {
            let mut event = NewEvent::message(by, new.kind, content);
            event.redacts = redacted(&room, &mut event, None)?;
            event
        }
    };
    let mut deciding = rooms.decide(&room);
    deciding.check(&event)?;
    let sent = deciding.send(event)?;
    let number = deciding.newest().ok_or_else(|| Error::internal("an event was sent and is not there"))?;
    also(&mut deciding.write, number, &sent.event_id)?;
    Ok((sent.event_id.clone(), deciding.commit()?))
}

/// A transaction ID belongs to one device and one endpoint, with all that stands in its path.
///
/// Spec: client-server-api#transaction-identifiers
fn fingerprint(device: &DeviceId, room: &RoomId, new: &NewMessage<'_>) -> Fingerprint {
    let (endpoint, last) = match new.redacts {
        Some(target) => ("redact", target.as_str()),
        None => ("send", new.kind),
    };
    let parts = [device.as_str(), new.transaction, endpoint, room.as_str(), last];
    let whole = Sha256::digest(parts.join("\0"));
    Fingerprint::from_be_bytes(std::array::from_fn(|at| whole[at]))
}

/// Forgets the transactions that are older than [`TRANSACTIONS_KEPT`]: no client asks for them again, and they take
/// as much space as short messages.
pub async fn forget_transactions(rooms: &Rooms) -> Result<()> {
    let before = rooms.clock.now().saturating_sub(TRANSACTIONS_KEPT.as_millis() as u64);
    while let Some(ticket) = forget_some(rooms, before)? {
        ticket.published().await?;
    }
    Ok(())
}

/// Forgets the oldest transactions before a time; nothing if there are none.
fn forget_some(rooms: &Rooms, before: u64) -> Result<Option<Ticket>> {
    let mut write = rooms.store.write();
    let mut count = 0;
    for row in rooms.store.scan(TRANSACTION_OF, &()).take(FORGOTTEN_AT_ONCE) {
        let (event, row) = row?;
        if row.at >= before {
            break;
        }
        write.delete(TRANSACTION_OF, &event);
        write.delete(TRANSACTIONS, &(row.user, row.fingerprint));
        count += 1;
    }
    Ok(if count == 0 { None } else { Some(write.commit()?) })
}

/// The content of an event for this room, from a client's JSON.
pub fn content(room: &Room, json: &str) -> Result<Object> {
    canonical::parse_object(json.as_bytes(), room.rules.numbers)
        .map_err(|error| Error::bad_json(format!("the content cannot be an event's: {error}")))
}

/// Which event a redaction is about. It stands in the content from room version 11 on, and beside the content
/// before; clients may send it in the content to every room.
///
/// Spec: client-server-api#put_matrixclientv3roomsroomidsendeventtypetxnid
fn redacted(room: &Room, event: &mut NewEvent, named: Option<&EventId>) -> Result<Option<OwnedEventId>> {
    if event.kind != "m.room.redaction" {
        return Ok(None);
    }
    if let Some(named) = named {
        event.content.insert("redacts".to_owned(), named.as_str().into());
    }
    let target = event.content.get("redacts").and_then(Value::as_str).and_then(|id| EventId::parse(id).ok());
    let Some(target) = target else {
        return Err(Error::bad_json("a redaction must name the event that it is about in `redacts`"));
    };
    if room.rules.modern_redaction {
        return Ok(None);
    }
    event.content.remove("redacts");
    Ok(Some(target))
}

impl Deciding<'_> {
    /// Refuses what the authorization rules leave to the server of the sender.
    fn check(&self, event: &NewEvent) -> Result<()> {
        match (event.kind.as_str(), event.state_key.as_deref()) {
            ("m.room.canonical_alias", Some("")) => self.check_canonical_alias(&event.content),
            ("m.room.member", Some(user)) => self.check_member(user, &event.content),
            (_, Some(_)) => Ok(()),
            (_, None) => {
                self.check_annotation(event)?;
                self.check_redaction(event)
            }
        }
    }

    /// Refuses to take back what is not there, or what somebody else has said if the sender has not the power to.
    /// The authorization rules leave this to the server of the sender.
    ///
    /// Spec: client-server-api#put_matrixclientv3roomsroomidredacteventidtxnid
    fn check_redaction(&self, event: &NewEvent) -> Result<()> {
        if event.kind != "m.room.redaction" {
            return Ok(());
        }
        let named = event.content.get("redacts").and_then(Value::as_str).and_then(|id| EventId::parse(id).ok());
        let Some(target) = event.redacts.clone().or(named) else { return Ok(()) };
        match self.by_id(&target)? {
            Some(known) if known.room == self.room.number => {
                let own = known.event.sender == event.sender;
                match own || self.power_levels()?.can_redact_others(&event.sender) {
                    true => Ok(()),
                    false => Err(Error::forbidden("you may only take back what you have said yourself")),
                }
            }
            _ => Err(Error::not_found("there is no such event in this room")),
        }
    }

    /// Refuses a second annotation with the same key.  Spec: client-server-api#avoiding-duplicate-annotations
    fn check_annotation(&self, event: &NewEvent) -> Result<()> {
        let Some(relation) = event.content.get("m.relates_to") else { return Ok(()) };
        let Ok(Relation { rel_type, event_id, key }) = canonical::from_value(relation) else { return Ok(()) };
        if rel_type != "m.annotation" {
            return Ok(());
        }
        let (parent, sender) = (
            self.write.get(numbers::EVENT_NUMBERS, &event_id.as_str().to_owned())?,
            self.write.get(numbers::USER_NUMBERS, &event.sender.as_str().to_owned())?,
        );
        let (Some(parent), Some(sender)) = (parent, sender) else { return Ok(()) };
        let earlier = self.write.scan(RELATIONS, &(parent, rel_type, event.kind.clone()))?;
        match earlier.iter().any(|(_, row)| row.sender == sender && row.key == key) {
            true => {
                Err(Error::bad_request("M_DUPLICATE_ANNOTATION", "you have already reacted to this event like this"))
            }
            false => Ok(()),
        }
    }

    /// Refuses aliases that were not there before and are not of this room.
    fn check_canonical_alias(&self, content: &Object) -> Result<()> {
        let before = self.state("m.room.canonical_alias", "")?.map(|known| known.event.to_object());
        let before = before.as_ref().and_then(|event| event.get("content")?.as_object()).map(named_aliases);
        let before = before.transpose()?.unwrap_or_default();
        for alias in named_aliases(content)?.into_iter().filter(|alias| !before.contains(alias)) {
            let Ok(alias) = RoomAliasId::parse(alias) else {
                return Err(Error::invalid_param(format!("{alias:?} is not a room alias")));
            };
            let bad = |why: &str| Error::bad_request("M_BAD_ALIAS", format!("{alias} {why}"));
            if alias.server_name() != self.rooms.config.server_name {
                return Err(bad("is an alias of another server, which this server cannot check"));
            }
            match self.write.get(ALIASES, &alias.as_str().to_owned())? {
                Some(row) if row.room == self.room.number => {}
                _ => return Err(bad("does not point to this room")),
            }
        }
        Ok(())
    }

    /// Refuses an invite that its guest does not want.
    fn check_member(&self, user: &str, content: &Object) -> Result<()> {
        match (UserId::parse(user), content.get("membership").and_then(Value::as_str)) {
            (Ok(guest), Some(invite)) if invite == MembershipState::Invite.as_str() => {
                membership::check_wanted(self.rooms, &guest)
            }
            _ => Ok(()),
        }
    }
}

/// The aliases that a canonical alias event names.
fn named_aliases(content: &Object) -> Result<Vec<&str>> {
    let text = |value: &'_ Value| -> Result<()> {
        match value {
            Value::String(_) => Ok(()),
            _ => Err(Error::invalid_param("the aliases of a room are texts")),
        }
    };
    let mut aliases = Vec::new();
    if let Some(alias) = content.get("alias").filter(|alias| !matches!(alias, Value::Null)) {
        text(alias)?;
        aliases.extend(alias.as_str().filter(|alias| !alias.is_empty()));
    }
    if let Some(more) = content.get("alt_aliases").filter(|more| !matches!(more, Value::Null)) {
        let Some(more) = more.as_array() else {
            return Err(Error::invalid_param("alt_aliases is a list of room aliases"));
        };
        for alias in more {
            text(alias)?;
            aliases.extend(alias.as_str());
        }
    }
    Ok(aliases)
}
