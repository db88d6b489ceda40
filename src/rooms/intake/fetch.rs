//! What `protocol::intake` asks for, fetched from other servers: the events of a gap, single events, states. Nothing is
//! written down here.
//!
//! Spec: server-server-api#retrieving-events, server-server-api#backfilling-and-retrieving-missing-events

use std::{collections::HashSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName,
    api::federation::event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
};
use serde_json::value::RawValue;

use crate::{
    error::Result,
    protocol::{canonical::Object, event::Event, intake::Intake, version::EventIds},
    remote::{Patience, RemoteError},
    rooms::{Room, Rooms, admit, forks},
};

/// How many events one request for a gap asks for.
const GAP: u32 = 50;
/// How many single events are asked for at the same time, and how many for the sake of one.
const AT_ONCE: usize = 8;
pub(super) const MOST_SINGLE: usize = 500;
/// From how many missing events of a state on the whole state is asked for.
const WHOLE_STATE: usize = 20;
/// Up to how many events a state has that is asked for as a whole because one of them does not come by itself.
const SMALL_STATE: usize = 1_000;
/// How long a whole state may take, and how many bytes it may have.
const PATIENT: Patience = Patience { timeout: Duration::from_secs(120), limit: 64 << 20, insist: false };
/// How many servers are asked for the same thing.
const MOST_SERVERS: usize = 3;

/// Who is asked for what is missing: whoever sent the event, then some others in the room.
pub(super) fn helpers(rooms: &Rooms, room: &Room, origin: &ServerName) -> Result<Vec<OwnedServerName>> {
    let others = forks::servers(rooms, room.number)?;
    let mut servers = crate::remote::candidates(&rooms.config, std::iter::once(origin.to_owned()).chain(others));
    servers.truncate(MOST_SERVERS);
    Ok(servers)
}

fn objects(room: &Room, pdus: impl IntoIterator<Item = Box<RawValue>>) -> Vec<Object> {
    pdus.into_iter().filter_map(|pdu| admit::object(&pdu, room.rules).ok()).collect()
}

/// The events between ours and new ones, from the first server that has any.
pub(super) async fn gap(
    rooms: &Rooms,
    room: &Room,
    servers: &[OwnedServerName],
    before: Vec<OwnedEventId>,
) -> Result<Vec<Object>> {
    let head = rooms.published(room.number)?;
    let ends = head.extremities;
    let ends = ends.into_iter().map(|number| Ok(rooms.known(number)?.event.event_id.clone()));
    let ends = ends.collect::<Result<Vec<_>>>()?;
    let mut request = get_missing_events::v1::Request::new(room.id.clone(), ends, before);
    request.limit = GAP.into();
    request.min_depth = head.floor.try_into().unwrap_or_default();
    for server in servers {
        match rooms.remote.ask(server, request.clone()).await {
            Ok(answer) if !answer.events.is_empty() => {
                return Ok(objects(room, answer.events.into_iter().take(GAP as usize)));
            }
            Ok(_) => tracing::debug!(%server, room = %room.id, "no events for a gap"),
            Err(error) => tracing::debug!(%server, room = %room.id, %error, "no events for a gap"),
        }
    }
    Ok(Vec::new())
}

/// Single events, as far as they can be had.
pub(in crate::rooms) async fn events(
    rooms: &Rooms,
    room: &Room,
    servers: &[OwnedServerName],
    ids: Vec<OwnedEventId>,
) -> Vec<Event> {
    let pdus: Vec<Option<Object>> =
        stream::iter(ids).map(|id| event(rooms, room, servers, id)).buffer_unordered(AT_ONCE).collect().await;
    let events = admit::many(rooms, pdus.into_iter().flatten().collect(), room.rules).await;
    first_of_their_ids(rooms, room, events)
}

/// Leaves out events whose ID another event has that was here before.
pub(super) fn first_of_their_ids(rooms: &Rooms, room: &Room, mut events: Vec<Event>) -> Vec<Event> {
    if room.rules.event_ids == EventIds::Chosen {
        let deciding = rooms.decide(room);
        let known = |event: &Event| deciding.by_id(&event.event_id).ok().flatten();
        events.retain(|event| known(event).is_none_or(|known| !deciding.is_another(&known, event)));
    }
    events
}

async fn event(rooms: &Rooms, room: &Room, servers: &[OwnedServerName], id: OwnedEventId) -> Option<Object> {
    for server in servers {
        match rooms.remote.ask(server, get_event::v1::Request::new(id.clone())).await {
            Ok(answer) => return admit::object(&answer.pdu, room.rules).ok(),
            Err(error) => tracing::debug!(%server, event = %id, %error, "no event"),
        }
    }
    None
}

/// The state before an event, for `intake`; notes in `whole` if all its events have come with it.
pub(super) async fn state(
    rooms: &Rooms,
    room: &Room,
    servers: &[OwnedServerName],
    id: OwnedEventId,
    intake: &mut Intake,
    whole: &mut HashSet<OwnedEventId>,
) {
    for server in servers {
        let request = get_room_state_ids::v1::Request::new(id.clone(), room.id.clone());
        let answer = match rooms.remote.ask(server, request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%server, event = %id, %error, "no state");
                continue;
            }
        };
        let unknown = answer.pdu_ids.iter().chain(&answer.auth_chain_ids);
        let unknown = unknown.filter(|id| !matches!(rooms.by_id(id), Ok(Some(_)))).count();
        if unknown > WHOLE_STATE {
            match whole_state(rooms, room, server, &id).await {
                Ok(events) => {
                    intake.supply(events);
                    whole.insert(id.clone());
                }
                // It is too much to be asked for one by one.
                Err(error) if unknown > MOST_SINGLE => {
                    tracing::debug!(%server, event = %id, %error, "no whole state");
                    continue;
                }
                Err(error) => tracing::debug!(%server, event = %id, %error, "the state is asked for event by event"),
            }
        }
        return intake.state(id, Some(answer.pdu_ids));
    }
    intake.state(id, None);
}

/// All events of the state before an event, and what they rest on.
async fn whole_state(
    rooms: &Rooms,
    room: &Room,
    server: &ServerName,
    before: &EventId,
) -> Result<Vec<Event>, RemoteError> {
    let request = get_room_state::v1::Request::new(before.to_owned(), room.id.clone());
    let answer = rooms.remote.ask_with(server, request, PATIENT).await?;
    let pdus = objects(room, answer.auth_chain.into_iter().chain(answer.pdus));
    Ok(first_of_their_ids(rooms, room, admit::many(rooms, pdus, room.rules).await))
}

/// Small states of which events did not come one by one, as a whole; each once. Whoever was turned out of a room is
/// told of the state before that, and not of each of its events: of those that happened beside its own coming.
pub(super) async fn supply_states_of(
    rooms: &Rooms,
    room: &Room,
    servers: &[OwnedServerName],
    lost: &HashSet<OwnedEventId>,
    intake: &mut Intake,
    whole: &mut HashSet<OwnedEventId>,
) {
    let lacks = |ids: &[OwnedEventId]| ids.len() <= SMALL_STATE && ids.iter().any(|id| lost.contains(id));
    let lacking = intake.given_states().filter(|(_, ids)| lacks(ids));
    let lacking: Vec<_> = lacking.map(|(before, _)| before.to_owned()).collect();
    for before in lacking.into_iter().filter(|before| whole.insert(before.clone())) {
        for server in servers {
            match whole_state(rooms, room, server, &before).await {
                Ok(events) => {
                    intake.supply(events);
                    break;
                }
                Err(error) => tracing::debug!(%server, event = %before, %error, "no whole state"),
            }
        }
    }
}
