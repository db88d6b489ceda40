//! Events of other servers on their way into a room: promised first, taken in as soon as that is possible.
//!
//! What passes the checks that an event can be given alone (format, signatures, hash) is durable before the
//! other server gets its answer. Most events are judged at once and are then in the room; one whose forerunners
//! are missing becomes a row, until [`run`] has fetched what is missing. Rooms are worked on beside each other; in
//! one room something is fetched for one event at a time, and what needs nothing does not wait for it. Servers take
//! turns. A restart goes on with the rows that there are.
//!
//! An event that nobody can complete is tried again later, and given up after a day. What becomes of an event
//! is not decided here, but in [`super::intake`].
//!
//! Spec: server-server-api#transactions

mod queue;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use tokio::task::JoinSet;

use self::queue::{Bounds, Queues};
use super::{
    Room, Rooms, admit,
    intake::{self, Arrival, Outcome},
    resident,
};
use crate::{
    error::{Error, Result},
    protocol::{canonical::Object, event::Event},
    store::{
        Store,
        schema::{
            RoomNo,
            federation::{INBOX, InboxRow},
        },
    },
};

/// How many events of one room may wait, and how many of all rooms: enough for an outage, and no more than a
/// small machine can hold.
const BOUNDS: Bounds = Bounds { in_room: 500, in_all: 5_000, give_way: BATCH };
/// How long something is fetched for one event: others of the room may be waiting for their turn.
const LONGEST_FETCH: Duration = Duration::from_secs(300);
/// How soon a server may try again for which there is no space at present.
const LATER: Duration = Duration::from_secs(30);
/// In how many rooms events are taken in at the same time.
const ROOMS_AT_ONCE: usize = 8;
/// How many events of a room are looked at together.
const BATCH: usize = 50;
/// How many bytes of events are written together.
const BATCH_BYTES: usize = 512 * 1024;
/// After how long an event is tried again for which something is missing, in milliseconds; after the last it
/// is given up.
const PAUSES: [u64; 6] = [60_000, 300_000, 1_800_000, 7_200_000, 21_600_000, 43_200_000];
/// How long the task sleeps at most: the clock may be turned.
const LONGEST_WAIT: u64 = 30_000;
/// How many servers' last transactions are remembered.
const MOST_ORIGINS: usize = 5_000;

/// What was answered about the events of a transaction.
pub type Results = BTreeMap<OwnedEventId, Result<(), String>>;

/// How many transactions of one server are remembered.
const MOST_REMEMBERED: usize = 4;

/// The newest transactions of a server with their answers. Held while one is worked on: a server sends one after
/// the other, and one that is repeated is answered as it was before.
#[derive(Debug, Default)]
pub struct Transactions(VecDeque<(String, Results)>);

impl Transactions {
    /// What was answered to a transaction.
    pub fn answered(&self, id: &str) -> Option<Results> {
        self.0.iter().find(|(known, _)| known == id).map(|(_, results)| results.clone())
    }

    /// Remembers what is answered to a transaction.
    pub fn remember(&mut self, id: &str, results: Results) {
        self.0.truncate(MOST_REMEMBERED - 1);
        self.0.push_front((id.to_owned(), results));
    }
}

/// What waits, and what was answered lately.
#[derive(Default)]
pub struct Inbox {
    queues: Queues,
    origins: Mutex<HashMap<OwnedServerName, Arc<tokio::sync::Mutex<Transactions>>>>,
    /// Held while rows are made, so that one that is noted is also queued.
    writing: Mutex<()>,
}

impl Inbox {
    /// The last transactions of a server, to be held while the next one is worked on.
    pub fn turn(&self, origin: &ServerName) -> Arc<tokio::sync::Mutex<Transactions>> {
        let mut origins = self.origins.lock();
        if origins.len() >= MOST_ORIGINS {
            origins.retain(|_, last| Arc::strong_count(last) > 1);
        }
        Arc::clone(origins.entry(origin.to_owned()).or_default())
    }

