//! Events from other servers: fetched for, judged and recorded.
//!
//! `protocol::intake` says what is missing and what becomes of an event; here it is fetched and written down.
//! The room is locked only while a step is taken, never while another server is asked. One event of a room is
//! taken in at a time.
//!
//! Spec: server-server-api#checks-performed-on-receipt-of-a-pdu

use std::{cell::Cell, collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt as _, stream};
use ruma::{
    EventId, OwnedEventId, OwnedServerName, ServerName,
    api::federation::event::{get_event, get_missing_events, get_room_state, get_room_state_ids},
};
use serde_json::value::RawValue;

use super::{Room, Rooms, admit, append::Deciding, forks, state::State};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::Object,
        event::Event,
        intake::{Before, Intake, Judged, Known, StateId, Step, Verdict, View},
        resolve::StateMap,
    },
    store::{
        Ticket,
        schema::{EventNo, StateNo, events::Standing, numbers::EVENT_NUMBERS},
    },
};

/// How many events one request for a gap asks for.
const GAP: u32 = 50;
/// How many single events are asked for at the same time.
const AT_ONCE: usize = 8;
/// From how many missing events of a state on the whole state is asked for.
const WHOLE_STATE: usize = 20;
/// How many servers are asked for the same thing.
const MOST_SERVERS: usize = 3;

/// Takes in a PDU of a room that this server is in. `origin` has sent it and is asked first for what is
/// missing. When it returns, everything is durable.
///
/// Errors: 403 `M_FORBIDDEN` if the event is dropped or rejected, with the reason.
pub async fn receive(rooms: &Arc<Rooms>, room: &Arc<Room>, origin: &ServerName, pdu: Object) -> Result<()> {
    let event = admit::one(rooms, pdu, room.rules).await?;
    if event.room_id != room.id {
        return Err(Error::forbidden("the event is of another room"));
    }
    let _in_turn = room.intake.lock().await;
    if rooms.by_id(&event.event_id)?.is_some_and(|known| known.standing != Standing::Outlier) {
        return Ok(());
    }
    let target = event.event_id.clone();
    let mut intake = Intake::new(room.rules, event);
    let mut asked_for_gap = false;
    let servers = helpers(rooms, room, origin)?;
    loop {
        let (stepped, step, ticket) = take_step(rooms, room, intake).await?;
        intake = stepped;
        match step {
            Step::Need(ids) => {
                let mut pdus = Vec::new();
                if !std::mem::replace(&mut asked_for_gap, true) {
                    pdus = gap(rooms, room, origin, &target).await?;
                }
                let found = admit::many(rooms, pdus, room.rules).await;
                let missing: Vec<_> =
                    ids.into_iter().filter(|id| !found.iter().any(|event| event.event_id == *id)).collect();
                intake.supply(found);
                intake.supply(events(rooms, room, &servers, missing).await);
            }
            Step::NeedState(id) => state(rooms, room, &servers, id, &mut intake).await,
            Step::Done(Err(unjudged)) => {
                return Err(Error::forbidden(format!("the event cannot be judged: {unjudged}")));
            }
            Step::Done(Ok(judged)) => {
                if let Some(ticket) = ticket {
                    ticket.published().await?;
                }
                let verdict = judged.into_iter().next_back().map(|judged| judged.verdict);
                return match verdict {
                    Some(Verdict::Rejected(refusal)) => Err(Error::forbidden(refusal.to_string())),
                    _ => Ok(()),
                };
            }
        }
    }
}

/// One step, with the room locked, on a thread that may block. What is done is recorded in the same breath.
async fn take_step(rooms: &Arc<Rooms>, room: &Arc<Room>, mut intake: Intake) -> Result<(Intake, Step, Option<Ticket>)> {
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || {
        let mut deciding = rooms.decide(&room);
        let view = Locked { deciding: &deciding, failed: Cell::new(None) };
        let step = intake.step(&view);
        if let Some(error) = view.failed.into_inner() {
            return Err(error);
        }
        let ticket = match &step {
            Step::Done(Ok(judged)) => {
                record(&mut deciding, judged)?;
                Some(deciding.commit()?)
            }
            _ => None,
        };
        Ok((intake, step, ticket))
    };
    tokio::task::spawn_blocking(work).await.map_err(Error::internal)?
}

/// Writes down what was decided.
fn record(deciding: &mut Deciding<'_>, judged: &[Judged]) -> Result<()> {
    for Judged { event, verdict, before } in judged {
        let standing = match verdict {
            Verdict::Accepted => Standing::Accepted,
            Verdict::SoftFailed(refusal) => {
                tracing::info!(event = %event.event_id, room = %event.room_id, "an event is kept back: {refusal}");
                Standing::SoftFailed
            }
            Verdict::Rejected(refusal) => {
                tracing::info!(event = %event.event_id, room = %event.room_id, "an event is rejected: {refusal}");
                Standing::Rejected
            }
            Verdict::Outlier => Standing::Outlier,
        };
        match state_before(deciding, before)? {
            Some(before) => drop(deciding.accept(event, &before, standing)?),
            None => drop(deciding.keep(event, standing)?),
        }
    }
    Ok(())
}

