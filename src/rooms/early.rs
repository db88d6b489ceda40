//! Events of a room that come while this server is still on its way in.
//!
//! Whoever is in the room hears of the join before this server has recorded the room, and sends at once. What comes in
//! between becomes a row before it is answered, within bounds, and is taken in as soon as the room is there, or at the
//! next start.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde_json::value::RawValue;

use super::{Rooms, admit, doors, inbox, inviting, resident};
use crate::{
    error::{Error, Result},
    protocol::canonical::{Object, Value},
    store::{
        Ticket,
        schema::{
            federation::{EARLY_EVENTS, EarlyRow},
            numbers,
            rooms::with_rows,
        },
    },
};

/// How many events of one room are kept, and how many bytes they may have together.
const MOST: usize = 500;
const MOST_BYTES: usize = 4 << 20;
/// How long the text of one may be, with what others write beside an event of at most 64 KiB: what fits into a row.
const LONGEST: usize = 90 * 1024;
/// How soon a server may try again for which there is no space.
const LATER: Duration = Duration::from_secs(30);

/// The rooms that are being entered.
#[derive(Default)]
pub struct Early(Mutex<HashMap<OwnedRoomId, Kept>>);

/// How much is kept of one.
#[derive(Default)]
struct Kept {
    count: usize,
    bytes: usize,
}

/// A room that is being entered. When this is dropped, nothing is kept for it any more.
pub(super) struct Expected<'a> {
    early: &'a Early,
    room: &'a RoomId,
}

impl Early {
    /// From now on the events of a room are kept.
    pub(super) fn expect<'a>(&'a self, room: &'a RoomId) -> Expected<'a> {
        self.0.lock().entry(room.to_owned()).or_default();
        Expected { early: self, room }
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.early.0.lock().remove(self.room);
    }
}

/// Keeps events of a room that is being entered, durable once the ticket is published; nothing for any other room.
///
/// Errors: 429 `M_LIMIT_EXCEEDED` if there is no space.
pub fn keep(rooms: &Rooms, id: &RoomId, origin: &ServerName, pdus: &[Box<RawValue>]) -> Result<Option<Ticket>> {
    // Held until the rows are queued: whoever ends the waiting then finds them.
    let mut entered = rooms.early.0.lock();
    let Some(kept) = entered.get_mut(id) else { return Ok(None) };
    let pdus: Vec<&str> = pdus.iter().map(|pdu| pdu.get()).filter(|pdu| pdu.len() <= LONGEST).collect();
    let (count, bytes) = (kept.count + pdus.len(), kept.bytes + pdus.iter().map(|pdu| pdu.len()).sum::<usize>());
    if count > MOST || bytes > MOST_BYTES {
        return Err(Error::limit_exceeded(LATER));
    }
    *kept = Kept { count, bytes };
    let mut write = rooms.store.write();
    let room = numbers::room(&mut write, id)?;
    for pdu in pdus {
        let number = write.number();
        let row = EarlyRow { origin: origin.to_string(), json: pdu.to_owned() };
        write.put(EARLY_EVENTS, &(room, number), &row);
    }
    Ok(Some(write.commit()?))
}

/// Takes in what an earlier run has left.
pub async fn resume(rooms: &Arc<Rooms>) -> Result<()> {
    for room in with_rows(&rooms.store, EARLY_EVENTS) {
        if let Some(id) = numbers::room_id(&rooms.store, room?)? {
            let _alone = rooms.entering(&id).await;
            take_in(rooms, &id).await?;
        }
    }
    Ok(())
}

/// Takes in what has come early into a room that nobody is entering any more. If nobody was let in, an invite may have
/// been withdrawn by it.
pub(super) async fn take_in(rooms: &Arc<Rooms>, id: &RoomId) -> Result<()> {
    let Some(number) = numbers::find_room(&rooms.store, id)? else { return Ok(()) };
    let mut rows = rooms.store.write().scan(EARLY_EVENTS, &(number,))?.into_iter().peekable();
    while let Some((key, first)) = rows.next() {
        let (origin, mut keys, mut pdus) = (first.origin, vec![key], vec![first.json]);
        while let Some((key, row)) = rows.next_if(|(_, row)| row.origin == origin) {
            keys.push(key);
            pdus.push(row.json);
        }
        let origin = OwnedServerName::try_from(origin).map_err(Error::internal)?;
        let pdus: Vec<_> = pdus.into_iter().filter_map(|pdu| RawValue::from_string(pdu).ok()).collect();
        of_one_server(rooms, id, &origin, &pdus).await?;
        let ticket = {
            let mut write = rooms.store.write();
            keys.iter().for_each(|key| write.delete(EARLY_EVENTS, key));
            write.commit()?
        };
        ticket.published().await?;
    }
    Ok(())
}

async fn of_one_server(rooms: &Arc<Rooms>, id: &RoomId, origin: &ServerName, pdus: &[Box<RawValue>]) -> Result<()> {
    let Some(room) = doors::inside(rooms, id)? else {
        for pdu in pdus {
            if let Err(error) = inviting::withdrawn(rooms, origin, id, pdu).await {
                tracing::debug!(room = %id, server = %origin, %error, "an event of a room elsewhere is dropped");
            }
        }
        return Ok(());
    };
    if resident::check_acl(rooms, &room, origin).is_err() {
        return Ok(());
    }
    // What lies before the join is the room's past.
    let floor = rooms.published(room.number)?.floor;
    let depth = |pdu: &Object| pdu.get("depth").and_then(Value::as_int).and_then(|depth| u64::try_from(depth).ok());
    let pdus = pdus.iter().filter_map(|pdu| admit::object(pdu, room.rules).ok());
    let pdus = pdus.filter(|pdu| depth(pdu).is_some_and(|depth| depth >= floor)).collect();
    inbox::receive(rooms, &room, origin, pdus).await.map(drop)
}
