//! From a commit to what readers see: one queue, one thread that journals, one that applies.
//!
//! A commit takes its place in the order under one short lock, so the order of the journal, of the
//! sequence numbers and of the positions is one. Everything queued while an fsync runs becomes the
//! next group. A group is applied to the engine only when it is durable, and published only when it
//! is applied.

use std::{
    collections::{HashMap, HashSet},
    io, mem,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use parking_lot::{Condvar, Mutex};
use tokio::sync::{oneshot, watch};

use super::{
    StoreError,
    digest::{Digest, Digests, set},
    disk::{Faults, Op},
    engine::{Bytes, Engine, EngineError},
    home,
    journal::{self, Change, Head, Header},
    keeper::Keeper,
    log::{Position, Wakers},
    overlay::Overlay,
    schema::{RoomNo, UserNo},
    segments::{Reached, Segment},
};

/// As many bytes may be queued and not yet applied; then commits wait.
const QUEUE: usize = 8 << 20;
/// What a thread keeps of the memory that a large group needed.
const SPARE: usize = 1 << 20;

/// What every thread of the store shares.
pub(super) struct Core {
    engine: ArcSwap<Engine>,
    /// The engine is open again.
    opened: Condvar,
    gate: Mutex<()>,
    pub overlay: Overlay,
    /// Names for which a number was given to a Write that is not queued yet.
    pub claims: Mutex<HashMap<Name, Claim>>,
    queue: Mutex<Queue>,
    /// There is something to journal, or the end.
    work: Condvar,
    /// There is room in the queue again.
    room: Condvar,
    /// The next number to give.
    pub numbers: AtomicU64,
    pub position: watch::Sender<Position>,
    pub wakers: Wakers,
    /// How far the engine is. Locked while a group is applied, so whoever holds it is between groups.
    pub applied: Mutex<Reached>,
    /// A row could not be read: the engine is looked through at the next start.
    pub unhealthy: AtomicBool,
    pub faults: Faults,
    /// Where it all lies; nowhere if the store is in memory.
    folder: Option<PathBuf>,
    /// Who looks after it all, if it is not in memory.
    pub keeper: OnceLock<Weak<Keeper>>,
    replaced: AtomicU64,
}

/// The table and key of a row.
pub(super) type Name = (&'static str, Vec<u8>);
/// The value of a row that several Writes may be about to set, and how many.
pub(super) type Claim = (Vec<u8>, usize);

struct Queue {
    /// The last sequence number and position that were given.
    sequence: u64,
    position: u64,
    /// What the tables will hold after everything queued.
    digests: Digests,
    waiting: Vec<Record>,
    /// The bytes that are queued and not yet applied.
    bytes: usize,
    closed: Option<Closed>,
    stopping: bool,
}

/// Why nothing is accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Closed {
    /// The disk is nearly full; it may get better.
    Full(String),
    /// The engine failed and is about to be opened again.
    Reopening(String),
    /// Something failed that only a restart mends.
    Failed(String),
}

/// A Write that has its place in the order.
pub(super) struct Record {
    sequence: u64,
    slots: u64,
    /// The last of its positions.
    position: u64,
    /// The highest number given up to it.
    numbers: u64,
    changes: Vec<Change>,
    /// What the tables that it changes hold after it.
    digests: Vec<(&'static str, Digest)>,
    news: News,
    /// Whoever waits, until they have an answer.
    done: Option<oneshot::Sender<Result<(), StoreError>>>,
    bytes: usize,
}

impl Record {
    fn answer(&mut self, result: Result<(), StoreError>) {
        // Whoever committed need not wait for it.
        let _ = self.done.take().map(|done| done.send(result));
    }
}

/// Whom a Write concerns.
#[derive(Default)]
pub(super) struct News {
    pub users: Vec<UserNo>,
    pub rooms: Vec<RoomNo>,
}

/// A durable group on its way to the engine.
pub(super) struct Durable {
    records: Vec<Record>,
    digests: Vec<(&'static str, Digest)>,
}

/// What a commit gives back: its first and last position, and what to wait for.
pub(super) struct Queued {
    pub first: Position,
    pub last: Position,
    pub done: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

impl Core {
    /// A store that stands at `reached`.
    pub fn new(engine: Engine, reached: Reached, faults: Faults, folder: Option<PathBuf>) -> Self {
        let position = Position(reached.position);
        let queue = Queue {
            sequence: reached.last,
            position: reached.position,
            digests: reached.digests.clone(),
            waiting: Vec::new(),
            bytes: 0,
            closed: None,
            stopping: false,
        };
        Self {
            engine: ArcSwap::from_pointee(engine),
            opened: Condvar::new(),
            gate: Mutex::default(),
            overlay: Overlay::default(),
            claims: Mutex::default(),
            queue: Mutex::new(queue),
            work: Condvar::new(),
            room: Condvar::new(),
            numbers: AtomicU64::new(reached.numbers + 1),
            position: watch::Sender::new(position),
            wakers: Wakers::new(position),
            applied: Mutex::new(reached),
            unhealthy: AtomicBool::new(false),
            faults,
            folder,
            keeper: OnceLock::new(),
            replaced: AtomicU64::new(0),
        }
    }

    /// Gives a Write of `slots` positions its place. `rows` makes its changes once the first position
    /// is known, no row twice; its error, or a closed store, means that nothing has happened.
    pub fn commit(
        &self,
        slots: u64,
        news: News,
        rows: impl FnOnce(Position) -> Result<Vec<Change>, StoreError>,
    ) -> Result<Queued, StoreError> {
        let mut queue = self.queue.lock();
        // Only who comes while the disk is far behind waits here, and only for one group.
        while queue.bytes > QUEUE && queue.closed.is_none() && !queue.stopping {
            self.room.wait(&mut queue);
        }
        if let Some(closed) = &queue.closed {
            return Err(closed.error());
        }
        if queue.stopping {
            return Err(StoreError::ReadOnly("the server is stopping".into()));
        }
        let first = Position(queue.position + 1);
        let last = Position(queue.position + slots);
        let changes = rows(first)?;
        if self.engine.load().is_memory() {
            queue.position = last.0;
            return self.commit_in_memory(queue, first, last, &changes, news);
        }
        let digests = self.digests(&mut queue.digests, &changes).map_err(|error| self.broken(&error))?;
        queue.sequence += 1;
        queue.position = last.0;
        self.overlay.insert(queue.sequence, &changes);
        let (done, receiver) = oneshot::channel();
        let bytes = changes.iter().map(size).sum::<usize>() + 256;
        queue.bytes += bytes;
        let sequence = queue.sequence;
        let numbers = self.numbers.load(Ordering::Relaxed) - 1;
        let position = last.0;
        queue.waiting.push(Record {
            sequence,
            slots,
            position,
            numbers,
            changes,
            digests,
            news,
            done: Some(done),
            bytes,
        });
        self.work.notify_one();
        Ok(Queued { first, last, done: Some(receiver) })
    }

    fn commit_in_memory(
        &self,
        queue: parking_lot::MutexGuard<'_, Queue>,
        first: Position,
        last: Position,
        changes: &[Change],
        news: News,
    ) -> Result<Queued, StoreError> {
        let engine = self.engine.load();
        for change in changes {
            engine
                .apply(change.table, &change.key, change.value.as_deref())
                .map_err(|error| StoreError::Engine(error.0))?;
        }
        self.wakers.note(&news.users, &news.rooms, last);
        self.position.send_replace(last);
        self.wakers.wake(&news.users);
        drop(queue);
        Ok(Queued { first, last, done: None })
    }

    /// Brings `digests` up to date with `changes`, and returns those of the tables that change.
    fn digests(&self, digests: &mut Digests, changes: &[Change]) -> Result<Vec<(&'static str, Digest)>, EngineError> {
        let mut changed: Vec<(&'static str, Digest)> = Vec::new();
        for change in changes {
            let at = changed.iter().position(|(table, _)| *table == change.table).unwrap_or_else(|| {
                changed.push((change.table, digests.get(change.table).copied().unwrap_or_default()));
                changed.len() - 1
            });
            let digest = &mut changed[at].1;
            if let Some(queued) = self.overlay.get(change.table, &change.key) {
                queued.iter().for_each(|old| digest.remove(&change.key, old));
            } else if let Some(old) = self.engine().get(change.table, &change.key)? {
                // The engine is looked up after the queue: what left the queue is in it by then.
                digest.remove(&change.key, &old);
            }
            change.value.iter().for_each(|new| digest.add(&change.key, new));
        }
        for (table, digest) in &changed {
            set(digests, table, *digest);
        }
        Ok(changed)
    }

    /// Notes that the engine cannot read a row, and puts it into words.
    pub fn broken(&self, error: &EngineError) -> StoreError {
        if error.is_space() {
            self.keeper.get().and_then(Weak::upgrade).iter().for_each(|keeper| keeper.trouble());
        } else if !error.is_closed() && !self.unhealthy.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %error.0, "the store cannot read a part of itself; a restart repairs it");
            self.folder.iter().for_each(|folder| drop(home::mark_suspect(folder)));
        }
        StoreError::Engine(error.0.clone())
    }

    /// Accepts nothing from now on. A graver reason is not replaced by a lesser one.
    pub fn close(&self, why: Closed) {
        let mut queue = self.queue.lock();
        if queue.closed.as_ref().is_none_or(|closed| closed.gravity() <= why.gravity()) {
            queue.closed = Some(why);
        }
        self.room.notify_all();
    }

    /// Accepts Writes again, if the reason not to is this one.
    pub fn open_again(&self, was: impl Fn(&Closed) -> bool) {
        let mut queue = self.queue.lock();
        if queue.closed.as_ref().is_some_and(was) {
            queue.closed = None;
        }
    }

    /// Why nothing is accepted, if that is so.
    pub fn closed(&self) -> Option<Closed> {
        self.queue.lock().closed.clone()
    }

    /// Whether everything that was journaled is in the engine, and every row could be read.
    pub fn sound(&self) -> bool {
        !matches!(self.closed(), Some(Closed::Failed(_) | Closed::Reopening(_)))
            && !self.unhealthy.load(Ordering::Relaxed)
    }

    /// Waits for a while, or until the store stops: then it says so.
    pub fn wait_for_stop(&self, time: Duration) -> bool {
        let mut queue = self.queue.lock();
        let until = Instant::now() + time;
        while !queue.stopping {
            if self.room.wait_until(&mut queue, until).timed_out() {
                break;
            }
        }
        queue.stopping
    }

    /// The engine, as soon as it is open.
    pub fn engine(&self) -> Arc<Engine> {
        let patience = Instant::now() + Duration::from_secs(10);
        loop {
            let engine = self.engine.load();
            if !matches!(**engine, Engine::Closed) || Instant::now() > patience {
                return Guard::into_inner(engine);
            }
            drop(engine);
            let mut gate = self.gate.lock();
            self.opened.wait_for(&mut gate, Duration::from_millis(50));
        }
    }

    /// Whether the engine is open; if not, it is about to be.
    pub fn is_open(&self) -> bool {
        !matches!(**self.engine.load(), Engine::Closed)
    }

    /// How often the engine was replaced.
    pub fn replaced(&self) -> u64 {
        self.replaced.load(Ordering::SeqCst)
    }

    /// The row at `key`; an engine that failed for want of space is opened again first.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let replaced = self.replaced();
        // Nobody may hold the engine while it is opened again.
        let row = self.engine().get(table, key);
        let row = match row {
            Err(error) if error.is_space() => {
                let keeper = self.keeper.get().and_then(Weak::upgrade);
                match keeper.map(|keeper| keeper.reopen(replaced)) {
                    Some(Ok(())) => self.engine().get(table, key),
                    _ => Err(error),
                }
            }
            other => other,
        };
        row.map_err(|error| self.broken(&error))
    }

    /// Goes on with another engine, and gives back the one before.
    pub fn replace(&self, engine: Engine) -> Arc<Engine> {
        let old = self.engine.swap(Arc::new(engine));
        self.replaced.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock());
        self.opened.notify_all();
        old
    }

    /// Lets the threads finish what is queued, and end.
    pub fn stop(&self) {
        self.queue.lock().stopping = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Everything that is queued, as soon as there is something; nothing at the end.
    fn take(&self) -> Option<Vec<Record>> {
        let mut queue = self.queue.lock();
        loop {
            if !queue.waiting.is_empty() {
                return Some(mem::take(&mut queue.waiting));
            }
            if queue.stopping {
                return None;
            }
            self.work.wait(&mut queue);
        }
    }

    /// Gives up what is queued behind a group that the disk did not take.
    fn abandon(&self, mut records: Vec<Record>, why: &str) {
        let mut queue = self.queue.lock();
        queue.closed = Some(Closed::Failed(format!("{why}; nothing can be saved until a restart")));
        records.append(&mut queue.waiting);
        queue.bytes = 0;
        drop(queue);
        self.room.notify_all();
        let error = StoreError::Engine(format!("{why}; whether the last changes are saved is unknown until a restart"));
        for mut record in records {
            self.overlay.remove(record.sequence, &record.changes);
            record.answer(Err(error.clone()));
        }
    }

    /// Shows a group to the readers. Who waits for news wakes once, to all of it.
    fn publish(&self, group: Durable) {
        let (mut bytes, mut users) = (0, HashSet::new());
        for record in &group.records {
            self.overlay.remove(record.sequence, &record.changes);
            self.wakers.note(&record.news.users, &record.news.rooms, Position(record.position));
            users.extend(&record.news.users);
            bytes += record.bytes;
        }
        if let Some(last) = group.records.last() {
            self.position.send_replace(Position(last.position));
        }
        self.wakers.wake(users);
        for mut record in group.records {
            record.answer(Ok(()));
        }
        let mut queue = self.queue.lock();
        let full = queue.bytes > QUEUE;
        queue.bytes = queue.bytes.saturating_sub(bytes);
        drop(queue);
        if full {
            self.room.notify_all();
        }
    }
}

impl Closed {
    fn gravity(&self) -> u8 {
        match self {
            Self::Full(_) => 0,
            Self::Reopening(_) => 1,
            Self::Failed(_) => 2,
        }
    }

    /// The same for whoever wants to write.
    pub fn error(&self) -> StoreError {
        match self {
            Self::Full(why) | Self::Reopening(why) | Self::Failed(why) => StoreError::ReadOnly(why.clone()),
        }
    }
}

fn size(change: &Change) -> usize {
    change.key.len() + change.value.as_ref().map_or(0, |value| value.len()) + 64
}

/// Where groups are written.
pub(super) struct Journal {
    pub folder: PathBuf,
    pub segment: Segment,
    /// What is true after the last durable group.
    pub reached: Reached,
    /// What the positions belong to.
    pub epoch: u64,
    /// A segment is not begun anew before it has this many bytes.
    pub limit: u64,
}

impl Journal {
    /// Begins a new segment at `reached`.
    pub fn begin(folder: &Path, reached: &Reached, epoch: u64, limit: u64, faults: &Faults) -> io::Result<Self> {
        let header = Header {
            id: rand::random(),
            epoch,
            schema: reached.schema,
            first: reached.last + 1,
            position: reached.position,
            numbers: reached.numbers,
            digests: reached.digests.clone(),
        };
        let segment = Segment::create(folder, &header, faults)?;
        Ok(Self { folder: folder.to_owned(), segment, reached: reached.clone(), epoch, limit })
    }

    /// Makes records durable as one group.
    fn append(&mut self, records: &[Record], buffer: &mut Vec<u8>, faults: &Faults) -> io::Result<Digested> {
        if self.segment.offset >= self.limit {
            *self = Self::begin(&self.folder, &self.reached, self.epoch, self.limit, faults)?;
        }
        let (Some(first), Some(last)) = (records.first(), records.last()) else { return Ok(Vec::new()) };
        let mut digests: Digested = Vec::new();
        for (table, digest) in records.iter().flat_map(|record| &record.digests) {
            match digests.iter_mut().find(|(name, _)| name == table) {
                Some((_, old)) => *old = *digest,
                None => digests.push((table, *digest)),
            }
        }
        let head = Head {
            first: first.sequence,
            last: last.sequence,
            synced: self.reached.last,
            position: last.position,
            numbers: last.numbers,
        };
        let (id, chain) = self.segment.link();
        buffer.clear();
        buffer.shrink_to(SPARE);
        let writes = records.iter().map(|record| (record.slots, &record.changes[..]));
        let checksum = journal::encode(buffer, id, chain, &head, &digests, writes);
        self.segment.append(buffer, checksum)?;
        self.reached.advance(&head, digests.iter().copied());
        Ok(digests)
    }
}

type Digested = Vec<(&'static str, Digest)>;

impl Reached {
    /// Moves on over a group.
    pub fn advance<'a>(&mut self, head: &Head, digests: impl Iterator<Item = (&'a str, Digest)>) {
        self.last = head.last;
        self.position = head.position;
        self.numbers = head.numbers;
        for (table, digest) in digests {
            set(&mut self.digests, table, digest);
        }
    }
}

/// The thread that makes groups durable. Ends when the store stops, or with the first error.
pub(super) fn journal_thread(keeper: &Keeper, mut journal: Journal, to_engine: &mpsc::Sender<Durable>) {
    let core = &keeper.core;
    let mut buffer = Vec::new();
    while let Some(records) = core.take() {
        match journal.append(&records, &mut buffer, &core.faults) {
            Ok(digests) => {
                if to_engine.send(Durable { records, digests }).is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(%error, "the journal cannot be written");
                // Never tried again: after a failed fsync nobody knows what the disk holds.
                core.abandon(records, &format!("the disk failed while saving ({error})"));
                return;
            }
        }
        keeper.look_at_space();
    }
}

/// The thread that applies what is durable, and publishes it.
pub(super) fn apply_thread(keeper: &Keeper, from_journal: &mpsc::Receiver<Durable>) {
    let core = &keeper.core;
    while let Ok(mut group) = from_journal.recv() {
        if let Err(error) = core.apply(&group) {
            // It is in the journal: nothing is lost, but it may take long until it is seen.
            let answer = StoreError::ReadOnly(format!("it is saved, but cannot be shown yet: {}", error.0));
            group.records.iter_mut().for_each(|record| record.answer(Err(answer.clone())));
            if !keeper.recover(&error, &mut || core.apply(&group)) {
                return;
            }
        }
        let bytes = group.records.iter().map(|record| record.bytes).sum();
        core.publish(group);
        keeper.applied(bytes);
    }
}

impl Core {
    fn apply(&self, group: &Durable) -> Result<(), EngineError> {
        self.faults.check(Op::Apply)?;
        let mut applied = self.applied.lock();
        let engine = self.engine();
        // The engine may panic on a damaged page.
        let result = catch_unwind(AssertUnwindSafe(|| {
            for change in group.records.iter().flat_map(|record| &record.changes) {
                engine.apply(change.table, &change.key, change.value.as_deref())?;
            }
            Ok(())
        }));
        result.unwrap_or_else(|_| Err(EngineError("the engine panicked".into())))?;
        if let (Some(first), Some(last)) = (group.records.first(), group.records.last()) {
            let (first, position, numbers) = (first.sequence, last.position, last.numbers);
            let head = Head { first, last: last.sequence, synced: 0, position, numbers };
            applied.advance(&head, group.digests.iter().copied());
        }
        Ok(())
    }
}
