//! The words by which events are found: written with the event, replaced by its edits, gone with its redaction.
//!
//! New events stand in rows of their own. When a room has enough of them, they are packed into blocks in the same
//! `Write` as the next event: that costs little per event, and a search reads a few hundred blocks, not a hundred
//! thousand rows. Reading is [`crate::rooms::search`].
//!
//! Spec: client-server-api#search-categories

use std::{collections::BTreeSet, sync::Arc};

use parking_lot::Mutex;

use super::relations;
use crate::{
    error::{Error, Result},
    protocol::{event::Event, words},
    rooms::{Room, Rooms, append::Appended, cache::Known},
    store::{
        Write,
        schema::{
            EventNo, RoomNo,
            events::{EVENTS, RELATIONS, Standing},
            numbers,
            search::{Entry, Field, Found, Packed, SEARCH_BLOCKS, SEARCH_TAIL},
        },
    },
};

/// How many events, and how many bytes of them, make a block.
const BLOCK_EVENTS: usize = 256;
const BLOCK_BYTES: usize = 48 << 10;

/// How many events of a room are not in a block yet, and their bytes; unknown until somebody looks. It may be more than
/// there are, when a `Write` was given up.
pub type Tail = Mutex<Option<(usize, usize)>>;

/// Finds an event by its number, also one that the same `Write` has added.
pub type Find<'a> = &'a dyn Fn(&Write, EventNo) -> Result<Arc<Known>>;

/// Makes a new event findable, or what it edits findable by the new text.
pub fn project(write: &mut Write, appended: &Appended<'_>) -> Result<()> {
    let find = |write: &Write, number| appended.known(write, number);
    enter(write, appended.rooms, appended.room, (appended.number, appended.event), &find)
}

/// The same for an event that comes into the room in another way.
pub fn enter(
    write: &mut Write,
    rooms: &Rooms,
    room: &Room,
    (number, event): (EventNo, &Event),
    find: Find<'_>,
) -> Result<()> {
    let Some((field, own)) = text(event) else { return Ok(()) };
    if let Some(original) = edited(write, event)? {
        return match original {
            Some(original) => renew(write, rooms, room, original, event, find),
            None => Ok(()),
        };
    }
    let edit = match field {
        Field::Body => newest_edit(write, number, event, find)?,
        _ => None,
    };
    add(write, room, (number, event), field, &edit.unwrap_or(own))
}

/// Makes an event findable by what it says after an edit came or went.
fn renew(write: &mut Write, rooms: &Rooms, room: &Room, number: EventNo, edit: &Event, find: Find<'_>) -> Result<()> {
    if write.get(EVENTS, &number)?.is_none() {
        return Ok(());
    }
    let known = find(write, number)?;
    let is_here = known.room == room.number && known.standing == Standing::Accepted && known.before.is_some();
    if !is_here || known.redacted_by.is_some() || known.event.sender != edit.sender {
        return Ok(());
    }
    remove_row(write, rooms, room.number, number)?;
    enter(write, rooms, room, (number, &known.event), find)
}

/// Takes out an event that is being redacted, while it still says what it said. The relations of an edit are gone
/// already.
pub fn remove(write: &mut Write, rooms: &Rooms, room: &Room, known: &Known, find: Find<'_>) -> Result<()> {
    if text(&known.event).is_none() {
        return Ok(());
    }
    match edited(write, &known.event)? {
        None => remove_row(write, rooms, room.number, known.number).map(drop),
        Some(Some(original)) => renew(write, rooms, room, original, &known.event, find),
        Some(None) => Ok(()),
    }
}

/// What an event says for search, and where.
pub fn text(event: &Event) -> Option<(Field, String)> {
    match (event.kind.as_str(), event.state_key.as_deref()) {
        ("m.room.message", None) => {
            let body = event.content_field::<String>("body")?;
            Some((Field::Body, without_fallback(event, body)))
        }
        ("m.room.name", Some("")) => Some((Field::Name, event.content_field("name")?)),
        ("m.room.topic", Some("")) => {
            let plain = event.content_field::<String>("topic").unwrap_or_default();
            match rich_topic(event).filter(|rich| *rich != plain) {
                Some(rich) => Some((Field::Topic, format!("{plain}\n{rich}"))),
                None => Some((Field::Topic, plain)),
            }
        }
        _ => None,
    }
}

/// The plain text of `m.topic`.
fn rich_topic(event: &Event) -> Option<String> {
    let topic = event.content_value("m.topic")?;
    let texts = topic.get("m.text")?.as_array()?;
    let plain = texts.iter().find(|text| {
        let kind = text.get("mimetype").and_then(|kind| kind.as_str());
        kind.is_none_or(|kind| kind == "text/plain")
    })?;
    Some(plain.get("body")?.as_str()?.to_owned())
}

/// Old clients repeat what they answer to, in lines that begin with `> `.  Spec: client-server-api#fallbacks-for-rich-replies
fn without_fallback(event: &Event, body: String) -> String {
    let answers = body.starts_with("> ")
        && event.content_value("m.relates_to").is_some_and(|relation| relation.get("m.in_reply_to").is_some());
    match answers {
        true => body.lines().skip_while(|line| line.starts_with('>')).collect::<Vec<_>>().join("\n"),
        false => body,
    }
}

/// Whether an event is an edit of another; which one, if that is here and the edit may count.
fn edited(write: &Write, event: &Event) -> Result<Option<Option<EventNo>>> {
    let Some(relation) = relations::of(event).filter(|relation| relation.rel_type == "m.replace") else {
        return Ok(None);
    };
    Ok(Some(write.get(numbers::EVENT_NUMBERS, &relation.event_id.as_str().to_owned())?))
}

