//! What the server remembers: typed tables, and one log of all changes.
//!
//! Readers use [`Store::get`] and [`Store::scan`]: they see what is durable, and nothing else.
//! Whoever decides builds a [`Write`] while holding the lock of its subject (a room, a user):
//! [`Write::get`] sees also what is queued before it. `commit` queues the whole `Write` and returns
//! a [`Ticket`]; awaiting `published` answers when it is on the disk and readers see it.
//!
//! This layer knows no rule of Matrix.

mod digest;
pub mod disk;
mod engine;
mod journal;
mod keeper;
pub mod key;
pub mod live;
pub mod log;
mod manifest;
mod open;
mod overlay;
mod pipeline;
pub mod schema;
mod segments;
pub mod table;
#[cfg(test)]
mod tests;
mod write;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

use self::{
    engine::{Bytes, EngineError, Range},
    open::Inner,
    pipeline::Core,
};
pub use self::{
    key::Key,
    log::{Position, Wakers},
    open::Options,
    table::Table,
    write::{Slot, Ticket, Write},
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

    /// Opens the store in a folder, or makes it. Whatever was being saved when it was last stopped is
    /// there, whole, or not at all.
    pub fn open(options: Options) -> Result<Self, StoreError> {
        Ok(Self { inner: Arc::new(Inner::open(options)?) })
    }

    /// The published row at `key`.
    pub fn get<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        self.raw(table.name, &key.to_bytes())?.map(|bytes| table.decode(&bytes)).transpose()
    }

    /// Whether there is a published row at `key`.
    pub fn contains<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<bool, StoreError> {
        Ok(self.raw(table.name, &key.to_bytes())?.is_some())
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
        Scan { rows: core.engine.load().range(table.name, from, to), table, core }
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

    fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    fn raw(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let core = self.core();
        core.engine.load().get(table, key).map_err(|error| core.broken(&error))
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

    fn number(&self) -> u64 {
        self.core().numbers.fetch_add(1, Ordering::Relaxed)
    }
}
