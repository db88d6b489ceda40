//! The past of a room, from before this server came in: fetched when somebody reads that far.
//!
//! Such events get a place in the history of the room and none in its timeline: nobody is told about them, and
//! they change nothing.
//!
//! Spec: server-server-api#backfilling-and-retrieving-missing-events

use std::{collections::HashSet, sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, ServerName, UInt,
    api::federation::{
        backfill::get_backfill,
        event::{get_event_by_timestamp, get_room_state_ids},
    },
};

use super::{
    Room, Rooms, admit, append::Deciding, cache::Known, forks, history::Direction, intake, policy,
    projections::relations, redaction, retention,
};
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{event::Event, graph, policy::PolicyServer},
    remote::Patience,
    store::{
        Position, Ticket,
        schema::{
            RoomNo,
            events::{HISTORY, Standing},
        },
    },
};

/// How many events are fetched at once.
const PAGE: u32 = 100;
/// How many servers are asked.
const MOST_SERVERS: usize = 3;
/// How many events are fetched when only one of them is wanted.
const FEW: u32 = 10;
/// How many policy servers, which a room may have had one after the other, are asked about one page.
const MOST_POLICY_SERVERS: usize = 3;
/// How patient a question is: somebody waits for the answer.
const ASK: Patience = Patience { timeout: Duration::from_secs(15), limit: 8 * 1024 * 1024, insist: false };

/// For how long nobody is asked again for what nobody had, in milliseconds.
const SILENCE: u64 = 300_000;
/// How many such disappointments are remembered.
const MOST_IN_VAIN: usize = 10_000;

/// What was asked for in vain lately: the event, and until when it is not asked for again.
pub struct InVain(Cache<OwnedEventId, u64>);

impl Default for InVain {
    fn default() -> Self {
        Self(Cache::new(MOST_IN_VAIN))
    }
}

/// Whether other servers are in the room, which may know more of its past.
pub fn is_shared(rooms: &Rooms, room: RoomNo) -> Result<bool> {
    Ok(!crate::remote::candidates(&rooms.config, forks::servers(rooms, room)?).is_empty())
}

/// Whether an event has a place in the history here, or had one: what was removed does not come back.
fn is_placed(rooms: &Rooms, id: &EventId) -> Result<bool> {
    let placed = |known: Arc<Known>| known.before.is_some() || known.standing == Standing::Rejected;
    Ok(rooms.by_id(id)?.is_some_and(placed) || retention::is_removed(rooms, id)?)
}

