//! Reads the outbox and sends: one task per server that has something waiting.
//!
//! The outbox is divided among servers in order; how far each of them has got is remembered, so that a restart
//! goes on where it stopped. A server that does not answer costs one timer.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::{
    sync::{Notify, futures::Notified},
    task::JoinSet,
    time::timeout,
};

use super::{
    edus,
    queue::{self, Batch, Item, Queue},
};
use crate::{
    error::Result,
    remote::{Patience, back_off},
    rooms::{Rooms, forks},
    store::{
        Position,
        live::Change,
        schema::{
            RoomNo,
            federation::{DIVIDED, OUTBOX, OutboxRow, SENT},
        },
    },
};

/// How many rows of the outbox are divided at once.
const STEP: usize = 500;
/// How far a silent server may fall behind the log before what waits for it is no longer kept on the disk.
const LONGEST_WAIT: u64 = 200_000;
/// The longest pause before a server that did not answer is tried again, if nothing else happens.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// How patient a transaction is.
const TRANSACTION: Patience = Patience { timeout: Duration::from_secs(60), limit: 1024 * 1024, insist: false };

/// The sending side of federation.
pub struct Outbound {
    pub(super) rooms: Arc<Rooms>,
    destinations: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    transactions: AtomicU64,
    /// In the names of all transactions of this run.
    run: String,
    /// Held while [`SENT`] changes, and while what it speaks of gets into the queues.
    writing: Mutex<()>,
    /// Those who send.
    senders: Mutex<JoinSet<()>>,
}

/// When nobody follows the log any more, nobody sends.
struct Following(Arc<Outbound>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.senders.lock().abort_all();
    }
}

#[derive(Default)]
pub(super) struct Destination {
    pub(super) queue: Mutex<Queue>,
    /// Whether a task is at work on the queue.
    busy: Mutex<bool>,
    wake: Notify,
}

/// Follows the log until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    if !rooms.config.federation.enabled {
        return Ok(());
    }
    let outbound = Arc::new(Outbound {
        run: format!("{}-{}", rooms.store.epoch(), rooms.remote.chance.word(12)),
        rooms,
        destinations: Mutex::default(),
        transactions: AtomicU64::new(0),
        writing: Mutex::default(),
        senders: Mutex::default(),
    });
    let following = Following(outbound);
    let outbound = &following.0;
    let mut log = outbound.rooms.store.watch();
    let mut live = outbound.rooms.store.live().outgoing();
    let mut at = outbound.resume()?;
    let mut greeted = outbound.rooms.store.position();
    loop {
        let published = *log.borrow_and_update();
        at = outbound.divide(at, published)?;
        outbound.greet(greeted, published)?;
        greeted = published;
        tokio::select! {
            changed = log.changed() => if changed.is_err() { return Ok(()) },
            change = live.recv() => match change {
                Ok(Change::Typing(change)) => outbound.typing(&change)?,
                Ok(Change::Presence(user)) => outbound.presence(user)?,
                Err(_) => {}
            },
        }
    }
}

impl Outbound {
    /// Fills the queues with what had not arrived when the server last ran, and returns from where to go on.
    fn resume(self: &Arc<Self>) -> Result<Position> {
        let store = &self.rooms.store;
        let divided = store.get(DIVIDED, &())?.unwrap_or_default();
        let sent = store.scan(SENT, &()).collect::<Result<HashMap<String, Position>, _>>()?;
        let Some(oldest) = sent.values().min().copied() else { return Ok(divided) };
        for row in store.range(OUTBOX, &Position(oldest.0 + 1), &Position(divided.0 + 1)) {
            let (at, row) = row?;
            for (server, item) in self.addressed_or_none(at, &row) {
                if sent.get(server.as_str()).is_some_and(|sent| *sent < at) {
                    self.push(server, at, item);
                }
            }
        }
        Ok(divided)
    }

