//! Events from other servers: fetched for, judged and recorded.
//!
//! `protocol::intake` says what is missing and what becomes of an event; here it is fetched ([`fetch`]) and written down.
//! The room is locked only while a step is taken, never while another server is asked. One event of a room is
//! taken in at a time.
//!
//! Spec: server-server-api#checks-performed-on-receipt-of-a-pdu

mod fetch;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName};

pub(super) use self::fetch::events;
use super::{Room, Rooms, admit, append::Deciding, policy, state::State};
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{
        auth::Refusal,
        canonical::Object,
        event::Event,
        intake::{Before, Intake, Judged, Known, StateId, Step, Unjudged, Verdict, View},
        policy::PolicyServer,
        resolve::StateMap,
    },
    store::{
        Ticket,
        schema::{EventNo, StateNo, events::Standing, federation::INBOX, numbers::EVENT_NUMBERS},
    },
};

/// How many bytes of events are written together.
const WRITTEN_TOGETHER: usize = 256 * 1024;

/// An event that has passed the checks that need it alone, on its way into a room.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The event.
    pub event: Arc<Event>,
    /// Who has sent it, and is asked first for what is missing.
    pub origin: OwnedServerName,
    /// Its row in the inbox, which goes when the event is taken in.
    pub row: Option<u64>,
}

/// What became of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is in the room.
    Accepted,
    /// It is kept and not shown.
    SoftFailed(Refusal),
    /// It is kept and has no effect.
    Rejected(Refusal),
    /// It was here before.
    Known(Standing),
}

impl Arrival {
    /// An event that has just come from `origin`.
    pub fn new(event: Event, origin: &ServerName) -> Self {
        Self { event: Arc::new(event), origin: origin.to_owned(), row: None }
    }
}

impl Outcome {
    fn of(judged: &[Judged]) -> Self {
        match judged.last().map(|judged| &judged.verdict) {
            Some(Verdict::Rejected(refusal)) => Self::Rejected(refusal.clone()),
            Some(Verdict::SoftFailed(refusal)) => Self::SoftFailed(refusal.clone()),
            _ => Self::Accepted,
        }
    }
}

/// Takes in a PDU of a room that this server is in, while `origin` waits: it wants to know whether its user
/// has come in, or is out. When it returns, everything is durable.
///
/// Errors: 403 `M_FORBIDDEN` if the event is dropped or not accepted, with the reason.
pub async fn receive(rooms: &Arc<Rooms>, room: &Arc<Room>, origin: &ServerName, pdu: Object) -> Result<()> {
    receive_admitted(rooms, room, origin, admit::one(rooms, pdu, room.rules).await?).await
}

/// The same for an event whose signatures have been checked.
pub(super) async fn receive_admitted(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    origin: &ServerName,
    event: Event,
) -> Result<()> {
    if event.room_id != room.id {
        return Err(Error::forbidden("the event is of another room"));
    }
    let _in_turn = room.intake.lock().await;
    match take_in(rooms, room, Arrival::new(event, origin)).await? {
        Ok(Outcome::Accepted | Outcome::Known(Standing::Accepted | Standing::Outlier)) => Ok(()),
        Ok(Outcome::Rejected(refusal) | Outcome::SoftFailed(refusal)) => Err(Error::forbidden(refusal.to_string())),
        Ok(Outcome::Known(_)) => Err(Error::forbidden("the room has refused this event before")),
        Err(unjudged) => Err(Error::forbidden(format!("the event cannot be judged: {unjudged}"))),
    }
}

/// What [`at_once`] has done.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The events that were judged, in their order.
    pub outcomes: Vec<(OwnedEventId, Outcome)>,
    /// The others, for which something is missing.
    pub left: Vec<Arrival>,
    /// To be awaited: only then are the outcomes durable.
    pub tickets: Vec<Ticket>,
}

/// Takes in those events for which nothing has to be fetched. The caller holds `room.intake`. An error means
/// that some may have been taken in, and none is told of.
pub(super) async fn at_once(rooms: &Arc<Rooms>, room: &Arc<Room>, arrivals: Vec<Arrival>) -> Result<Taken> {
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || {
        let mut taken = Taken::default();
        let mut arrivals = arrivals.into_iter().peekable();
        while arrivals.peek().is_some() {
            let mut deciding = rooms.decide(&room);
            let mut bytes = 0;
            while bytes < WRITTEN_TOGETHER
                && let Some(arrival) = arrivals.next()
            {
                let Some(outcome) = judge_now(&mut deciding, &arrival)? else {
                    taken.left.push(arrival);
                    continue;
                };
                if let Some(row) = arrival.row {
                    deciding.write.delete(INBOX, &(room.number, row));
                }
                bytes += arrival.event.json().len();
                taken.outcomes.push((arrival.event.event_id.clone(), outcome));
            }
            if bytes > 0 {
                taken.tickets.push(deciding.commit()?);
            }
        }
        Ok(taken)
    };
    heavy::run(work).await?
}

