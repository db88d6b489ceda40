//! The past of a room, from before this server came in: fetched when somebody reads that far.
//!
//! Such events get a place in the history of the room and none in its timeline: nobody is told about them, and
//! they change nothing.
//!
//! Spec: server-server-api#backfilling-and-retrieving-missing-events

use std::sync::Arc;

use ruma::{
    EventId, OwnedEventId, OwnedServerName, UInt,
    api::federation::{backfill::get_backfill, event::get_room_state_ids},
};

use super::{Room, Rooms, admit, append::Deciding, forks, intake, projections::relations, redaction};
use crate::{
    error::{Error, Result},
    protocol::{event::Event, graph},
    store::{
        Position,
        schema::events::{HISTORY, Standing},
    },
};

/// How many events are fetched at once.
const PAGE: u32 = 100;
/// How many servers are asked.
const MOST_SERVERS: usize = 3;

/// Fetches what was before the oldest event of a room that this server has. Returns whether there is more
/// history now than there was.
pub async fn fill(rooms: &Arc<Rooms>, room: &Arc<Room>) -> Result<bool> {
    let _in_turn = room.intake.lock().await;
    let Some(oldest) = oldest(rooms, room)? else { return Ok(false) };
    let servers = crate::remote::candidates(&rooms.config, forks::servers(rooms, room.number)?);
    for server in servers.iter().take(MOST_SERVERS) {
        let mut request = get_backfill::v1::Request::new(room.id.clone(), vec![oldest.clone()], UInt::from(PAGE));
        request.limit = UInt::from(PAGE);
        let answer = match rooms.remote.ask(server, request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%server, room = %room.id, %error, "no history");
                continue;
            }
        };
        let pdus = answer.pdus.iter().filter_map(|pdu| admit::object(pdu, room.rules).ok()).collect();
        let events = new_events(rooms, room, admit::many(rooms, pdus, room.rules).await)?;
        if !events.is_empty() && enter(rooms, room, server, events).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The oldest event of the room's history here, if it has something before it that is not here.
fn oldest(rooms: &Rooms, room: &Room) -> Result<Option<OwnedEventId>> {
    let Some(first) = rooms.store.scan(HISTORY, &(room.number,)).next() else { return Ok(None) };
    let known = rooms.known(first?.0.2)?;
    let before = &known.event.prev_events;
    Ok((!before.is_empty()).then(|| known.event.event_id.clone()))
}

/// Those of the events that have no place in the room yet, oldest first.
fn new_events(rooms: &Rooms, room: &Room, events: Vec<Event>) -> Result<Vec<Arc<Event>>> {
    let mut fresh = Vec::new();
    for event in events {
        let here = rooms.by_id(&event.event_id)?.is_some_and(|known| known.before.is_some());
        if event.room_id == room.id && !here {
            fresh.push(Arc::new(event));
        }
    }
    Ok(graph::topological_order(&fresh))
}

/// Gives the events their place, on the state that the other server says was before the oldest of them.
async fn enter(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    server: &OwnedServerName,
    events: Vec<Arc<Event>>,
) -> Result<bool> {
    let mut state = Vec::new();
    if !events[0].prev_events.is_empty() {
        let request = get_room_state_ids::v1::Request::new(events[0].event_id.clone(), room.id.clone());
        let Ok(answer) = rooms.remote.ask(server, request).await else { return Ok(false) };
        state = answer.pdu_ids;
        let wanted = state.iter().chain(&answer.auth_chain_ids);
        let missing = wanted.filter(|id| !matches!(rooms.by_id(id), Ok(Some(_)))).cloned().collect();
        let servers = std::slice::from_ref(server);
        let found = intake::events(rooms, room, servers, missing).await;
        keep(rooms, room, found).await?;
    }
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || {
        let mut deciding = rooms.decide(&room);
        record(&mut deciding, &state, &events)?;
        deciding.commit()
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)??.published().await?;
    Ok(true)
}

/// Keeps events of the old state, without a place in the room.
async fn keep(rooms: &Arc<Rooms>, room: &Arc<Room>, events: Vec<Event>) -> Result<()> {
    if events.is_empty() {
        return Ok(());
    }
    let ticket = {
        let mut deciding = rooms.decide(room);
        for event in events {
            deciding.keep(&Arc::new(event), Standing::Outlier)?;
        }
        deciding.commit()?
    };
    ticket.published().await?;
    Ok(())
}

fn record(deciding: &mut Deciding<'_>, state: &[OwnedEventId], events: &[Arc<Event>]) -> Result<()> {
    let mut numbers = Vec::new();
    for id in state {
        let id: &EventId = id;
        numbers.extend(deciding.by_id(id)?.map(|known| known.number));
    }
    let mut before = match numbers.is_empty() {
        true => super::state::State::default(),
        false => deciding.state_of(&numbers)?,
    };
    for event in events {
        let standing = match deciding.check_at(&before, event) {
            Ok(()) => Standing::Accepted,
            Err(_) => Standing::Rejected,
        };
        let known = deciding.place(event, &before, standing)?;
        if standing == Standing::Accepted {
            let place = (known.room, event.depth, known.number);
            deciding.write.put(HISTORY, &place, &Position(0));
            relations::enter(&mut deciding.write, known.room, known.number, &known.event)?;
            deciding.find_by_words(&known)?;
            redaction::apply(deciding, &known)?;
        }
        before = deciding.state_after(&known)?;
    }
    Ok(())
}
