//! How long messages are kept: what has passed its time is removed for good.
//!
//! Removing has two steps. First an event loses its places (history, timeline, search, relations) and what it says,
//! so that nobody finds it; what is left of its row stays for whoever is just reading it, and goes with the next
//! [`purge`]. That it was removed is remembered, so that no other server brings it back. State, the ends of a room,
//! what waits for other servers, and what says why something else is redacted stay. The space comes back when the
//! store is compacted.
//!
//! Nothing here keeps other servers, or clients, from keeping what they have.
//!
//! Spec: MSC1763

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ruma::EventId;

use super::{
    Room, Rooms,
    cache::Known,
    projections::{relations, search},
};
use crate::{
    error::Result,
    store::{
        Position, Ticket, Write,
        schema::{
            EventNo, RoomNo,
            delayed::DELAYED_AS,
            events::{
                EVENTS, EventRow, HEADS, HISTORY, LEFTOVERS, RELATIONS, REMOVED, Standing, THREADS, TIMELINE,
                TRANSACTION_OF, TRANSACTIONS,
            },
            federation::{OUTBOX, OutboxRow},
            numbers,
            push::NOTIFIED,
        },
    },
};

/// How many events are removed in one `Write`.
const AT_ONCE: usize = 200;
/// After so many events in a row whose time is not over, the rest of a room is taken to be newer still.
const ENOUGH: usize = 500;

/// How long the messages of a room are kept; for ever if there is no time.
pub fn lifetime(rooms: &Rooms, room: RoomNo) -> Result<Option<Duration>> {
    let config = &rooms.config.retention;
    if !config.enabled {
        return Ok(None);
    }
    let policy = rooms.in_state(&rooms.current(room)?, "m.room.retention", "")?;
    let asked = |field: &str| {
        let time = policy.as_ref().and_then(|known| known.event.content_field::<u64>(field));
        time.map(Duration::from_millis)
    };
    let longest = config.longest_lifetime.unwrap_or(Duration::MAX);
    let most = match asked("max_lifetime").or(config.default_lifetime) {
        Some(most) => most.clamp(config.shortest_lifetime.min(longest), longest),
        None => match config.longest_lifetime {
            Some(longest) => longest,
            None => return Ok(None),
        },
    };
    // What a room wants to keep at least, it keeps, within what the server allows.
    Ok(Some(asked("min_lifetime").map_or(most, |least| least.min(longest).max(most))))
}

/// Whether an event was removed.
pub fn is_removed(rooms: &Rooms, id: &EventId) -> Result<bool> {
    let number = numbers::find_event(&rooms.store, id)?;
    Ok(number.map(|number| rooms.store.contains(REMOVED, &number)).transpose()?.unwrap_or(false))
}

fn before(rooms: &Rooms, lifetime: Duration) -> u64 {
    rooms.clock.now().saturating_sub(u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX))
}

/// Removes what has passed its time in all rooms; gives how many events. Blocks for as long as that takes.
pub fn purge(rooms: &Rooms) -> Result<u64> {
    forget_rows(rooms)?;
    if !rooms.config.retention.enabled {
        return Ok(0);
    }
    let waiting = waiting(rooms)?;
    let mut count = 0;
    let heads: Vec<RoomNo> = rooms.store.scan(HEADS, &()).map(|row| Ok(row?.0)).collect::<Result<_>>()?;
    for number in heads {
        let Some(lifetime) = lifetime(rooms, number)? else { continue };
        let Some(room) = rooms.open(number)? else { continue };
        let removed = purge_room(rooms, &room, before(rooms, lifetime), &waiting)?;
        if removed > 0 {
            tracing::info!(room = %room.id, "{removed} events of a room have passed their time and were removed");
        }
        count += removed;
    }
    Ok(count)
}

/// Removes the rows of events that nobody can find since the last time.
fn forget_rows(rooms: &Rooms) -> Result<()> {
    loop {
        let rows = rooms.store.scan(LEFTOVERS, &()).take(AT_ONCE);
        let numbers: Vec<EventNo> = rows.map(|row| Ok(row?.0)).collect::<Result<_>>()?;
        if numbers.is_empty() {
            return Ok(());
        }
        let mut write = rooms.store.write();
        for number in &numbers {
            write.delete(EVENTS, number);
            write.delete(LEFTOVERS, number);
        }
        write.commit()?.wait()?;
        rooms.cache.forget_events(&numbers);
    }
}

/// The events that other servers have not got yet.
fn waiting(rooms: &Rooms) -> Result<BTreeSet<EventNo>> {
    let mut waiting = BTreeSet::new();
    for row in rooms.store.scan(OUTBOX, &()) {
        if let (_, OutboxRow::Pdu(number)) = row? {
            waiting.insert(number);
        }
    }
    Ok(waiting)
}

/// An event and its place in the history.
type Placed = (Arc<Known>, (u64, EventNo), Position);

fn purge_room(rooms: &Rooms, room: &Room, before: u64, waiting: &BTreeSet<EventNo>) -> Result<u64> {
    let (mut from, mut count) = ((0, EventNo(0)), 0);
    loop {
        let mut old: Vec<Placed> = Vec::new();
        let mut removed = BTreeSet::new();
        let (mut young, mut more) = (0, false);
        let ends: BTreeSet<EventNo> = rooms.published(room.number)?.extremities.into_iter().collect();
        let end = (RoomNo(room.number.0 + 1),);
        for row in rooms.store.range(HISTORY, &(room.number, from.0, from.1), &end) {
            let ((_, depth, number), at) = row?;
            let known = rooms.known(number)?;
            from = (depth, EventNo(number.0 + 1));
            if known.event.origin_server_ts >= before {
                young += 1;
            } else if !ends.contains(&number) && !waiting.contains(&number) && may_go(rooms, room, &known, &removed)? {
                young = 0;
                removed.insert(number);
                old.push((known, (depth, number), at));
            }
            if old.len() >= AT_ONCE || young >= ENOUGH {
                more = young < ENOUGH;
                break;
            }
        }
        if !old.is_empty() {
            remove(rooms, room, &old)?.wait()?;
            rooms.unread.forget(room.number);
            count += old.len() as u64;
        }
        if !more {
            return Ok(count);
        }
    }
}