    /// Finds what an earlier run has left.
    fn load(&self, store: &Store) -> Result<()> {
        let mut rows = Vec::new();
        for row in store.scan(INBOX, &()) {
            let ((room, number), row) = row?;
            let origin = OwnedServerName::try_from(row.origin).map_err(Error::internal)?;
            rows.push((room, number, row.id, origin));
        }
        self.queues.load(rows);
        Ok(())
    }
}

/// Takes in events that `origin` has sent for a room that this server is in. When it returns, each of them is
/// durable, in the room or on its way there, or the result says why it is not.
///
/// Errors: 429 `M_LIMIT_EXCEEDED` if too much waits already.
pub async fn receive(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    origin: &ServerName,
    pdus: Vec<Object>,
) -> Result<Vec<(OwnedEventId, Result<(), String>)>> {
    make_space(rooms, room, origin).await?;
    let ids: Vec<Option<OwnedEventId>> = pdus.iter().map(|pdu| admit::event_id(pdu, room.rules)).collect();
    let mut results = Vec::new();
    let mut arrivals = Vec::new();
    for (id, event) in ids.into_iter().zip(admit::each(rooms, pdus, room.rules).await) {
        match (id, event) {
            (_, Ok(event)) if event.room_id != room.id => {
                results.push((event.event_id, Err("the event is of another room".to_owned())));
            }
            (_, Ok(event)) => arrivals.push(Arrival::new(event, origin)),
            (Some(id), Err(error)) => results.push((id, Err(error.to_string()))),
            (None, Err(error)) => tracing::debug!(%origin, room = %room.id, %error, "a PDU without an ID is dropped"),
        }
    }
    let mut waiting = arrivals.clone();
    if let Ok(in_turn) = room.intake.try_lock() {
        match intake::at_once(rooms, room, arrivals).await {
            Ok(taken) => {
                drop(in_turn);
                for ticket in taken.tickets {
                    ticket.published().await?;
                }
                taken.outcomes.iter().for_each(|(id, _)| rooms.inbox.queues.done(room.number, id));
                results.extend(taken.outcomes.into_iter().map(|(id, outcome)| (id, outcome.for_sender())));
                waiting = taken.left;
            }
            Err(error) => tracing::error!(room = %room.id, ?error, "events could not be taken in at once"),
        }
    }
    results.extend(waiting.iter().map(|arrival| (arrival.event.event_id.clone(), Ok(()))));
    keep(rooms, room, waiting).await?;
    Ok(results)
}

/// If too much waits already, whoever has sent most of it loses some.
///
/// Errors: 429 `M_LIMIT_EXCEEDED` if that is `origin`.
async fn make_space(rooms: &Rooms, room: &Room, origin: &ServerName) -> Result<()> {
    let Some((whose, rows)) = rooms.inbox.queues.make_space(room.number, origin, BOUNDS, LATER)? else { return Ok(()) };
    tracing::warn!(room = %room.id, server = %whose, "{} events from {whose} that lack something make room", rows.len());
    let ticket = {
        let mut write = rooms.store.write();
        rows.iter().for_each(|row| write.delete(INBOX, row));
        write.commit()?
    };
    ticket.published().await?;
    Ok(())
}

/// Makes rows of what cannot be judged at once.
async fn keep(rooms: &Rooms, room: &Room, arrivals: Vec<Arrival>) -> Result<()> {
    if arrivals.is_empty() {
        return Ok(());
    }
    let mut tickets = Vec::new();
    let mut arrivals = arrivals.into_iter().peekable();
    while arrivals.peek().is_some() {
        let _writing = rooms.inbox.writing.lock();
        let mut write = rooms.store.write();
        let mut bytes = 0;
        while bytes < BATCH_BYTES
            && let Some(arrival) = arrivals.next()
        {
            let (event, number) = (&arrival.event, write.number());
            // Several servers may send the same event. If it has a row, that one is queued for the disk by now.
            if rooms.inbox.queues.add(room.number, &event.event_id, &arrival.origin, number) {
                let row = InboxRow {
                    id: event.event_id.clone(),
                    origin: arrival.origin.to_string(),
                    json: event.json().to_owned(),
                    failures: 0,
                    retry: 0,
                };
                write.put(INBOX, &(room.number, number), &row);
                bytes += row.json.len();
            }
        }
        tickets.push(write.commit()?);
    }
    for ticket in tickets {
        ticket.published().await?;
    }
    rooms.inbox.queues.wake(room.number, 0);
    Ok(())
}

