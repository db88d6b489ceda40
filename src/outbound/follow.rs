//! Reads the outbox and sends: one task per server that has something waiting.
//!
//! The outbox is divided among servers in order; how far each of them has got is remembered, so that a restart
//! goes on where it stopped. A server that does not answer costs one timer.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use ruma::{OwnedServerName, ServerName, events::room::member::MembershipState};
use tokio::{
    sync::{Notify, Semaphore},
    task::JoinSet,
    time::MissedTickBehavior,
};

use super::{
    acquaintance, edus,
    progress::Progress,
    queue::{Item, Queue},
};
use crate::{
    error::Result,
    rooms::{Rooms, forks},
    store::{
        Position,
        live::Change,
        schema::{
            RoomNo,
            federation::{OUTBOX, OutboxRow},
        },
    },
};

/// How many rows of the outbox are divided at once.
const STEP: usize = 500;
/// How often to look for servers that are to be told something once more.
const LOOK: Duration = Duration::from_secs(15);
/// Up to how many servers are no crowd: what is for them does not wait behind what is for one.
pub(super) const FEW: usize = 50;
/// Whoever is in a room with more servers is not told who is typing or there, and by the way how far somebody has read:
/// that would be thousands of requests each time.
pub(super) const MANY: usize = 200;
/// To how many servers something is sent at the same time, of what is for a crowd and of what is not.
const AT_ONCE: usize = 50;

/// The sending side of federation.
pub struct Outbound {
    pub(super) rooms: Arc<Rooms>,
    destinations: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    pub(super) transactions: AtomicU64,
    /// In the names of all transactions of this run.
    pub(super) run: String,
    /// Held also while what it speaks of gets into the queues.
    pub(super) progress: Mutex<Progress>,
    /// Turns of those that are sent something of a small room.
    pub(super) few: Semaphore,
    /// Turns of all others.
    pub(super) crowd: Semaphore,
    /// Whether somebody may have met a server again that is to be told once more.
    met: AtomicBool,
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
    pub(super) busy: Mutex<bool>,
    /// Told when there is more in the queue while a task is at work on it.
    pub(super) wake: Notify,
}

/// Follows the log until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    if !rooms.config.federation.enabled {
        return Ok(());
    }
    let outbound = Arc::new(Outbound {
        run: format!("{}-{}", rooms.store.epoch(), rooms.remote.chance.word(12)),
        progress: Mutex::new(Progress::load(&rooms.store)?),
        rooms,
        destinations: Mutex::default(),
        transactions: AtomicU64::new(0),
        few: Semaphore::new(AT_ONCE),
        crowd: Semaphore::new(AT_ONCE),
        met: AtomicBool::new(true),
        senders: Mutex::default(),
    });
    let following = Following(outbound);
    let outbound = &following.0;
    let mut log = outbound.rooms.store.watch();
    let mut live = outbound.rooms.store.live().outgoing();
    let mut at = outbound.resume()?;
    outbound.hello()?;
    let mut greeted = outbound.rooms.store.position();
    let mut looking = tokio::time::interval(LOOK);
    looking.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
            _ = looking.tick(), if outbound.met.load(Ordering::Relaxed) => {
                outbound.met.store(acquaintance::again(&outbound.rooms)?, Ordering::Relaxed);
            }
        }
    }
}

impl Outbound {
    /// Fills the queues with what had not arrived when the server last ran, and returns from where to go on.
    fn resume(self: &Arc<Self>) -> Result<Position> {
        let progress = self.progress.lock();
        let (oldest, divided) = (progress.oldest(), progress.divided);
        for row in self.rooms.store.range(OUTBOX, &Position(oldest.0 + 1), &Position(divided.0 + 1)) {
            let (at, row) = row?;
            let addressed = self.addressed_or_none(at, &row);
            let few = addressed.len() <= FEW;
            for (server, item) in addressed {
                if progress.of(server.as_str()).is_some_and(|sent| sent < at) {
                    self.push(server, at, item, few);
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
                let addressed = self.addressed_or_none(*at, row);
                let few = addressed.len() <= FEW;
                for (server, item) in addressed {
                    waiting.insert(server.clone());
                    items.push((server, *at, item, few));
                }
            }
            // Who waits is written down before anything is sent.
            let mut progress = self.progress.lock();
            let mut write = store.write();
            for server in &waiting {
                progress.begin(&mut write, server.as_str(), from);
            }
            progress.divide(&mut write, at);
            for (_, row) in &rows {
                let OutboxRow::Moved(room, mover) = row else { continue };
                match acquaintance::moved(&self.rooms, &mut write, *room, mover) {
                    Ok(met) => _ = self.met.fetch_or(met, Ordering::Relaxed),
                    Err(error) => {
                        tracing::error!(?row, ?error, "who has come or left cannot be read and is passed over");
                    }
                }
            }
            progress.forget(&mut write, store)?;
            drop(write.commit()?);
            for (server, at, item, few) in items {
                self.push(server, at, item, few);
            }
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
                // Whoever is removed or banned hears of it although they are not in the room. An invite was handed over
                // before it was put out.
                if known.event.kind == "m.room.member"
                    && known.event.membership() != Some(MembershipState::Invite)
                    && let Some(user) = known.event.state_key.as_deref()
                    && let Ok(user) = <&ruma::UserId>::try_from(user)
                {
                    servers.push(user.server_name().to_owned());
                }
                // Whoever joins, leaves or knocks with our help has the event already.
                servers.retain(|server| server != known.event.sender.server_name());
                to(servers, Item::Pdu(known.room, *number))
            }
            OutboxRow::ToRoom(room, edu) => {
                let servers = to(forks::servers(&self.rooms, *room)?, Item::Receipt);
                match servers.len() <= MANY {
                    true => servers,
                    false => self.mention(servers, edu),
                }
            }
            OutboxRow::ToServers(servers, _) => {
                let servers = servers.iter().filter_map(|server| OwnedServerName::try_from(server.as_str()).ok());
                to(servers.collect(), Item::Edu)
            }
            OutboxRow::Device { user, .. } | OutboxRow::SigningKeys(user) => {
                to(edus::sharing(&self.rooms, *user, usize::MAX)?, Item::Edu)
            }
            OutboxRow::Moved(..) => Vec::new(),
        })
    }

    /// Says something to many servers by the way: it goes out with whatever goes out next.
    fn mention(&self, servers: Vec<(OwnedServerName, Item)>, edu: &str) -> Vec<(OwnedServerName, Item)> {
        let edu = Arc::<str>::from(edu);
        for (server, _) in servers {
            self.destination(&server).queue.lock().add_aside(Arc::clone(&edu));
        }
        Vec::new()
    }

    pub(super) fn others(&self, room: RoomNo) -> Result<Vec<OwnedServerName>> {
        Ok(crate::remote::candidates(&self.rooms.config, forks::servers(&self.rooms, room)?))
    }

    pub(super) fn destination(&self, server: &ServerName) -> Arc<Destination> {
        Arc::clone(self.destinations.lock().entry(server.to_owned()).or_default())
    }

    fn push(self: &Arc<Self>, server: OwnedServerName, at: Position, item: Item, few: bool) {
        let destination = self.destination(&server);
        let mut queue = destination.queue.lock();
        queue.push(at, item);
        if few {
            queue.hurry();
        }
        drop(queue);
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
}
