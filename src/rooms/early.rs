//! Events of a room that come while this server is still on its way in.
//!
//! Whoever is in the room hears of the join before this server has recorded the room, and sends at once. What
//! comes in between is kept in memory, within bounds, and taken in as soon as the room is there. What gets lost
//! nevertheless is fetched when a later event names it.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName};
use serde_json::value::RawValue;

use super::{Rooms, admit, doors, inbox, inviting, resident};
use crate::{
    error::Result,
    protocol::canonical::{Object, Value},
};

/// How many events of one room are kept, and how many bytes they may have together.
const MOST: usize = 500;
const MOST_BYTES: usize = 4 << 20;

/// An event as it has come, and from whom.
pub type Pdu = (OwnedServerName, Box<RawValue>);

/// The events that wait, by room.
#[derive(Default)]
pub struct Early(Mutex<HashMap<OwnedRoomId, Waiting>>);

#[derive(Default)]
struct Waiting {
    pdus: Vec<Pdu>,
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

    /// Keeps events of a room that is being entered, as far as there is space; false for any other room.
    pub fn keep(&self, room: &RoomId, origin: &ServerName, pdus: &[Box<RawValue>]) -> bool {
        let mut rooms = self.0.lock();
        let Some(waiting) = rooms.get_mut(room) else { return false };
        for pdu in pdus {
            waiting.bytes += pdu.get().len();
            if waiting.pdus.len() < MOST && waiting.bytes <= MOST_BYTES {
                waiting.pdus.push((origin.to_owned(), pdu.clone()));
            }
        }
        true
    }
}

impl Expected<'_> {
    /// The events that have come; from now on none are kept.
    pub(super) fn end(self) -> Vec<Pdu> {
        self.early.0.lock().remove(self.room).unwrap_or_default().pdus
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.early.0.lock().remove(self.room);
    }
}

/// Takes in what has come early. If nobody was let in, an invite may have been withdrawn by it.
pub(super) async fn take_in(rooms: Arc<Rooms>, id: OwnedRoomId, pdus: Vec<Pdu>) {
    if let Err(error) = try_take_in(&rooms, &id, pdus).await {
        tracing::info!(room = %id, "events that came during a join are lost: {error}");
    }
}

async fn try_take_in(rooms: &Arc<Rooms>, id: &RoomId, pdus: Vec<Pdu>) -> Result<()> {
    let Some(room) = doors::inside(rooms, id)? else {
        for (origin, pdu) in pdus {
            inviting::withdrawn(rooms, &origin, id, &pdu).await.ok();
        }
        return Ok(());
    };
    // What lies before the join is the room's past.
    let floor = rooms.published(room.number)?.floor;
    let depth = |pdu: &Object| pdu.get("depth").and_then(Value::as_int).and_then(|depth| u64::try_from(depth).ok());
    let mut pdus = pdus.into_iter().peekable();
    while let Some((origin, first)) = pdus.next() {
        let mut some = vec![first];
        while let Some((_, pdu)) = pdus.next_if(|(next, _)| *next == origin) {
            some.push(pdu);
        }
        if resident::check_acl(rooms, &room, &origin).is_ok() {
            let some = some.iter().filter_map(|pdu| admit::object(pdu, room.rules).ok());
            let some = some.filter(|pdu| depth(pdu).is_some_and(|depth| depth >= floor)).collect();
            inbox::receive(rooms, &room, &origin, some).await?;
        }
    }
    Ok(())
}