/// Judges and records an event if nothing has to be fetched for it.
fn judge_now(deciding: &mut Deciding<'_>, arrival: &Arrival) -> Result<Option<Outcome>> {
    if let Some(outcome) = known_already(deciding, &arrival.event)? {
        return Ok(Some(outcome));
    }
    let mut intake = Intake::new(deciding.room.rules, Arc::clone(&arrival.event));
    loop {
        match look(deciding, &mut intake)? {
            Step::Record(judged) => drop(record(deciding, &judged)?),
            Step::Done(Ok(judged)) => {
                record(deciding, &judged)?;
                return Ok(Some(Outcome::of(&judged)));
            }
            _ => return Ok(None),
        }
    }
}

/// What is to be said of an event that has its place already, or whose ID another one has.
fn known_already(deciding: &Deciding<'_>, event: &Event) -> Result<Option<Outcome>> {
    Ok(match deciding.by_id(&event.event_id)? {
        Some(known) if deciding.is_another(&known, event) => Some(Outcome::Rejected(Refusal::IdTaken)),
        Some(known) if known.before.is_some() => Some(Outcome::Known(known.standing)),
        _ => None,
    })
}

/// Takes in one event, and fetches what it needs. The caller holds `room.intake`. When it returns an outcome,
/// everything is durable; if the event could not be judged, nothing has happened.
pub(super) async fn take_in(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    arrival: Arrival,
) -> Result<Result<Outcome, Unjudged>> {
    let Arrival { event, origin, row } = arrival;
    let servers = fetch::helpers(rooms, room, &origin)?;
    let mut intake = Intake::new(room.rules, event);
    let mut single = fetch::MOST_SINGLE;
    let mut whole = HashSet::new();
    let mut at_most = |mut ids: Vec<OwnedEventId>| {
        ids.truncate(single);
        single -= ids.len();
        ids
    };
    loop {
        let (stepped, step) = take_step(rooms, room, intake, row).await?;
        intake = stepped;
        match step {
            Stepped::Done(outcome, ticket) => {
                ticket.published().await?;
                return Ok(Ok(outcome));
            }
            Stepped::Asks(Step::NeedGap { before, missing }) => {
                let found = fetch::gap(rooms, room, &servers, before).await?;
                let found = admit::many(rooms, found, room.rules).await;
                let missing: Vec<_> =
                    missing.into_iter().filter(|id| !found.iter().any(|event| event.event_id == *id)).collect();
                intake.supply(fetch::first_of_their_ids(rooms, room, found));
                intake.supply(fetch::events(rooms, room, &servers, at_most(missing)).await);
            }
            Stepped::Asks(Step::Need(ids)) => {
                let found = fetch::events(rooms, room, &servers, at_most(ids.clone())).await;
                let lost = ids.into_iter().filter(|id| !found.iter().any(|event| event.event_id == *id)).collect();
                intake.supply(found);
                fetch::supply_states_of(rooms, room, &servers, &lost, &mut intake, &mut whole).await;
            }
            Stepped::Asks(Step::NeedState(id)) => {
                fetch::state(rooms, room, &servers, id, &mut intake, &mut whole).await
            }
            Stepped::Asks(Step::NeedApproval { policy, event }) => {
                intake.approve(policy::signed_by(rooms, &policy, vec![event], room.rules).await);
            }
            Stepped::Asks(Step::Done(Err(unjudged))) => return Ok(Err(unjudged)),
            Stepped::Asks(Step::Done(Ok(_)) | Step::Record(_)) => {
                return Err(Error::internal("what was judged was not recorded"));
            }
        }
    }
}

/// Where a step has led.
enum Stepped {
    /// The event is recorded, or was known.
    Done(Outcome, Ticket),
    /// Something is needed, or the event cannot be judged.
    Asks(Step),
}

