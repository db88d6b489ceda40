//! What the server remembers: typed tables, and one log of all changes.
//!
//! Readers use [`Store::get`] and [`Store::scan`]: they see what is durable, and nothing else.
//! Whoever decides builds a [`Write`] while holding the lock of its subject (a room, a user):
//! [`Write::get`] sees also what is queued before it. `commit` queues the whole `Write` and returns
//! a [`Ticket`]; awaiting `published` answers when it is on the disk and readers see it.
//!
//! This layer knows no rule of Matrix.

pub mod key;
pub mod live;
pub mod log;
pub mod schema;
pub mod table;
mod write;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::RwLock;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;

pub use self::{
    key::Key,
    log::{Position, Wakers},
    table::Table,
    write::{Slot, Ticket, Write},
};

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
    /// The disk or the engine failed.
    Engine(String),
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadRow { table } => write!(f, "a row of the table {table} cannot be read"),
            Self::ReadOnly(why) => write!(f, "nothing can be saved: {why}"),
            Self::Engine(why) => write!(f, "the store failed: {why}"),
        }
    }
}

impl std::error::Error for StoreError {}

type Memory = BTreeMap<(&'static str, Vec<u8>), Vec<u8>>;

struct Inner {
    rows: RwLock<Memory>,
    numbers: AtomicU64,
    position: watch::Sender<Position>,
    wakers: Wakers,
    live: live::Live,
}

/// The store. Cheap to clone.
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

/// An iteration over a table, from both ends.
pub struct Scan<K, V>(std::vec::IntoIter<Row<K, V>>);

impl<K, V> Iterator for Scan<K, V> {
    type Item = Row<K, V>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next()
    }
}

impl<K, V> DoubleEndedIterator for Scan<K, V> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.0.next_back()
    }
}

impl Store {
    /// A store in memory, for tests.
    pub fn in_memory() -> Self {
        Self {
            inner: Arc::new(Inner {
                rows: RwLock::default(),
                numbers: AtomicU64::new(1),
                position: watch::Sender::new(Position(0)),
                wakers: Wakers::new(Position(0)),
                live: live::Live::default(),
            }),
        }
    }

    /// The published row at `key`.
    pub fn get<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        self.raw(table.name, &key.to_bytes()).map(|bytes| table.decode(&bytes)).transpose()
    }

    /// Whether there is a published row at `key`.
    pub fn contains<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<bool, StoreError> {
        Ok(self.raw(table.name, &key.to_bytes()).is_some())
    }

    /// The published rows whose key begins with `prefix`, in the order of the keys; `()` is all rows.
    /// The iteration ends after its first error.
    pub fn scan<K: Key, V: Serialize + DeserializeOwned>(&self, table: Table<K, V>, prefix: &impl Key) -> Scan<K, V> {
        let prefix = prefix.to_bytes();
        self.walk(table, prefix.clone(), move |key| key.starts_with(&prefix))
    }

    /// The published rows from `from` (included) up to `to` (excluded), in the order of the keys.
    /// Either end may be a shorter tuple: `(room, Position(5))` comes before `(room, Position(5), user)`.
    pub fn range<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        from: &impl Key,
        to: &impl Key,
    ) -> Scan<K, V> {
        let to = to.to_bytes();
        self.walk(table, from.to_bytes(), move |key| key < &to[..])
    }

    fn walk<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        from: Vec<u8>,
        within: impl Fn(&[u8]) -> bool,
    ) -> Scan<K, V> {
        let rows = self.inner.rows.read();
        let rows: Vec<_> = rows
            .range((table.name, from)..)
            .take_while(|((name, key), _)| *name == table.name && within(key))
            .map(|((_, key), value)| Ok((table.decode_key(key)?, table.decode(value)?)))
            .collect();
        Scan(rows.into_iter())
    }

    /// A new, empty `Write`.
    pub fn write(&self) -> Write {
        Write::new(self.clone())
    }

    /// The published position: everything up to it is durable and visible.
    pub fn position(&self) -> Position {
        *self.inner.position.borrow()
    }

    /// The published position as something to wait for, for followers of the log.
    pub fn watch(&self) -> watch::Receiver<Position> {
        self.inner.position.subscribe()
    }

    /// Who waits for news.
    pub fn wakers(&self) -> &Wakers {
        &self.inner.wakers
    }

    /// The epoch: positions of another epoch mean nothing here.
    pub fn epoch(&self) -> u64 {
        1
    }

    /// A number of this start of the server.
    pub fn boot(&self) -> u64 {
        1
    }

    /// What happens without a trace on the disk.
    pub fn live(&self) -> &live::Live {
        &self.inner.live
    }

    fn raw(&self, table: &'static str, key: &[u8]) -> Option<Vec<u8>> {
        self.inner.rows.read().get(&(table, key.to_vec())).cloned()
    }

    fn number(&self) -> u64 {
        self.inner.numbers.fetch_add(1, Ordering::Relaxed)
    }
}