    /// Divides what is new in the outbox among the servers.
    fn divide(self: &Arc<Self>, from: Position, published: Position) -> Result<Position> {
        let store = &self.rooms.store;
        let mut at = from;
        loop {
            let rows: Vec<_> = store
                .range(OUTBOX, &Position(at.0 + 1), &Position(published.0 + 1))
                .take(STEP)
                .collect::<Result<_, _>>()?;
            let Some((last, _)) = rows.last() else { return Ok(at) };
            at = *last;
            let mut waiting = BTreeSet::new();
            let mut items = Vec::new();
            for (at, row) in &rows {
                for (server, item) in self.addressed_or_none(*at, row) {
                    waiting.insert(server.clone());
                    items.push((server, *at, item));
                }
            }
            // Who waits is written down before anything is sent.
            let writing = self.writing.lock();
            let mut write = store.write();
            for server in &waiting {
                let key = server.as_str().to_owned();
                if write.get(SENT, &key)?.is_none() {
                    write.put(SENT, &key, &from);
                }
            }
            write.put(DIVIDED, &(), &at);
            drop(write.commit()?);
            for (server, at, item) in items {
                self.push(server, at, item);
            }
            drop(writing);
        }
    }

    /// Whom the row at a position is for. One that cannot be read is passed over: it must not hold up all the others.
    fn addressed_or_none(&self, at: Position, row: &OutboxRow) -> Vec<(OwnedServerName, Item)> {
        self.addressed(at, row).unwrap_or_else(|error| {
            tracing::error!(?row, ?error, "something for other servers cannot be read and is not sent");
            Vec::new()
        })
    }

    /// Whom the row at a position is for.
    fn addressed(&self, at: Position, row: &OutboxRow) -> Result<Vec<(OwnedServerName, Item)>> {
        let to = |servers: Vec<OwnedServerName>, item: Item| {
            let servers = crate::remote::candidates(&self.rooms.config, servers).into_iter();
            servers.filter(|server| self.rooms.remote.permitted.is(server)).map(|server| (server, item)).collect()
        };
        Ok(match row {
            OutboxRow::Pdu(number) => {
                let known = self.rooms.known(*number)?;
                let mut servers = forks::servers_at(&self.rooms, known.room, at)?;
                // Whoever is invited, removed or banned hears of it although they are not in the room.
                if known.event.kind == "m.room.member"
                    && let Some(user) = known.event.state_key.as_deref()
                    && let Ok(user) = <&ruma::UserId>::try_from(user)
                {
                    servers.push(user.server_name().to_owned());
                }
                // Whoever joins, leaves or knocks with our help has the event already.
                servers.retain(|server| server != known.event.sender.server_name());
                to(servers, Item::Pdu(known.room, *number))
            }
            OutboxRow::ToRoom(room, _) => to(forks::servers(&self.rooms, *room)?, Item::Receipt),
            OutboxRow::ToServers(servers, _) => {
                let servers = servers.iter().filter_map(|server| OwnedServerName::try_from(server.as_str()).ok());
                to(servers.collect(), Item::Edu)
            }
            OutboxRow::Device { user, .. } | OutboxRow::SigningKeys(user) => {
                to(edus::sharing(&self.rooms, *user)?, Item::Edu)
            }
        })
    }

    pub(super) fn others(&self, room: RoomNo) -> Result<Vec<OwnedServerName>> {
        Ok(crate::remote::candidates(&self.rooms.config, forks::servers(&self.rooms, room)?))
    }

    pub(super) fn destination(&self, server: &ServerName) -> Arc<Destination> {
        Arc::clone(self.destinations.lock().entry(server.to_owned()).or_default())
    }

    fn push(self: &Arc<Self>, server: OwnedServerName, at: Position, item: Item) {
        let destination = self.destination(&server);
        destination.queue.lock().push(at, item);
        self.work(server, destination);
    }