/// Whether nothing that stays needs this event.
fn may_go(rooms: &Rooms, room: &Room, known: &Known, removed: &BTreeSet<EventNo>) -> Result<bool> {
    if known.event.is_state() {
        return Ok(false);
    }
    let Some(target) = known.event.redacts_under(room.rules) else { return Ok(true) };
    // Whoever sees what was redacted is told by what.
    let target = rooms.by_id(&target)?;
    Ok(target.is_none_or(|target| target.redacted_by != Some(known.number) || removed.contains(&target.number)))
}

/// Takes events out of every place in which they are found.
fn remove(rooms: &Rooms, room: &Room, events: &[Placed]) -> Result<Ticket> {
    // What happens in the room meanwhile may relate to these events.
    let _deciding = rooms.decide(room);
    let mut write = rooms.store.write();
    let find = |write: &Write, number| rooms.known_in(write, number);
    let mut rest = Vec::new();
    for (known, (depth, number), at) in events {
        relations::remove(&mut write, known)?;
        search::remove(&mut write, rooms, room, known, &find)?;
        for (key, _) in write.scan(RELATIONS, &(*number,))? {
            write.delete(RELATIONS, &key);
        }
        write.delete(THREADS, &(room.number, *number));
        write.delete(HISTORY, &(room.number, *depth, *number));
        if *at > Position(0) {
            write.delete(TIMELINE, &(room.number, *at));
            write.delete(NOTIFIED, &(room.number, *at));
        }
        if let Some(row) = write.get(TRANSACTION_OF, number)? {
            write.delete(TRANSACTIONS, &(row.user, row.fingerprint));
            write.delete(TRANSACTION_OF, number);
        }
        write.delete(DELAYED_AS, number);
        write.put(REMOVED, number, &());
        write.put(LEFTOVERS, number, &());
        let left = left_of(room, known);
        write.put(EVENTS, number, &left.0);
        rest.push(left.1);
    }
    let ticket = write.commit()?;
    rooms.cache.keep_events(rest);
    Ok(ticket)
}

/// What is left of an event: that there was one.
fn left_of(room: &Room, known: &Known) -> (EventRow, Arc<Known>) {
    let left = Known {
        event: Arc::new(known.event.redacted(room.rules)),
        standing: Standing::Rejected,
        before: None,
        ..known.clone()
    };
    let row = EventRow {
        id: left.event.event_id.clone(),
        room: left.room,
        json: left.event.json().to_owned(),
        standing: left.standing,
        before: None,
        replaces: None,
        redacted_by: None,
    };
    (row, Arc::new(left))
}

#[cfg(test)]
mod tests {
    use ruma::api::client::room::create_room::v3::Request;

    use super::*;
    use crate::{
        chance::Chance,
        clock::Clock,
        config::Config,
        protocol::{canonical, sign::KeyPair},
        remote::{Remote, transport::Island},
        rooms::{append::NewEvent, create},
        store,
        users::Users,
    };

    fn say(rooms: &Rooms, room: &Room, text: &str) {
        let content = canonical::to_object(&serde_json::json!({ "msgtype": "m.text", "body": text })).unwrap();
        let mut deciding = rooms.decide(room);
        deciding.send(NewEvent::message(ruma::user_id!("@ann:localhost"), "m.room.message", content)).unwrap();
        deciding.commit().unwrap().wait().unwrap();
    }

    #[test]
    fn what_is_removed_gives_its_space_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::for_tests();
        config.retention.enabled = true;
        config.retention.default_lifetime = Some(Duration::from_secs(86_400));
        let (config, clock, chance) = (Arc::new(config), Clock::by_hand(1_782_000_000_000), Chance::seeded(7));
        let store = store::tests::open(folder.path());
        let users = Users::for_tests(&store, &clock, &config);
        let key = Arc::new(KeyPair::from_seed(&[7; 32], "test"));
        let remote = Remote::new(config, clock.clone(), chance.clone(), store.clone(), key, Arc::new(Island)).unwrap();
        let rooms = &Rooms::new(users, Arc::new(remote), 1 << 22);
        let (room, ticket) = create::create(rooms, ruma::user_id!("@ann:localhost"), Request::new()).unwrap();
        ticket.wait().unwrap();
        // Texts that cannot be packed.
        for _ in 0..400 {
            let words: Vec<String> = (0..200).map(|_| chance.secret()).collect();
            say(rooms, &room, &words.join(" "));
        }
        clock.advance(Duration::from_secs(2 * 86_400));
        say(rooms, &room, "still here");
        store.compact().unwrap();
        let before = store.usage().unwrap();
        assert_eq!(purge(rooms).unwrap(), 400);
        assert_eq!(purge(rooms).unwrap(), 0, "now the rows are gone as well");
        store.compact().unwrap();
        let after = store.usage().unwrap();
        assert!(after.bytes * 10 < before.bytes, "{before:?} {after:?}");
        assert!(after.engine * 2 < before.engine, "{before:?} {after:?}");
    }
}
