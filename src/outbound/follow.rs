//! Reads the outbox and sends: one task per server that has something waiting.
//!
//! The outbox is divided among servers in order; how far each of them has got is remembered, so that a restart
//! goes on where it stopped. A server that does not answer costs one timer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName};
use serde_json::value::RawValue;
use tokio::{sync::Notify, time::timeout};

use super::{
    edus,
    queue::{Batch, Item, Queue},
};
use crate::{
    error::Result,
    remote::{Patience, RemoteError},
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
    /// Held while [`SENT`] changes.
    writing: Mutex<()>,
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
        rooms,
        destinations: Mutex::default(),
        transactions: AtomicU64::new(0),
        writing: Mutex::default(),
    });
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
            for (server, item) in self.addressed(&row)? {
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
                for (server, item) in self.addressed(row)? {
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
            drop(writing);
            for (server, at, item) in items {
                self.push(server, at, item);
            }
        }
    }

    /// Whom a row is for.
    fn addressed(&self, row: &OutboxRow) -> Result<Vec<(OwnedServerName, Item)>> {
        let to = |servers: Vec<OwnedServerName>, item: Item| {
            let servers = crate::remote::candidates(&self.rooms.config, servers);
            servers.into_iter().map(|server| (server, item)).collect()
        };
        Ok(match row {
            OutboxRow::Pdu(number) => {
                let known = self.rooms.known(*number)?;
                let mut servers = forks::servers(&self.rooms, known.room)?;
                // Whoever is invited, removed or banned hears of it although they are not in the room.
                if known.event.kind == "m.room.member"
                    && let Some(user) = known.event.state_key.as_deref()
                    && let Ok(user) = <&ruma::UserId>::try_from(user)
                {
                    servers.push(user.server_name().to_owned());
                }
                to(servers, Item::Pdu(known.room, *number))
            }
            OutboxRow::ToRoom(room, _) => to(forks::servers(&self.rooms, *room)?, Item::Edu),
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
        tokio::spawn(async move {
            outbound.send_all(&server, &destination).await;
        });
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
                && let Err(error) = self.delivered(server, up_to)
            {
                tracing::warn!(%server, ?error, "cannot save how far {server} has got");
            }
        }
    }

    /// Sends one transaction until it has arrived.
    async fn deliver(&self, server: &ServerName, destination: &Destination, batch: &Batch) {
        let remote = &self.rooms.remote;
        let body = match self.transaction(batch) {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(%server, ?error, "a transaction for {server} cannot be made");
                return;
            }
        };
        let count = self.transactions.fetch_add(1, Ordering::Relaxed);
        let store = &self.rooms.store;
        let uri = format!("/_matrix/federation/v1/send/{}-{}-{count}", store.epoch(), store.boot());
        let mut told = false;
        loop {
            let answer =
                remote.send(server, http::Method::PUT, uri.clone(), Some(body.clone()), TRANSACTION, true).await;
            let until = match answer {
                Ok(answer) if answer.status().is_success() => return,
                // A server that refuses the whole transaction will refuse it again.
                Ok(answer)
                    if answer.status().is_client_error() && answer.status() != http::StatusCode::TOO_MANY_REQUESTS =>
                {
                    tracing::warn!(%server, status = %answer.status(), "{server} refuses what it is sent");
                    return;
                }
                Ok(_) | Err(RemoteError::Failed(_) | RemoteError::Refused { .. } | RemoteError::Nonsense(_)) => {
                    remote.back_off.until(server, self.rooms.clock.now())
                }
                Err(RemoteError::LeftAlone { until }) => Some(until),
            };
            destination.queue.lock().drop_passing();
            if !std::mem::replace(&mut told, true) {
                tracing::info!(%server, "{server} does not answer; what is for it waits");
            }
            let now = self.rooms.clock.now();
            let pause = Duration::from_millis(until.map_or(1_000, |until| until.saturating_sub(now).max(50)));
            self.rest(server, pause.min(LONGEST_PAUSE)).await;
        }
    }

    /// Waits until a server is worth another try: after the pause, or as soon as it has shown itself.
    async fn rest(&self, server: &ServerName, pause: Duration) {
        let shown = self.rooms.remote.back_off.returned();
        let wait = async {
            loop {
                shown.notified().await;
                if self.rooms.remote.back_off.until(server, self.rooms.clock.now()).is_none() {
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
        let pdus = batch.pdus.iter().map(|number| Ok(self.rooms.known(*number)?.event.to_pdu()));
        let mut edus = Vec::new();
        for at in &batch.edus {
            let row = self.rooms.store.get(OUTBOX, at)?;
            edus.extend(row.map(|row| edus::write(&self.rooms, &row)).transpose()?.flatten().and_then(edus::raw));
        }
        edus.extend(batch.passing.iter().cloned().filter_map(edus::raw));
        let transaction = Transaction {
            origin: &self.rooms.config.server_name,
            origin_server_ts: self.rooms.clock.now(),
            pdus: pdus.collect::<Result<_>>()?,
            edus,
        };
        serde_json::to_vec(&transaction).map_err(crate::error::Error::internal)
    }

    /// Notes how far a server has got, and forgets what nobody waits for any more.
    fn delivered(&self, server: &ServerName, up_to: Position) -> Result<()> {
        let store = &self.rooms.store;
        let _writing = self.writing.lock();
        let mut write = store.write();
        write.put(SENT, &server.as_str().to_owned(), &up_to);
        let mut oldest = up_to;
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