    /// Makes sure that somebody works on a queue.
    pub(super) fn work(self: &Arc<Self>, server: OwnedServerName, destination: Arc<Destination>) {
        let mut busy = destination.busy.lock();
        if *busy {
            destination.wake.notify_one();
            return;
        }
        *busy = true;
        drop(busy);
        let outbound = Arc::clone(self);
        let mut senders = self.senders.lock();
        while senders.try_join_next().is_some() {}
        senders.spawn(async move { outbound.send_all(&server, &destination).await });
    }

    async fn send_all(&self, server: &ServerName, destination: &Destination) {
        loop {
            let next = destination.queue.lock().take();
            let Some(batch) = next else {
                let mut busy = destination.busy.lock();
                if destination.queue.lock().is_empty() {
                    *busy = false;
                    return;
                }
                continue;
            };
            self.deliver(server, destination, &batch).await;
            if let Some(up_to) = batch.up_to
                && let Err(error) = self.delivered(server, destination, up_to)
            {
                tracing::warn!(%server, ?error, "cannot save how far {server} has got");
            }
        }
    }

    /// Sends one transaction until it has arrived.
    async fn deliver(&self, server: &ServerName, destination: &Destination, batch: &Batch) {
        let back_off = &self.rooms.remote.back_off;
        let count = self.transactions.fetch_add(1, Ordering::Relaxed);
        let uri = format!("/_matrix/federation/v1/send/{}-{count}", self.run);
        let (mut silent, mut refusals) = (false, 0);
        loop {
            // Listened for from before the attempt on: the server may show itself at any moment.
            let mut shown = pin!(back_off.returned().notified());
            shown.as_mut().enable();
            let now = self.rooms.clock.now();
            let attempt = match back_off.until(server, now) {
                Some(_) => Attempt::Silence,
                None => self.attempt(server, &uri, batch).await,
            };
            let (now, mut until) = (self.rooms.clock.now(), back_off.until(server, self.rooms.clock.now()));
            match attempt {
                Attempt::Arrived => {
                    if silent {
                        tracing::info!(%server, "{server} is back and gets what waited for it");
                    }
                    return;
                }
                Attempt::Refused(status) => {
                    refusals += 1;
                    let again = queue::is_worth_another_try(status, refusals);
                    let outcome = if again { "it is tried again later" } else { "it is given up" };
                    tracing::warn!(%server, %status, refusals, "{server} refuses what it is sent; {outcome}");
                    if !again {
                        return;
                    }
                    let jitter = u64::from_le_bytes(self.rooms.remote.chance.bytes());
                    until = until.max(Some(now + back_off::pause(refusals, jitter)));
                }
                Attempt::Silence => {
                    destination.queue.lock().drop_passing();
                    if !std::mem::replace(&mut silent, true) {
                        tracing::info!(%server, "{server} does not answer; what is for it waits");
                    }
                }
            }
            let pause = Duration::from_millis(until.map_or(1_000, |until| until.saturating_sub(now).max(50)));
            match refusals {
                0 => self.rest(server, pause.min(LONGEST_PAUSE), shown).await,
                // That it talks to us does not mean that it listens.
                _ => tokio::time::sleep(pause).await,
            }
        }
    }

