//! How far the people of this server have read: receipts, which others see or not, and the read marker, which
//! is account data.
//!
//! Spec: client-server-api#receipts, client-server-api#read-and-unread-markers

use ruma::{EventId, OwnedEventId, UserId, events::room::member::MembershipState};

use super::{
    Room, Rooms,
    cache::Known,
    ephemeral::{self, NewReceipt},
    projections::relations,
};
use crate::{
    error::{Error, Result},
    store::{Ticket, schema::UserNo},
    users::account_data,
};

/// How many relations lead from an event to its thread at most.
const MOST_STEPS: usize = 4;

/// Moves a receipt of a user; nothing happens if it is not news.
///
/// Errors: 404 `M_NOT_FOUND` for an event that is not in the room, 400 `M_INVALID_PARAM` for one that is not in the
/// thread.
pub fn mark(
    rooms: &Rooms,
    user: &UserId,
    room: &Room,
    kind: &str,
    thread: Option<&str>,
    event: &EventId,
) -> Result<Option<Ticket>> {
    if let Some(thread) = thread {
        check_thread(rooms, room, thread, event)?;
    }
    ephemeral::receipt(rooms, room, &NewReceipt { user, kind, thread, event, ts: rooms.clock.now() })
}

/// Takes in how far a user of another server has read.
///
/// Errors: 403 `M_FORBIDDEN` for one who is not in the room, 404 `M_NOT_FOUND` for an event or a thread that is not.
pub fn hear(rooms: &Rooms, room: &Room, new: &NewReceipt<'_>) -> Result<Option<Ticket>> {
    // Who is not in the room would be given rows without an end.
    if rooms.membership(room.number, new.user)? != MembershipState::Join {
        return Err(Error::forbidden(format!("{} is not in the room", new.user)));
    }
    if let Some(thread) = new.thread.filter(|thread| *thread != "main") {
        find(rooms, room, <&EventId>::try_from(thread).map_err(|error| Error::invalid_param(error.to_string()))?)?;
    }
    ephemeral::receipt(rooms, room, new)
}

/// Moves the read marker of a user, which only their own devices see.
pub async fn fully_read(rooms: &Rooms, user: UserNo, room: &Room, event: &EventId) -> Result<()> {
    find(rooms, room, event)?;
    let content = serde_json::json!({ "event_id": event }).to_string();
    account_data::set(&rooms.users, user, Some(room.number), "m.fully_read", content).await
}

fn find(rooms: &Rooms, room: &Room, event: &EventId) -> Result<std::sync::Arc<Known>> {
    match rooms.by_id(event)? {
        Some(known) if known.room == room.number => Ok(known),
        _ => Err(Error::not_found("there is no such event in this room")),
    }
}

fn check_thread(rooms: &Rooms, room: &Room, thread: &str, event: &EventId) -> Result<()> {
    if thread != "main" && EventId::parse(thread).is_err() {
        return Err(Error::invalid_param("thread_id must be \"main\" or the ID of the event that began the thread"));
    }
    let known = find(rooms, room, event)?;
    // The event that began a thread belongs to both.
    let fits = event == thread
        || match thread_of(rooms, &known)? {
            None => thread == "main",
            Some(root) => root == thread,
        };
    match fits {
        true => Ok(()),
        false => Err(Error::invalid_param("the event is not in this thread")),
    }
}

/// The event that began the thread to which an event belongs; nothing for the main timeline.
///
/// Spec: client-server-api#threads
pub fn thread_of(rooms: &Rooms, known: &Known) -> Result<Option<OwnedEventId>> {
    let mut relation = relations::of(&known.event);
    for _ in 0..MOST_STEPS {
        let Some(found) = relation else { return Ok(None) };
        if found.rel_type == "m.thread" {
            return Ok(Some(found.event_id));
        }
        // Reactions and edits are where the event is to which they belong.
        let Some(parent) = rooms.by_id(&found.event_id)? else { return Ok(None) };
        relation = relations::of(&parent.event);
    }
    Ok(None)
}