fn state_before(deciding: &mut Deciding<'_>, before: &Before) -> Result<Option<State>> {
    match before {
        Before::Unknown => Ok(None),
        Before::Nothing => Ok(Some(State::default())),
        Before::After(id) => {
            let known = deciding.by_id(id)?.ok_or_else(|| Error::internal(format!("event {id} is missing")))?;
            deciding.state_after(&known).map(Some)
        }
        Before::State(map) => {
            let numbers = map
                .values()
                .map(|id| number(deciding, id)?.ok_or_else(|| Error::internal(format!("event {id} is missing"))))
                .collect::<Result<Vec<_>>>()?;
            deciding.state_of(&numbers).map(Some)
        }
    }
}

fn number(deciding: &Deciding<'_>, id: &EventId) -> Result<Option<EventNo>> {
    Ok(deciding.write.get(EVENT_NUMBERS, &id.as_str().to_owned())?)
}

/// A locked room as `protocol::intake` looks at it.
struct Locked<'a, 'd> {
    deciding: &'a Deciding<'d>,
    failed: Cell<Option<Error>>,
}

impl Locked<'_, '_> {
    fn or_note<T>(&self, result: Result<Option<T>>) -> Option<T> {
        result.unwrap_or_else(|error| {
            self.failed.set(Some(error));
            None
        })
    }
}

impl View for Locked<'_, '_> {
    fn event(&self, id: &EventId) -> Option<Known> {
        let known = self.or_note(self.deciding.by_id(id))?;
        let rejected = known.standing == Standing::Rejected;
        (known.room == self.deciding.room.number).then(|| Known { event: Arc::clone(&known.event), rejected })
    }

    fn state_before(&self, id: &EventId) -> Option<StateId> {
        let known = self.or_note(self.deciding.by_id(id))?;
        known.before.filter(|_| known.room == self.deciding.room.number).map(|state| state.0)
    }

    fn extremities(&self) -> BTreeSet<OwnedEventId> {
        self.deciding.head().extremities.iter().map(|(_, id)| id.clone()).collect()
    }

    fn current_state(&self) -> StateId {
        self.deciding.head().state.number.0
    }

    fn entry(&self, state: StateId, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        let known = self.or_note(self.deciding.entry(StateNo(state), kind, state_key))?;
        Some(known.event.event_id.clone())
    }

    fn entries(&self, state: StateId) -> StateMap {
        self.or_note(self.deciding.entries(StateNo(state)).map(Some)).unwrap_or_default()
    }
}

/// Who is asked for what is missing: whoever sent the event, then some others in the room.
fn helpers(rooms: &Rooms, room: &Room, origin: &ServerName) -> Result<Vec<OwnedServerName>> {
    let others = forks::servers(rooms, room.number)?;
    let mut servers = crate::remote::candidates(&rooms.config, std::iter::once(origin.to_owned()).chain(others));
    servers.truncate(MOST_SERVERS);
    Ok(servers)
}

fn objects(room: &Room, pdus: impl IntoIterator<Item = Box<RawValue>>) -> Vec<Object> {
    pdus.into_iter().filter_map(|pdu| admit::object(&pdu, room.rules).ok()).collect()
}

/// The events between ours and a new one.
async fn gap(rooms: &Rooms, room: &Room, origin: &ServerName, target: &EventId) -> Result<Vec<Object>> {
    let ends = rooms.published(room.number)?.extremities;
    let ends = ends.into_iter().map(|number| Ok(rooms.known(number)?.event.event_id.clone()));
    let ends = ends.collect::<Result<Vec<_>>>()?;
    let mut request = get_missing_events::v1::Request::new(room.id.clone(), ends, vec![target.to_owned()]);
    request.limit = GAP.into();
    match rooms.remote.ask(origin, request).await {
        Ok(answer) => Ok(objects(room, answer.events)),
        Err(error) => {
            tracing::debug!(%origin, room = %room.id, %error, "no events for a gap");
            Ok(Vec::new())
        }
    }
}

/// Single events, as far as they can be had.
pub(super) async fn events(
    rooms: &Rooms,
    room: &Room,
    servers: &[OwnedServerName],
    ids: Vec<OwnedEventId>,
) -> Vec<Event> {
    let pdus: Vec<Option<Object>> =
        stream::iter(ids).map(|id| event(rooms, room, servers, id)).buffer_unordered(AT_ONCE).collect().await;
    admit::many(rooms, pdus.into_iter().flatten().collect(), room.rules).await
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

/// The state before an event, for `intake`.
async fn state(rooms: &Rooms, room: &Room, servers: &[OwnedServerName], id: OwnedEventId, intake: &mut Intake) {
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
            let request = get_room_state::v1::Request::new(id.clone(), room.id.clone());
            if let Ok(whole) = rooms.remote.ask(server, request).await {
                let pdus = objects(room, whole.auth_chain.into_iter().chain(whole.pdus));
                intake.supply(admit::many(rooms, pdus, room.rules).await);
            }
        }
        return intake.state(id, Some(answer.pdu_ids));
    }
    intake.state(id, None);
}