/// Takes in what waits, until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    rooms.inbox.load(&rooms.store)?;
    let queues = &rooms.inbox.queues;
    let mut workers = JoinSet::new();
    loop {
        while workers.len() < ROOMS_AT_ONCE
            && let Some(number) = queues.next(rooms.clock.now())
        {
            let rooms = Arc::clone(&rooms);
            workers.spawn(async move { (number, empty(&rooms, number).await) });
        }
        let wait = match queues.next_due() {
            Some(due) if workers.len() < ROOMS_AT_ONCE => due.saturating_sub(rooms.clock.now()).clamp(10, LONGEST_WAIT),
            _ => LONGEST_WAIT,
        };
        tokio::select! {
            () = queues.news.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(wait)) => {}
            Some(done) = workers.join_next() => match done.map_err(Error::internal)? {
                (number, Ok(next)) => queues.rest(number, next),
                (number, Err(error)) => {
                    tracing::error!(room = %number, ?error, "events of other servers wait, and are tried again in a minute");
                    queues.rest(number, Some(rooms.clock.now() + PAUSES[0]));
                }
            },
        }
    }
}

/// Takes in what waits in one room. Returns when to look again, if something is left.
async fn empty(rooms: &Arc<Rooms>, number: RoomNo) -> Result<Option<u64>> {
    // How often something was fetched for an event of each server.
    let mut turns = HashMap::<OwnedServerName, usize>::new();
    loop {
        let (rows, next) = due_rows(rooms, number)?;
        if rows.is_empty() {
            return Ok(next);
        }
        let Some(room) = rooms.open(number)?.filter(|room| resident::check_in_room(rooms, room).is_ok()) else {
            for (key, row) in rows {
                forget(rooms, number, key, &row.id).await?;
            }
            continue;
        };
        let mut arrivals = Vec::new();
        let mut by_id = HashMap::new();
        for (key, row) in rows {
            match arrival(&room, key, &row) {
                Ok(arrival) => {
                    by_id.insert(row.id.clone(), (key, row));
                    arrivals.push(arrival);
                }
                Err(error) => {
                    tracing::error!(event = %row.id, %error, "an event that was kept for later cannot be read");
                    forget(rooms, number, key, &row.id).await?;
                }
            }
        }
        let _in_turn = room.intake.lock().await;
        let left = all_at_once(rooms, &room, arrivals).await?;
        let patience = |arrival: &&Arrival| turns.get(&arrival.origin).copied().unwrap_or(0);
        let Some(next) = left.iter().min_by_key(patience).cloned() else { continue };
        *turns.entry(next.origin.clone()).or_default() += 1;
        let (key, row) = &by_id[&next.event.event_id];
        fetch_for(rooms, &room, next, *key, row).await?;
    }
}

/// Takes in what needs nothing more; returns the rest.
async fn all_at_once(rooms: &Arc<Rooms>, room: &Arc<Room>, arrivals: Vec<Arrival>) -> Result<Vec<Arrival>> {
    match intake::at_once(rooms, room, arrivals.clone()).await {
        Ok(taken) => {
            for ticket in taken.tickets {
                ticket.published().await?;
            }
            taken.outcomes.iter().for_each(|(id, _)| rooms.inbox.queues.done(room.number, id));
            Ok(taken.left)
        }
        // One of them is the culprit: they are tried one by one.
        Err(error) => {
            tracing::error!(room = %room.id, ?error, "events could not be taken in together");
            Ok(arrivals)
        }
    }
}

/// Takes in one event, and fetches what it needs. The caller holds `room.intake`.
async fn fetch_for(rooms: &Arc<Rooms>, room: &Arc<Room>, next: Arrival, key: u64, row: &InboxRow) -> Result<()> {
    let (id, event) = (next.event.event_id.clone(), Arc::clone(&next.event));
    let (why, missing) = match tokio::time::timeout(LONGEST_FETCH, intake::take_in(rooms, room, next)).await {
        Ok(Ok(Ok(_))) => {
            rooms.inbox.queues.done(room.number, &id);
            return Ok(());
        }
        Ok(Ok(Err(unjudged))) => (unjudged.to_string(), Some(missing(rooms, &event)?)),
        Ok(Err(error)) => {
            tracing::error!(event = %id, ?error, "an event could not be taken in");
            ("something went wrong on this server".to_owned(), None)
        }
        Err(_) => ("what it lacks could not be fetched in time".to_owned(), Some(missing(rooms, &event)?)),
    };
    put_off(rooms, room.number, key, row, &why, missing).await
}

