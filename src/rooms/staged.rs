//! What a join that came to nothing has left: events beside a room that nobody has entered.
//!
//! A join keeps the events that it was given in many steps, and names them in the last one. Whatever prevents
//! that one, be it a refusal or a power cut, the events go again.

use std::sync::Arc;

use ruma::{RoomId, UserId};
use serde::Deserialize;

use super::Rooms;
use crate::{
    error::Result,
    heavy,
    store::{
        Write,
        schema::{
            EventNo, RoomNo,
            events::{EVENTS, EventRow, Standing},
            numbers::{self, EVENT_NUMBERS},
            rooms::{ROOMS, STAGED},
        },
    },
};

/// How many events go in one `Write`.
const AT_ONCE: usize = 500;

/// Removes what a stop of the server has left.
pub async fn sweep(rooms: &Arc<Rooms>) -> Result<()> {
    let staged: Vec<_> = rooms.store.scan(STAGED, &()).collect::<Result<_, _>>()?;
    for (room, _) in staged {
        if let Some(id) = numbers::room_id(&rooms.store, room)? {
            let _alone = rooms.entering(&id).await;
            sweep_room(rooms, &id).await?;
        }
    }
    Ok(())
}

/// The same for one room, where the caller has the turn to enter it.
pub(super) async fn sweep_room(rooms: &Arc<Rooms>, id: &RoomId) -> Result<()> {
    let Some(room) = numbers::find_room(&rooms.store, id)? else { return Ok(()) };
    let Some(first) = rooms.store.write().get(STAGED, &room)? else { return Ok(()) };
    // What was queued before this can be read after it.
    let last = {
        let mut write = rooms.store.write();
        write.put(STAGED, &room, &first);
        write.commit()?
    };
    last.published().await?;
    let held = Arc::clone(rooms);
    let removed = heavy::run(move || remove(&held, room, EventNo(first))).await??;
    tracing::info!(room = %id, "{removed} events of a room that could not be entered are gone again");
    Ok(())
}

fn remove(rooms: &Rooms, room: RoomNo, first: EventNo) -> Result<usize> {
    let (mut from, mut removed) = (first, 0);
    loop {
        let mut some = Vec::new();
        for row in rooms.store.range(EVENTS, &from, &EventNo(u64::MAX)) {
            let (number, row) = row?;
            from = EventNo(number.0 + 1);
            if row.room == room && is_left(rooms, &row) {
                some.push((number, row.id));
            }
            if some.len() >= AT_ONCE {
                break;
            }
        }
        let is_last = some.len() < AT_ONCE;
        let mut write = rooms.store.write();
        for (number, id) in &some {
            write.delete(EVENTS, number);
            write.delete(EVENT_NUMBERS, &id.as_str().to_owned());
        }
        let numbers: Vec<EventNo> = some.into_iter().map(|(number, _)| number).collect();
        forget_create(&mut write, room, &numbers)?;
        if is_last {
            write.delete(STAGED, &room);
        }
        write.commit()?.wait()?;
        rooms.cache.forget_events(&numbers);
        removed += numbers.len();
        if is_last {
            return Ok(removed);
        }
    }
}

/// Whether an event was kept for a join that came to nothing. Invites and knocks of our own users were not.
fn is_left(rooms: &Rooms, event: &EventRow) -> bool {
    #[derive(Deserialize)]
    struct Header {
        #[serde(default)]
        state_key: String,
    }
    let header: Option<Header> = serde_json::from_str(&event.json).ok();
    let about = header.and_then(|header| UserId::parse(header.state_key).ok());
    event.standing == Standing::Outlier && event.before.is_none() && !about.is_some_and(|user| rooms.is_local(&user))
}

/// The create event of a room that nobody here was ever in is not known any more if it is among these.
fn forget_create(write: &mut Write, room: RoomNo, gone: &[EventNo]) -> Result<()> {
    if let Some(mut row) = write.get(ROOMS, &room)?.filter(|row| gone.contains(&row.create)) {
        row.create = EventNo(0);
        write.put(ROOMS, &room, &row);
    }
    Ok(())
}