/// Steps until something is needed, with the room locked, on a thread that may block. What is judged is recorded in
/// the same breath.
async fn take_step(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    mut intake: Intake,
    row: Option<u64>,
) -> Result<(Intake, Stepped)> {
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || {
        let mut deciding = rooms.decide(&room);
        let mut bytes = 0;
        let outcome = loop {
            if let Some(outcome) = known_already(&deciding, intake.target())? {
                break outcome;
            }
            match look(&mut deciding, &mut intake)? {
                Step::Record(judged) => bytes += record(&mut deciding, &judged)?,
                Step::Done(Ok(judged)) => {
                    record(&mut deciding, &judged)?;
                    tell_of_gaps(&deciding, &intake)?;
                    break Outcome::of(&judged);
                }
                step => {
                    if bytes > 0 {
                        drop(deciding.commit()?);
                    }
                    return Ok((intake, Stepped::Asks(step)));
                }
            }
            if bytes >= WRITTEN_TOGETHER {
                drop(deciding.commit()?);
                (deciding, bytes) = (rooms.decide(&room), 0);
            }
        };
        if let Some(row) = row {
            deciding.write.delete(INBOX, &(room.number, row));
        }
        let ticket = deciding.commit()?;
        Ok((intake, Stepped::Done(outcome, ticket)))
    };
    heavy::run(work).await?
}

/// What `protocol::intake` says of the room as it is now.
fn look(deciding: &mut Deciding<'_>, intake: &mut Intake) -> Result<Step> {
    let view = Locked { deciding: RefCell::new(deciding), failed: Cell::new(None) };
    let step = intake.step(&view);
    match view.failed.into_inner() {
        Some(error) => Err(error),
        None => Ok(step),
    }
}

/// Writes down what was decided; returns how many bytes of events that is.
fn record(deciding: &mut Deciding<'_>, judged: &[Judged]) -> Result<usize> {
    let mut bytes = 0;
    for Judged { event, verdict, before } in judged {
        bytes += event.json().len();
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
    Ok(bytes)
}

/// Says that a state that another server has given is not whole: it counts without what nobody has.
fn tell_of_gaps(deciding: &Deciding<'_>, intake: &Intake) -> Result<()> {
    for (before, ids) in intake.given_states() {
        let mut lacking = 0;
        for id in ids {
            lacking += usize::from(deciding.by_id(id)?.is_none());
        }
        if lacking > 0 {
            let (room, all) = (&deciding.room.id, ids.len());
            tracing::warn!(event = %before, %room, "of the state before {before}, {lacking} of {all} events are not to be had");
        }
    }
    Ok(())
}

fn state_before(deciding: &mut Deciding<'_>, before: &Before) -> Result<Option<State>> {
    match before {
        Before::Unknown => Ok(None),
        Before::Nothing => Ok(Some(State::default())),
        Before::Known(number) => deciding.rooms.state_in(&deciding.write, StateNo(*number)).map(Some),
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
    /// Changed only by states that are derived on the way.
    deciding: RefCell<&'a mut Deciding<'d>>,
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
        let known = self.or_note(self.deciding.borrow().by_id(id))?;
        let (rejected, soft_failed) = (known.standing == Standing::Rejected, known.standing == Standing::SoftFailed);
        let here = known.room == self.deciding.borrow().room.number;
        here.then(|| Known { event: Arc::clone(&known.event), rejected, soft_failed })
    }

    fn state_before(&self, id: &EventId) -> Option<StateId> {
        let known = self.or_note(self.deciding.borrow().by_id(id))?;
        known.before.filter(|_| known.room == self.deciding.borrow().room.number).map(|state| state.0)
    }

    fn extremities(&self) -> BTreeSet<OwnedEventId> {
        self.deciding.borrow().head().extremities.iter().map(|(_, id)| id.clone()).collect()
    }

    fn floor(&self) -> u64 {
        self.deciding.borrow().head().floor
    }

    fn current_state(&self) -> StateId {
        self.deciding.borrow().head().state.number.0
    }

    fn entry(&self, state: StateId, kind: &str, state_key: &str) -> Option<OwnedEventId> {
        let known = self.or_note(self.deciding.borrow().entry(StateNo(state), kind, state_key))?;
        Some(known.event.event_id.clone())
    }

    fn lacks_members(&self) -> bool {
        self.deciding.borrow().room.is_partial()
    }

    fn entries(&self, state: StateId) -> StateMap {
        self.or_note(self.deciding.borrow().entries(StateNo(state)).map(Some)).unwrap_or_default()
    }

    fn state_after_all(&self, events: &[&EventId]) -> Option<StateId> {
        let mut deciding = self.deciding.borrow_mut();
        let mut resolve = || {
            let mut states = Vec::with_capacity(events.len());
            for id in events {
                let known = deciding.by_id(id)?.ok_or_else(|| Error::internal(format!("event {id} is missing")))?;
                states.push(deciding.state_after(&known)?);
            }
            deciding.resolve(&states).map(|state| Some(state.number.0))
        };
        let state = resolve();
        self.or_note(state)
    }

    fn policy(&self) -> Option<PolicyServer> {
        self.or_note(self.deciding.borrow().policy())
    }
}