    /// Sends a transaction once. It is made anew for each attempt, so that a silent server costs no memory.
    async fn attempt(&self, server: &ServerName, uri: &str, batch: &Batch) -> Attempt {
        let body = match self.transaction(batch) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%server, ?error, "a transaction for {server} cannot be made");
                return Attempt::Silence;
            }
        };
        let (remote, method) = (&self.rooms.remote, http::Method::PUT);
        match remote.send(server, method, uri.to_owned(), Some(body), TRANSACTION, true).await {
            Ok(answer) if answer.status().is_success() => {
                tell_refusals(server, answer.body());
                Attempt::Arrived
            }
            Ok(answer)
                if answer.status().is_client_error() && answer.status() != http::StatusCode::TOO_MANY_REQUESTS =>
            {
                Attempt::Refused(answer.status())
            }
            Ok(_) | Err(_) => Attempt::Silence,
        }
    }

    /// Waits until a server is worth another try: after the pause, or as soon as it has shown itself.
    async fn rest<'a>(&'a self, server: &ServerName, pause: Duration, mut shown: Pin<&mut Notified<'a>>) {
        let back_off = &self.rooms.remote.back_off;
        let wait = async {
            loop {
                shown.as_mut().await;
                shown.set(back_off.returned().notified());
                shown.as_mut().enable();
                if back_off.until(server, self.rooms.clock.now()).is_none() {
                    return;
                }
            }
        };
        // Both ends of the pause lead to the same: another try.
        drop(timeout(pause, wait).await);
    }

    fn transaction(&self, batch: &Batch) -> Result<Vec<u8>> {
        #[derive(serde::Serialize)]
        struct Transaction<'a> {
            origin: &'a ServerName,
            origin_server_ts: u64,
            pdus: Vec<Box<RawValue>>,
            #[serde(skip_serializing_if = "Vec::is_empty")]
            edus: Vec<Box<RawValue>>,
        }
        // What cannot be read is left out: it must not keep back everything else.
        let readable = |what: Result<Option<Box<RawValue>>>| {
            what.unwrap_or_else(|error| {
                tracing::error!(?error, "something for other servers cannot be read and is not sent");
                None
            })
        };
        let pdu = |number| Ok(Some(self.rooms.known(number)?.event.to_pdu()));
        let edu = |at| {
            let Some(row) = self.rooms.store.get(OUTBOX, at)? else { return Ok(None) };
            Ok(edus::write(&self.rooms, &row)?.and_then(edus::raw))
        };
        let pdus = batch.pdus.iter().filter_map(|number| readable(pdu(*number)));
        let edus = batch.edus.iter().filter_map(|at| readable(edu(at)));
        let transaction = Transaction {
            origin: &self.rooms.config.server_name,
            origin_server_ts: self.rooms.clock.now(),
            pdus: pdus.collect(),
            edus: edus.chain(batch.passing.iter().cloned().filter_map(edus::raw)).collect(),
        };
        serde_json::to_vec(&transaction).map_err(crate::error::Error::internal)
    }

    /// Notes how far a server has got, and forgets what nobody waits for any more.
    fn delivered(&self, server: &ServerName, destination: &Destination, up_to: Position) -> Result<()> {
        let store = &self.rooms.store;
        let _writing = self.writing.lock();
        let mut write = store.write();
        let key = server.as_str().to_owned();
        // A server for which nothing waits holds up nothing.
        match destination.queue.lock().is_empty() {
            true => write.delete(SENT, &key),
            false => write.put(SENT, &key, &up_to),
        }
        let mut oldest = store.get(DIVIDED, &())?.unwrap_or_default();
        for (server, sent) in write.scan(SENT, &())? {
            match up_to.0.saturating_sub(sent.0) > LONGEST_WAIT {
                true => write.delete(SENT, &server),
                false => oldest = oldest.min(sent),
            }
        }
        let done: Vec<Position> = store
            .range(OUTBOX, &Position(0), &Position(oldest.0 + 1))
            .take(STEP)
            .map(|row| Ok(row?.0))
            .collect::<Result<_>>()?;
        for at in done {
            write.delete(OUTBOX, &at);
        }
        drop(write.commit()?);
        Ok(())
    }
}

/// What became of an attempt to send a transaction.
enum Attempt {
    Arrived,
    Refused(http::StatusCode),
    Silence,
}

/// Says which events of a transaction another server has not taken.
fn tell_refusals(server: &ServerName, answer: &[u8]) {
    #[derive(serde::Deserialize)]
    struct Answer {
        pdus: BTreeMap<String, Outcome>,
    }
    #[derive(serde::Deserialize)]
    struct Outcome {
        error: Option<String>,
    }
    let Ok(Answer { pdus }) = serde_json::from_slice(answer) else { return };
    for (event, outcome) in pdus.iter().take(queue::MOST_PDUS) {
        if let Some(error) = &outcome.error {
            tracing::info!(%server, event, error, "{server} does not take an event");
        }
    }
}
