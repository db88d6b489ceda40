//! Which events relate to which.
//!
//! A child may come before its parent; then it waits in a row by the parent's ID.
//!
//! Spec: client-server-api#forming-relationships-between-events

use ruma::OwnedEventId;
use serde::Deserialize;

use crate::{
    error::Result,
    protocol::event::Event,
    rooms::{append::Appended, cache::Known},
    store::{
        Write,
        schema::{
            EventNo, RoomNo,
            events::{EVENTS, RELATIONS, RELATIONS_AHEAD, RelationRow, THREADS},
            numbers,
        },
    },
};

/// What `m.relates_to` says.
#[derive(Debug, Clone, Deserialize)]
pub struct Relation {
    /// The kind of relation, such as `m.annotation`.
    pub rel_type: String,
    /// The parent.
    pub event_id: OwnedEventId,
    /// The reaction, for annotations.
    #[serde(default)]
    pub key: Option<String>,
}

/// What an event relates to, if anything.
pub fn of(event: &Event) -> Option<Relation> {
    event.content_field("m.relates_to")
}

/// Notes what the event relates to, and what has waited for it.
pub fn project(write: &mut Write, appended: &Appended<'_>) -> Result<()> {
    enter(write, appended.room.number, appended.number, appended.event)
}

/// The same for an event that comes into the room in another way.
pub fn enter(write: &mut Write, room: RoomNo, number: EventNo, event: &Event) -> Result<()> {
    let ahead = (event.event_id.as_str().to_owned(),);
    for ((parent, child), (rel_type, kind, row)) in write.scan(RELATIONS_AHEAD, &ahead)? {
        write.delete(RELATIONS_AHEAD, &(parent, child));
        if is_in_room(write, child, room)? {
            note_thread(write, room, number, &rel_type);
            write.put(RELATIONS, &(number, rel_type, kind, child), &row);
        }
    }
    let Some(Relation { rel_type, event_id, key }) = of(event) else { return Ok(()) };
    let sender = numbers::user(write, &event.sender)?;
    let row = RelationRow { sender, depth: event.depth, key: key.filter(|_| rel_type == "m.annotation") };
    match write.get(numbers::EVENT_NUMBERS, &event_id.as_str().to_owned())? {
        Some(parent) if is_in_room(write, parent, room)? => {
            note_thread(write, room, parent, &rel_type);
            write.put(RELATIONS, &(parent, rel_type, event.kind.clone(), number), &row);
        }
        // Events of different rooms cannot relate to each other.
        Some(_) => {}
        None => {
            let row = (rel_type, event.kind.clone(), row);
            write.put(RELATIONS_AHEAD, &(event_id.as_str().to_owned(), number), &row);
        }
    }
    Ok(())
}

fn note_thread(write: &mut Write, room: RoomNo, root: EventNo, rel_type: &str) {
    if rel_type == "m.thread" {
        write.put(THREADS, &(room, root), &());
    }
}

/// Whether an event belongs to this room, as far as it is known.
fn is_in_room(write: &Write, event: EventNo, room: RoomNo) -> Result<bool> {
    Ok(write.get(EVENTS, &event)?.is_none_or(|row| row.room == room))
}

/// Takes an event that is being redacted out of its relation.
pub fn remove(write: &mut Write, child: &Known) -> Result<()> {
    let Some(relation) = of(&child.event) else { return Ok(()) };
    let parent = relation.event_id.as_str().to_owned();
    if let Some(parent) = write.get(numbers::EVENT_NUMBERS, &parent)? {
        write.delete(RELATIONS, &(parent, relation.rel_type, child.event.kind.clone(), child.number));
    }
    write.delete(RELATIONS_AHEAD, &(parent, child.number));
    Ok(())
}