/// Rows with their keys, and when the time of the next one comes.
type DueRows = (Vec<(u64, InboxRow)>, Option<u64>);

/// Some rows of a room whose time has come, and when that of the next one comes.
fn due_rows(rooms: &Rooms, room: RoomNo) -> Result<DueRows> {
    let _writing = rooms.inbox.writing.lock();
    let queued = rooms.store.write();
    let (due, next) = rooms.inbox.queues.due(room, rooms.clock.now());
    let (mut rows, mut bytes) = (Vec::new(), 0);
    for key in due {
        if rows.len() >= BATCH || bytes >= BATCH_BYTES {
            break;
        }
        match queued.get(INBOX, &(room, key))? {
            Some(row) => {
                bytes += row.json.len();
                rows.push((key, row));
            }
            None => rooms.inbox.queues.drop_row(room, key),
        }
    }
    Ok((rows, next))
}

fn arrival(room: &Room, key: u64, row: &InboxRow) -> Result<Arrival> {
    let json = row.json.clone().into_boxed_str();
    let event = Event::from_stored(row.id.clone(), room.id.clone(), json).map_err(Error::internal)?;
    let origin = OwnedServerName::try_from(row.origin.as_str()).map_err(Error::internal)?;
    Ok(Arrival { event: Arc::new(event), origin, row: Some(key) })
}

async fn forget(rooms: &Rooms, room: RoomNo, key: u64, id: &OwnedEventId) -> Result<()> {
    let ticket = {
        let mut write = rooms.store.write();
        write.delete(INBOX, &(room, key));
        write.commit()?
    };
    ticket.published().await?;
    rooms.inbox.queues.done(room, id);
    Ok(())
}

/// The events that an event names and that have no place in the room.
fn missing(rooms: &Rooms, event: &Event) -> Result<Vec<OwnedEventId>> {
    let mut missing = Vec::new();
    for id in event.prev_events.iter().chain(&event.auth_events) {
        if rooms.by_id(id)?.is_none_or(|known| known.before.is_none()) {
            missing.push(id.clone());
        }
    }
    Ok(missing)
}

/// Leaves an event alone for a while. One that waits for others that nobody has is given up in the end.
async fn put_off(
    rooms: &Rooms,
    room: RoomNo,
    key: u64,
    row: &InboxRow,
    why: &str,
    missing: Option<Vec<OwnedEventId>>,
) -> Result<()> {
    let pause = PAUSES.get(row.failures as usize).copied();
    if pause.is_none() && missing.is_some() {
        tracing::warn!(event = %row.id, server = %row.origin, "an event from {} is given up: {why}", row.origin);
        return forget(rooms, room, key, &row.id).await;
    }
    tracing::info!(event = %row.id, server = %row.origin, "an event from {} has to wait: {why}", row.origin);
    let pause = pause.unwrap_or(PAUSES[PAUSES.len() - 1]);
    let retry = rooms.clock.now() + pause;
    let row = InboxRow { failures: row.failures + 1, retry, ..row.clone() };
    if !rooms.inbox.queues.put_off(room, key, retry, missing.unwrap_or_default()) {
        return Ok(());
    }
    let ticket = {
        let mut write = rooms.store.write();
        write.put(INBOX, &(room, key), &row);
        write.commit()?
    };
    ticket.published().await?;
    Ok(())
}

impl Outcome {
    /// What the server is told that has sent the event.
    fn for_sender(self) -> Result<(), String> {
        match self {
            Self::Rejected(refusal) => Err(refusal.to_string()),
            Self::Accepted | Self::SoftFailed(_) | Self::Known(_) => Ok(()),
        }
    }
}