/// The text of the most recent valid edit.  Spec: client-server-api#validity-of-replacement-events
fn newest_edit(write: &Write, number: EventNo, original: &Event, find: Find<'_>) -> Result<Option<String>> {
    let mut newest: Option<(u64, Arc<Known>, String)> = None;
    for ((.., child), _) in write.scan(RELATIONS, &(number, "m.replace".to_owned(), original.kind.clone()))? {
        let edit = find(write, child)?;
        let event = &edit.event;
        if event.sender != original.sender || event.is_state() || edit.redacted_by.is_some() {
            continue;
        }
        let content = event.content_value("m.new_content");
        let Some(body) = content.as_ref().and_then(|content| content.get("body")?.as_str()) else { continue };
        let newer = newest
            .as_ref()
            .is_none_or(|(at, newest, _)| (event.origin_server_ts, &event.event_id) > (*at, &newest.event.event_id));
        if newer {
            newest = Some((event.origin_server_ts, Arc::clone(&edit), body.to_owned()));
        }
    }
    Ok(newest.map(|(.., body)| body))
}

fn add(write: &mut Write, room: &Room, (number, event): (EventNo, &Event), field: Field, text: &str) -> Result<()> {
    let words = words::counted(text);
    if words.is_empty() {
        return Ok(());
    }
    let length = words.values().map(|count| u64::from(*count)).sum();
    let found = Found { event: number, at: event.origin_server_ts, field, length };
    let row = Packed::new(vec![Entry { found, words }]);
    let mut tail = room.search_tail.lock();
    let (events, bytes) = match *tail {
        Some(tail) => tail,
        None => {
            let rows = write.scan(SEARCH_TAIL, &(room.number,))?;
            (rows.len(), rows.iter().map(|(_, row)| row.0.len()).sum())
        }
    };
    let (events, bytes) = (events + 1, bytes + row.0.len());
    write.put(SEARCH_TAIL, &(room.number, number), &row);
    *tail = Some((events, bytes));
    if events >= BLOCK_EVENTS || bytes >= BLOCK_BYTES {
        pack(write, room.number)?;
        *tail = Some((0, 0));
    }
    Ok(())
}

/// Makes blocks of all rows.
fn pack(write: &mut Write, room: RoomNo) -> Result<()> {
    let (mut block, mut bytes) = (Vec::new(), 0);
    for (key, row) in write.scan(SEARCH_TAIL, &(room,))? {
        write.delete(SEARCH_TAIL, &key);
        if block.len() >= BLOCK_EVENTS || bytes >= BLOCK_BYTES {
            put_block(write, room, std::mem::take(&mut block));
            bytes = 0;
        }
        bytes += row.0.len();
        block.extend(row.unpack().ok_or_else(damaged)?);
    }
    put_block(write, room, block);
    Ok(())
}

fn put_block(write: &mut Write, room: RoomNo, entries: Vec<Entry>) {
    if let Some(greatest) = entries.iter().map(|entry| entry.found.event).max() {
        let number = write.number();
        write.put(SEARCH_BLOCKS, &(room, greatest, number), &Packed::new(entries));
    }
}

fn damaged() -> Error {
    Error::internal("a row of the search index cannot be read")
}

/// Takes an event out. Returns whether it was there.
fn remove_row(write: &mut Write, rooms: &Rooms, room: RoomNo, number: EventNo) -> Result<bool> {
    if write.get(SEARCH_TAIL, &(room, number))?.is_some() {
        write.delete(SEARCH_TAIL, &(room, number));
        return Ok(true);
    }
    // Most often it is in the first of these. A block that is only queued yet is found on the second way.
    for row in rooms.store.range(SEARCH_BLOCKS, &(room, number), &(room, EventNo(u64::MAX))) {
        if remove_from(write, row?.0, &BTreeSet::from([number]))? {
            return Ok(true);
        }
    }
    for (key, _) in write.range(SEARCH_BLOCKS, &(room, number), &(room, EventNo(u64::MAX)))? {
        if remove_from(write, key, &BTreeSet::from([number]))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Takes events out of one block. Returns whether any of them was in it.
fn remove_from(write: &mut Write, key: (RoomNo, EventNo, u64), numbers: &BTreeSet<EventNo>) -> Result<bool> {
    let Some(row) = write.get(SEARCH_BLOCKS, &key)? else { return Ok(false) };
    let events = row.events().ok_or_else(damaged)?;
    if !events.iter().any(|found| numbers.contains(&found.event)) {
        return Ok(false);
    }
    let mut entries = row.unpack().ok_or_else(damaged)?;
    entries.retain(|entry| !numbers.contains(&entry.found.event));
    match entries.is_empty() {
        true => write.delete(SEARCH_BLOCKS, &key),
        false => write.put(SEARCH_BLOCKS, &key, &Packed::new(entries)),
    }
    Ok(true)
}

/// Takes many events of a room out at once.
pub fn forget(write: &mut Write, room: RoomNo, numbers: &BTreeSet<EventNo>) -> Result<()> {
    let Some(first) = numbers.first() else { return Ok(()) };
    for number in numbers {
        if write.get(SEARCH_TAIL, &(room, *number))?.is_some() {
            write.delete(SEARCH_TAIL, &(room, *number));
        }
    }
    for (key, _) in write.range(SEARCH_BLOCKS, &(room, *first), &(room, EventNo(u64::MAX)))? {
        remove_from(write, key, numbers)?;
    }
    Ok(())
}