/// Whether somebody who only hears what arrives has missed something before this event of another server: it is not
/// here, or was fetched later.
pub fn follows_gap(rooms: &Rooms, known: &Known) -> Result<bool> {
    if rooms.is_local(&known.event.sender) {
        return Ok(false);
    }
    for id in &known.event.prev_events {
        if !is_placed(rooms, id)? {
            return Ok(true);
        }
        let Some(before) = rooms.by_id(id)? else { continue };
        let place = (before.room, before.event.depth, before.number);
        if rooms.store.get(HISTORY, &place)? == Some(Position(0)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The newest of some events of the history before which something is missing here.
pub fn gap<'a>(rooms: &Rooms, events: impl IntoIterator<Item = &'a Arc<Known>>) -> Result<Option<Arc<Known>>> {
    let events: Vec<_> = events.into_iter().collect();
    let shown: HashSet<&OwnedEventId> = events.iter().map(|known| &known.event.event_id).collect();
    let mut newest: Option<&Arc<Known>> = None;
    for known in &events {
        let older = newest.is_some_and(|newest| newest.event.depth >= known.event.depth);
        let missing = |id: &OwnedEventId| Ok::<_, Error>(!shown.contains(id) && !is_placed(rooms, id)?);
        if !older && known.event.prev_events.iter().map(missing).collect::<Result<Vec<_>>>()?.contains(&true) {
            newest = Some(known);
        }
    }
    Ok(newest.cloned())
}

/// The oldest event of the history here, if something before it is missing.
pub fn oldest(rooms: &Rooms, room: RoomNo) -> Result<Option<Arc<Known>>> {
    let Some(first) = rooms.store.scan(HISTORY, &(room,)).next() else { return Ok(None) };
    gap(rooms, [&rooms.known(first?.0.2)?])
}

/// Fetches what was before an event of the history. Returns whether there is more history now than there was.
pub async fn fill(rooms: &Arc<Rooms>, room: &Arc<Room>, before: &Known) -> Result<bool> {
    let servers = servers(rooms, room, Some(before.event.sender.server_name()))?;
    fetch(rooms, room, &before.event.event_id, PAGE, &servers).await
}

/// Fetches an event that has no place in the history here, with a few of those before it. Returns whether it has one
/// now.
pub async fn find(rooms: &Arc<Rooms>, room: &Arc<Room>, id: &EventId) -> Result<bool> {
    if retention::is_removed(rooms, id)? {
        return Ok(false);
    }
    fetch(rooms, room, id, FEW, &servers(rooms, room, None)?).await?;
    is_placed(rooms, id)
}

/// Fetches the event of the room that is closest to a moment (milliseconds since the epoch), as another server sees
/// it. Returns whether there is more history now than there was.
pub async fn find_at(rooms: &Arc<Rooms>, room: &Arc<Room>, moment: u64, direction: Direction) -> Result<bool> {
    let direction = match direction {
        Direction::Forward => ruma::api::Direction::Forward,
        Direction::Backward => ruma::api::Direction::Backward,
    };
    let moment = MilliSecondsSinceUnixEpoch(UInt::new_saturating(moment));
    for server in servers(rooms, room, None)? {
        let request = get_event_by_timestamp::v1::Request::new(room.id.clone(), moment, direction);
        match rooms.remote.ask_with(&server, request, ASK).await {
            Ok(answer) if is_placed(rooms, &answer.event_id)? => return Ok(false),
            Ok(answer) => return fetch(rooms, room, &answer.event_id, FEW, &[server]).await,
            Err(error) => tracing::debug!(%server, room = %room.id, %error, "nothing at that time"),
        }
    }
    Ok(false)
}

/// Who is asked: the server that should know first, then some others in the room.
fn servers(rooms: &Rooms, room: &Room, first: Option<&ServerName>) -> Result<Vec<OwnedServerName>> {
    let others = forks::servers(rooms, room.number)?;
    let first = first.filter(|first| others.iter().any(|other| other == first)).map(ToOwned::to_owned);
    let mut servers = crate::remote::candidates(&rooms.config, first.into_iter().chain(others));
    servers.truncate(MOST_SERVERS);
    Ok(servers)
}

/// Fetches an event, unless it is here, with what was before it, and gives it all a place. Returns whether anything
/// is new.
async fn fetch(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    from: &EventId,
    limit: u32,
    servers: &[OwnedServerName],
) -> Result<bool> {
    let _in_turn = room.filling.lock().await;
    let now = rooms.clock.now();
    if rooms.in_vain.0.get(from).is_some_and(|until| until > now) {
        return Ok(false);
    }
    for server in servers {
        let request = get_backfill::v1::Request::new(room.id.clone(), vec![from.to_owned()], UInt::from(limit));
        let answer = match rooms.remote.ask_with(server, request, ASK).await {
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
    rooms.in_vain.0.insert(from.to_owned(), now + SILENCE);
    Ok(false)
}

/// Those of the events that have no place in the room yet, oldest first.
fn new_events(rooms: &Rooms, room: &Room, events: Vec<Event>) -> Result<Vec<Arc<Event>>> {
    let mut fresh = Vec::new();
    for event in events {
        if event.room_id == room.id && !is_placed(rooms, &event.event_id)? {
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
    let (state, mut events, mut asked) = (Arc::new(state), events, HashSet::new());
    let mut rounds = 0;
    loop {
        if rounds == MOST_POLICY_SERVERS {
            asked.extend(events.iter().map(|event| event.event_id.clone()));
        }
        rounds += 1;
        let (policy, unapproved) = match settle(rooms, room, Arc::clone(&state), events.clone(), asked.clone()).await? {
            Settled::Done(ticket) => {
                ticket.published().await?;
                return Ok(true);
            }
            Settled::Unapproved(policy, unapproved) => (policy, unapproved),
        };
        asked.extend(unapproved.iter().map(|event| event.event_id.clone()));
        for signed in policy::signed_by(rooms, &policy, unapproved, room.rules).await {
            if let Some(event) = events.iter_mut().find(|event| event.event_id == signed.event_id) {
                *event = Arc::new(signed);
            }
        }
    }
}

/// What has come of an attempt to give events their place.
enum Settled {
    /// They have it.
    Done(Ticket),
    /// A policy server has to be asked about some of them first.
    Unapproved(Box<PolicyServer>, Vec<Arc<Event>>),
}

/// Gives the events their place, unless a policy server has to be asked about some that it was not asked about.
async fn settle(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    state: Arc<Vec<OwnedEventId>>,
    events: Vec<Arc<Event>>,
    asked: HashSet<OwnedEventId>,
) -> Result<Settled> {
    let (rooms, room) = (Arc::clone(rooms), Arc::clone(room));
    let work = move || {
        let mut deciding = rooms.decide(&room);
        // What has arrived on its own in the meantime has its place.
        let mut fresh = Vec::new();
        for event in events {
            if deciding.by_id(&event.event_id)?.is_none_or(|known| known.before.is_none()) {
                fresh.push(event);
            }
        }
        match record(&mut deciding, &state, &fresh, &asked)? {
            None => Ok(Settled::Done(deciding.commit()?)),
            Some((policy, unapproved)) => Ok(Settled::Unapproved(Box::new(policy), unapproved)),
        }
    };
    heavy::run(work).await?
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

/// The state before an event whose forerunners all have their place here.
fn state_before(deciding: &mut Deciding<'_>, event: &Event) -> Result<Option<super::state::State>> {
    let mut states = Vec::new();
    for id in &event.prev_events {
        match deciding.by_id(id)?.filter(|known| known.before.is_some() && known.room == deciding.room.number) {
            Some(known) => states.push(deciding.state_after(&known)?),
            None => return Ok(None),
        }
    }
    if states.is_empty() { Ok(None) } else { deciding.resolve(&states).map(Some) }
}

/// Records the events, or says about which of them a policy server has to be asked.
fn record(
    deciding: &mut Deciding<'_>,
    state: &[OwnedEventId],
    events: &[Arc<Event>],
    asked: &HashSet<OwnedEventId>,
) -> Result<Option<(PolicyServer, Vec<Arc<Event>>)>> {
    let mut numbers = Vec::new();
    for id in state {
        let id: &EventId = id;
        numbers.extend(deciding.by_id(id)?.map(|known| known.number));
    }
    let mut before = match numbers.is_empty() {
        true => super::state::State::default(),
        false => deciding.state_of(&numbers)?,
    };
    let mut unapproved: Option<(PolicyServer, Vec<Arc<Event>>)> = None;
    for event in events {
        // Some of what comes right before it may have been here already.
        if let Some(own) = state_before(deciding, event)? {
            before = own;
        }
        let mut standing = match deciding.check_at(&before, event) {
            Ok(()) => Standing::Accepted,
            Err(_) => Standing::Rejected,
        };
        // The policy server of that time has signed what it had nothing against.
        if standing == Standing::Accepted
            && let Some(policy) = deciding.policy_at(&before)?
            && !policy.recommends(event, deciding.room.rules)
        {
            standing = Standing::SoftFailed;
            if !asked.contains(&event.event_id) {
                // One policy server after the other, if the room has had several.
                let (whom, open) = unapproved.get_or_insert_with(|| (policy.clone(), Vec::new()));
                open.extend((*whom == policy).then(|| Arc::clone(event)));
            }
        }
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
    Ok(unapproved)
}
