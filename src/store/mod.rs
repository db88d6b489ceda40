//! What the server remembers: typed tables, and one log of all changes.
//!
//! Readers use [`Store::get`] and [`Store::scan`]: they see what is durable, and nothing else.
//! Whoever decides builds a [`Write`] while holding the lock of its subject (a room, a user):
//! [`Write::get`] sees also what is queued before it. `commit` queues the whole `Write` and returns
//! a [`Ticket`]; awaiting `published` answers when it is on the disk and readers see it.
//!
//! This layer knows no rule of Matrix.

mod archive;
mod compress;
mod copy;
mod digest;
pub mod disk;
mod engine;
mod home;
mod journal;
mod keeper;
pub mod key;
pub mod live;
pub mod log;
mod manifest;
pub mod migrate;
mod open;
mod overlay;
mod pipeline;
mod rebuild;
pub mod schema;
mod segments;
pub mod table;
#[cfg(test)]
pub(crate) mod tests;
pub mod verify;
mod write;

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::SystemTime,
};

use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

pub use self::{
    digest::{Digest, Digests},
    home::{Options, Progress, Sweep, Verifier},
    key::Key,
    log::{Position, Wakers},
    table::Table,
    write::{Slot, Ticket, Write},
};
use self::{
    engine::{Bytes, EngineError, Range},
    keeper::Keeper,
    open::Inner,
    pipeline::Core,
};
use crate::error::Error;

/// What can go wrong with the store.
#[derive(Debug, Clone)]
pub enum StoreError {
    /// A row that does not decode.
    BadRow {
        /// The table it stands in.
        table: &'static str,
    },
    /// Writing has stopped, and why; reading goes on.
    ReadOnly(String),
    /// A row that is longer than the engine takes. Nothing was saved.
    TooLarge {
        /// The table it was meant for.
        table: &'static str,
    },
    /// The disk or the engine failed.
    Engine(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRow { table } => write!(f, "a row of the table {table} cannot be read"),
            Self::TooLarge { table } => write!(f, "a row is too large for the table {table}"),
            Self::ReadOnly(why) => write!(f, "nothing can be saved: {why}"),
            Self::Engine(why) => write!(f, "the store failed: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::ReadOnly(why) => {
                let message = format!("this server cannot save anything at the moment: {why}");
                let mut answer = Self::new(StatusCode::SERVICE_UNAVAILABLE, "M_UNKNOWN", message);
                answer.cause = Some(error.into());
                answer
            }
            _ => Self::internal(error),
        }
    }
}

/// The store. Cheap to clone; the last clone that goes saves everything and lets the folder go.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What a store takes on the disk, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// How many rows there are.
    pub rows: u64,
    /// Their keys and values.
    pub bytes: u64,
    /// The engine's files.
    pub engine: u64,
    /// The journal that is kept.
    pub journal: u64,
    /// The archives.
    pub archives: u64,
}

/// The row of an iteration over a table.
pub type Row<K, V> = Result<(K, V), StoreError>;

/// Whatever rows can be read from: the [`Store`] shows what is published, a [`Write`] also what is queued.
pub trait Rows {
    /// The row at `key`.
    fn row<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError>;
}

impl Rows for Store {
    fn row<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        self.get(table, key)
    }
}

/// An iteration over a table, from both ends. It ends after its first error.
pub struct Scan<K, V> {
    rows: Range,
    table: Table<K, V>,
    core: Arc<Core>,
}

impl<K: Key, V: Serialize + DeserializeOwned> Scan<K, V> {
    fn decode(&mut self, row: Option<Result<(Bytes, Bytes), EngineError>>) -> Option<Row<K, V>> {
        let row = row?.map_err(|error| self.core.broken(&error));
        let row = row.and_then(|(key, value)| Ok((self.table.decode_key(&key)?, self.table.decode(&value)?)));
        if row.is_err() {
            self.rows = Range::None;
        }
        Some(row)
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> Iterator for Scan<K, V> {
    type Item = Row<K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        let row = self.rows.next();
        self.decode(row)
    }
}

impl<K: Key, V: Serialize + DeserializeOwned> DoubleEndedIterator for Scan<K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let row = self.rows.next_back();
        self.decode(row)
    }
}

impl Store {
    /// A store in memory, for tests.
    pub fn in_memory() -> Self {
        Self { inner: Arc::new(Inner::in_memory()) }
    }

    /// The rows of a store in memory, for a program that is started again after a crash. Whoever still uses the
    /// old one sees them too, and must not write any more.
    pub fn restarted(&self) -> Self {
        Self { inner: Arc::new(Inner::over(Arc::clone(&self.inner.core), self.inner.boot + 1)) }
    }

