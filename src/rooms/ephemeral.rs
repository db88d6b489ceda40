//! Typing, which nobody remembers, and receipts, which are rows.
//!
//! Spec: client-server-api#typing-notifications, client-server-api#receipts

use ruma::{EventId, UserId};
use serde_json::json;

use super::{
    Room, Rooms,
    projections::{outbox, unread},
    unread::Item,
};
use crate::{
    error::{Error, Result},
    store::{
        Ticket, Write,
        schema::{
            RoomNo, UserNo, numbers,
            push::{EVERY_THREAD, MAIN_TIMELINE, READ_TO},
            rooms::{LOCAL_MEMBERS, RECEIPT_AT, RECEIPTS, ReceiptRow},
        },
    },
};

/// The longest time for which one request makes somebody type, in milliseconds.
const LONGEST_TYPING: u64 = 120_000;

/// Tells the room that a user is typing for `timeout` milliseconds, or has stopped.
pub fn typing(rooms: &Rooms, room: RoomNo, user: &UserId, timeout: Option<u64>) -> Result<()> {
    let Some(user) = numbers::find_user(&rooms.store, user)? else { return Ok(()) };
    let now = rooms.clock.now();
    let until = timeout.map(|timeout| now + timeout.min(LONGEST_TYPING));
    if rooms.store.live().typing(room, user, until, now) {
        wake_locals(rooms, room)?;
    }
    Ok(())
}

/// Ends the typing notices that have lasted too long; returns when to look again, in milliseconds since
/// the epoch.
pub fn expire_typing(rooms: &Rooms) -> Result<Option<u64>> {
    for room in rooms.store.live().expire(rooms.clock.now()) {
        wake_locals(rooms, room)?;
    }
    Ok(rooms.store.live().next_expiry())
}

fn wake_locals(rooms: &Rooms, room: RoomNo) -> Result<()> {
    let locals = locals(rooms, room)?;
    rooms.store.wakers().wake(&locals);
    Ok(())
}

/// The joined users of this server.
pub fn locals(rooms: &Rooms, room: RoomNo) -> Result<Vec<UserNo>> {
    rooms.store.scan(LOCAL_MEMBERS, &(room,)).map(|row| Ok(row?.0.1)).collect()
}

/// How far somebody has read.
#[derive(Debug, Clone)]
pub struct NewReceipt<'a> {
    /// Who.
    pub user: &'a UserId,
    /// `m.read` or `m.read.private`.
    pub kind: &'a str,
    /// The thread, `main`, or nothing.
    pub thread: Option<&'a str>,
    /// Up to which event.
    pub event: &'a EventId,
    /// When, in milliseconds since the epoch.
    pub ts: u64,
}

/// Records a receipt in the newest place of its user, kind and thread, in `write`. What it covers no longer
/// counts as unread. Returns whether anything changed: a receipt never goes back.
pub fn receive(rooms: &Rooms, write: &mut Write, room: &Room, new: &NewReceipt<'_>) -> Result<bool> {
    let user = numbers::user(write, new.user)?;
    let at_key = (room.number, user, new.kind.to_owned(), new.thread.unwrap_or_default().to_owned());
    let reached = position_of(rooms, new.event)?;
    if let Some(at) = write.get(RECEIPT_AT, &at_key)? {
        let old = write.get(RECEIPTS, &(room.number, at))?;
        let before = old.as_ref().map(|row| position_of(rooms, &row.event)).transpose()?.flatten();
        if old.is_some_and(|row| row.event == new.event) || (before.is_some() && before > reached) {
            return Ok(false);
        }
        write.delete(RECEIPTS, &(room.number, at));
    }
    let row = ReceiptRow {
        user,
        kind: new.kind.to_owned(),
        thread: new.thread.map(str::to_owned),
        event: new.event.to_owned(),
        ts: new.ts,
    };
    let slot = write.slot();
    let number = room.number;
    write.put_at(RECEIPTS, slot, move |at| ((number, at), row));
    write.put_at(RECEIPT_AT, slot, move |at| (at_key, at));
    if rooms.is_local(new.user) {
        mark_read(rooms, write, room.number, user, new.event, new.thread)?;
        if new.kind == "m.read" {
            outbox::to_room(write, rooms, room.number, edu(room, new))?;
        }
    }
    write.touch(room.number);
    match new.kind {
        "m.read.private" => write.wake(user),
        _ => locals(rooms, room.number)?.into_iter().for_each(|user| write.wake(user)),
    }
    Ok(true)
}

/// A receipt as other servers get it. Spec: server-server-api#receipts
fn edu(room: &Room, new: &NewReceipt<'_>) -> String {
    let mut data = json!({ "ts": new.ts });
    if let Some(thread) = new.thread {
        data["thread_id"] = thread.into();
    }
    let receipt = json!({ "m.read": { new.user.as_str(): { "data": data, "event_ids": [new.event] } } });
    json!({ "edu_type": "m.receipt", "content": { room.id.as_str(): receipt } }).to_string()
}

/// Records one receipt of a local user, durable once the ticket is published; nothing if it is not news.
pub fn receipt(rooms: &Rooms, room: &Room, new: &NewReceipt<'_>) -> Result<Option<Ticket>> {
    match rooms.by_id(new.event)? {
        Some(known) if known.room == room.number => {}
        _ => return Err(Error::not_found("there is no such event in this room")),
    }
    let _one_at_a_time = rooms.receipts.lock();
    let mut write = rooms.store.write();
    if !receive(rooms, &mut write, room, new)? {
        return Ok(None);
    }
    Ok(Some(write.commit()?))
}

/// Where an event stands in the timeline; `None` for one that has no place there.
fn position_of(rooms: &Rooms, event: &EventId) -> Result<Option<crate::store::Position>> {
    use crate::store::schema::events::HISTORY;
    let Some(known) = rooms.by_id(event)? else { return Ok(None) };
    let key = (known.room, known.event.depth, known.number);
    Ok(rooms.store.get(HISTORY, &key)?)
}

/// Moves the mark up to which a user has read: everything, the main timeline, or one thread.
fn mark_read(
    rooms: &Rooms,
    write: &mut Write,
    room: RoomNo,
    user: UserNo,
    event: &EventId,
    thread: Option<&str>,
) -> Result<()> {
    let Some(reached) = position_of(rooms, event)? else { return Ok(()) };
    let place = match thread {
        None => EVERY_THREAD,
        Some("main") => MAIN_TIMELINE,
        Some(root) => {
            let root = EventId::parse(root).ok().map(|root| numbers::find_event(&rooms.store, &root)).transpose()?;
            let Some(root) = root.flatten() else { return Ok(()) };
            root
        }
    };
    let is_read =
        |item: &Item| item.at <= reached && (thread.is_none() || item.thread.unwrap_or(MAIN_TIMELINE) == place);
    let all_read = rooms.unread.all_read(user, room, is_read);
    for (place, reached) in [(place, Some(reached)), (EVERY_THREAD, all_read)] {
        let key = (user, room, place);
        let before = write.get(READ_TO, &key)?.unwrap_or_default();
        let Some(reached) = reached.filter(|reached| *reached > before) else { continue };
        write.put(READ_TO, &key, &reached);
        if place == EVERY_THREAD {
            unread::drop_older(write, READ_TO, (user, room), reached)?;
        }
    }
    Ok(())
}