    /// Opens the store in a folder, or makes it. Whatever was being saved when it was last stopped is
    /// there, whole, or not at all.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        let sweeps = options.sweeps;
        let store = Self { inner: Arc::new(Inner::open(options)?) };
        sweeps.iter().try_for_each(|sweep| sweep(&store))?;
        Ok(store)
    }

    /// Makes a store in an empty folder from an archive. Its epoch is a new one.
    pub fn restore(options: &Options, archive: &Path) -> Result<(), StoreError> {
        rebuild::restore(options, archive)
    }

    /// The published row at `key`.
    pub fn get<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        self.core().get(table.name, &key.to_bytes())?.map(|bytes| table.decode(&bytes)).transpose()
    }

    /// Whether there is a published row at `key`.
    pub fn contains<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<bool, StoreError> {
        Ok(self.core().get(table.name, &key.to_bytes())?.is_some())
    }

    /// The published rows whose key begins with `prefix`, in the order of the keys; `()` is all rows.
    /// The iteration ends after its first error.
    pub fn scan<K: Key, V: Serialize + DeserializeOwned>(&self, table: Table<K, V>, prefix: &impl Key) -> Scan<K, V> {
        let prefix = prefix.to_bytes();
        let end = engine::after(&prefix);
        self.walk(table, prefix, end)
    }

    /// The published rows from `from` (included) up to `to` (excluded), in the order of the keys.
    /// Either end may be a shorter tuple: `(room, Position(5))` comes before `(room, Position(5), user)`.
    pub fn range<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        from: &impl Key,
        to: &impl Key,
    ) -> Scan<K, V> {
        self.walk(table, from.to_bytes(), Some(to.to_bytes()))
    }

    fn walk<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        from: Vec<u8>,
        to: Option<Vec<u8>>,
    ) -> Scan<K, V> {
        let core = Arc::clone(self.core());
        Scan { rows: core.engine().range(table.name, from, to), table, core }
    }

    /// A new, empty `Write`.
    pub fn write(&self) -> Write {
        Write::new(self.clone())
    }

    /// The published position: everything up to it is durable and visible.
    pub fn position(&self) -> Position {
        *self.core().position.borrow()
    }

    /// The published position as something to wait for, for followers of the log.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.core().position.subscribe()
    }

    /// Who waits for news.
    pub fn wakers(&self) -> &Wakers {
        &self.core().wakers
    }

    /// The epoch: positions of another epoch mean nothing here. It changes when a backup is restored, or
    /// the store was rebuilt with a loss.
    pub fn epoch(&self) -> u64 {
        self.inner.epoch
    }

    /// A random number of this start of the server.
    pub fn boot(&self) -> u64 {
        self.inner.boot
    }

    /// What happens without a trace on the disk.
    pub fn live(&self) -> &live::Live {
        &self.inner.live
    }

    /// What happened at the start that the owner should know, in sentences.
    pub fn notices(&self) -> &[String] {
        &self.inner.notices
    }

    /// An error while nothing can be saved, or when a row could not be read; it says what to do.
    pub fn health(&self) -> Result<(), StoreError> {
        match self.core().closed() {
            Some(closed) => Err(closed.error()),
            None if self.core().unhealthy.load(Ordering::Relaxed) => Err(StoreError::Engine(
                "a part of the store cannot be read; a restart looks through it and repairs it".into(),
            )),
            None => Ok(()),
        }
    }

    /// Makes everything saved so far quick to open: what otherwise happens now and then by itself.
    /// Blocks while the disk works.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        self.keeper().map_or(Ok(()), |keeper| keeper.checkpoint())
    }

    /// Makes an archive, proves it by restoring it, and returns its path. Blocks for as long as that
    /// takes; the store goes on meanwhile.
    pub fn archive(&self) -> Result<PathBuf, StoreError> {
        let none = || StoreError::ReadOnly("a store in memory has no archive".into());
        self.keeper().ok_or_else(none)?.archive()
    }

    /// Whether there is so much journal that an archive is worth its while.
    pub fn wants_archive(&self) -> Result<bool, StoreError> {
        self.keeper().map_or(Ok(false), |keeper| keeper.wants_archive())
    }

    /// Copies the rows into new files without dead space, and goes on with those. Blocks for as long as
    /// that takes; the store goes on meanwhile.
    pub fn compact(&self) -> Result<(), StoreError> {
        self.keeper().map_or(Ok(()), |keeper| keeper.compact())
    }

    /// Whether there is so much dead space that [`Store::compact`] is worth its while, and room for it.
    pub fn wants_compaction(&self) -> Result<bool, StoreError> {
        self.keeper().map_or(Ok(false), |keeper| keeper.wants_compaction())
    }

    /// When the newest archive was made, and where it is; nothing if there is none.
    pub fn newest_archive(&self) -> Option<(PathBuf, SystemTime)> {
        let path = self.keeper()?.newest_archive()?;
        let made = std::fs::metadata(&path).and_then(|metadata| metadata.modified()).ok()?;
        Some((path, made))
    }

    /// What was found damaged at some start, and was set aside: the paths of what is still there.
    pub fn set_aside(&self) -> Vec<PathBuf> {
        self.keeper().map(|keeper| keeper.set_aside()).unwrap_or_default()
    }

    /// How many rows each table has, and the bytes of their keys and values.
    pub fn tables(&self) -> Digests {
        self.core().applied.lock().digests.clone()
    }

    /// What the store takes on the disk.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        self.keeper().map_or_else(|| Ok(Usage::default()), |keeper| keeper.usage())
    }

    fn keeper(&self) -> Option<&Keeper> {
        self.inner.keeper.as_deref()
    }

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// The row at `key`, queued or published.
    fn queued<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        match self.core().overlay.get(table.name, &key.to_bytes()) {
            Some(queued) => queued.map(|bytes| table.decode(&bytes)).transpose(),
            None => self.get(table, key),
        }
    }

    /// Whether something newer than the published row at `key` is on its way to the disk.
    pub fn is_queued<K: Key, V: Serialize + DeserializeOwned>(&self, table: Table<K, V>, key: &K) -> bool {
        self.core().overlay.get(table.name, &key.to_bytes()).is_some()
    }

    /// Keeps everything that is queued from being published, until it is dropped.
    #[cfg(test)]
    pub(crate) fn hold(&self) -> impl Drop {
        struct Held<'a>(#[expect(dead_code, reason = "held")] parking_lot::MutexGuard<'a, segments::Reached>);
        impl Drop for Held<'_> {
            fn drop(&mut self) {}
        }
        Held(self.core().applied.lock())
    }

    fn number(&self) -> u64 {
        self.core().numbers.fetch_add(1, Ordering::Relaxed)
    }
}
