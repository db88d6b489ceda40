//! The one file that names sled: rows as bytes, in tables by name.
//!
//! sled never decides what is durable: it holds what the journal has already made durable, and is
//! rebuilt when it cannot be trusted. So there are no transactions here, no flush per write, and no
//! background thread that cleans up; space is given back by copying into a new folder. Long values are
//! compressed on their way into its files ([`compress`]).

use std::{
    collections::{BTreeMap, HashMap},
    ops::{Bound, Deref},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::RwLock;

use super::{
    compress,
    digest::{Digest, Digests, set},
    disk,
};

/// The engine failed, and how.
#[derive(Debug, Clone)]
pub(super) struct EngineError(pub String);

impl EngineError {
    /// Whether the engine is only between closing and opening again.
    pub fn is_closed(&self) -> bool {
        self.0 == CLOSED
    }

    /// Whether there was no space. After that sled refuses everything, reading too, until it is opened
    /// again; nothing is wrong with its files.
    pub fn is_space(&self) -> bool {
        ["No space left", "StorageFull", "quota exceeded", "QuotaExceeded"].iter().any(|text| self.0.contains(text))
    }
}

impl From<sled::Error> for EngineError {
    fn from(error: sled::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<std::io::Error> for EngineError {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Bytes of a row.
#[derive(Clone)]
pub(super) enum Bytes {
    Engine(sled::IVec),
    Shared(Arc<[u8]>),
    Unpacked(Vec<u8>),
}

impl Bytes {
    /// The value behind what the engine's files hold.
    fn unpack(stored: sled::IVec) -> Result<Self, EngineError> {
        match compress::unpack(&stored) {
            Ok(None) => Ok(Self::Engine(stored)),
            Ok(Some(bytes)) => Ok(Self::Unpacked(bytes)),
            Err(compress::Unreadable) => Err(EngineError("a value is damaged".into())),
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Engine(bytes) => bytes,
            Self::Shared(bytes) => bytes,
            Self::Unpacked(bytes) => bytes,
        }
    }
}

/// Where rows are kept.
pub(super) enum Engine {
    /// On disk.
    Disk(Disk),
    /// In memory, for tests.
    Memory(RwLock<HashMap<String, Arc<MemoryTable>>>),
    /// Between closing and opening again.
    Closed,
}

pub(super) struct Disk {
    db: sled::Db,
    folder: PathBuf,
    trees: RwLock<HashMap<String, sled::Tree>>,
}

/// A table in memory.
pub(super) type MemoryTable = RwLock<BTreeMap<Arc<[u8]>, Arc<[u8]>>>;

const CLOSED: &str = "the store is being opened again";

impl Engine {
    /// Opens or makes the engine in `folder`, with `cache` bytes for pages.
    pub fn open(folder: &Path, cache: u64) -> Result<Self, EngineError> {
        // The length of a segment is not what costs memory at the start, and it bounds the length of a
        // value that is kept inside the log: a quarter of it.
        let config = sled::Config::new().path(folder).cache_capacity(cache).flush_every_ms(None);
        let db = open(&config)?;
        let mut trees = HashMap::new();
        for name in db.tree_names() {
            // The tree that sled always has is not ours.
            if let Ok(name) = String::from_utf8(name.to_vec())
                && !name.starts_with("__sled__")
            {
                trees.insert(name.clone(), db.open_tree(&name)?);
            }
        }
        Ok(Self::Disk(Disk { db, folder: folder.to_owned(), trees: RwLock::new(trees) }))
    }

    /// An empty engine in memory.
    pub fn memory() -> Self {
        Self::Memory(RwLock::default())
    }

    /// Whether this is the engine that forgets.
    pub fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }

    /// The row at `key`.
    pub fn get(&self, table: &str, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self {
            Self::Disk(disk) => match disk.trees.read().get(table) {
                Some(tree) => tree.get(key)?.map(Bytes::unpack).transpose(),
                None => Ok(None),
            },
            Self::Memory(tables) => {
                let tables = tables.read();
                Ok(tables.get(table).and_then(|rows| rows.read().get(key).cloned()).map(Bytes::Shared))
            }
            Self::Closed => Err(EngineError(CLOSED.into())),
        }
    }

    /// The rows from `from` (included) up to `to` (excluded; nothing is the end of the table).
    pub fn range(&self, table: &str, from: Vec<u8>, to: Option<Vec<u8>>) -> Range {
        match self {
            Self::Disk(disk) => match disk.trees.read().get(table) {
                Some(tree) => Range::Disk(match to {
                    Some(to) if from >= to => return Range::None,
                    Some(to) => tree.range(from..to),
                    None => tree.range(from..),
                }),
                None => Range::None,
            },
            Self::Memory(tables) => match tables.read().get(table) {
                Some(rows) => Range::Memory(Arc::clone(rows), Bound::Included(from), to),
                None => Range::None,
            },
            Self::Closed => Range::Failed(EngineError(CLOSED.into())),
        }
    }

    /// Sets or removes a row.
    pub fn apply(&self, table: &str, key: &[u8], value: Option<&[u8]>) -> Result<(), EngineError> {
        match self {
            Self::Disk(disk) => {
                let tree = disk.tree(table)?;
                match value {
                    Some(value) => drop(tree.insert(key, &*compress::pack(value))?),
                    None => drop(tree.remove(key)?),
                }
            }
            Self::Memory(tables) => {
                let found = tables.read().get(table).cloned();
                let rows = found.unwrap_or_else(|| Arc::clone(tables.write().entry(table.to_owned()).or_default()));
                match value {
                    Some(value) => drop(rows.write().insert(key.into(), value.into())),
                    None => drop(rows.write().remove(key)),
                }
            }
            Self::Closed => return Err(EngineError(CLOSED.into())),
        }
        Ok(())
    }

    /// The names of all tables, sorted.
    pub fn tables(&self) -> Vec<String> {
        let mut names: Vec<String> = match self {
            Self::Disk(disk) => disk.trees.read().keys().cloned().collect(),
            Self::Memory(tables) => tables.read().keys().cloned().collect(),
            Self::Closed => Vec::new(),
        };
        names.sort_unstable();
        names
    }

    /// Walks all rows and says what each table holds. `seen` is told the number of rows now and then.
    pub fn digests(&self, seen: &mut dyn FnMut(u64)) -> Result<Digests, EngineError> {
        let (mut digests, mut count) = (Digests::new(), 0);
        for table in self.tables() {
            let mut digest = Digest::default();
            for row in self.range(&table, Vec::new(), None) {
                let (key, value) = row?;
                digest.add(&key, &value);
                count += 1;
                if count % 4096 == 0 {
                    seen(count);
                }
            }
            set(&mut digests, &table, digest);
        }
        seen(count);
        Ok(digests)
    }

    /// Writes out what is only in memory. It is not durable yet.
    pub fn flush(&self) -> Result<(), EngineError> {
        match self {
            Self::Disk(disk) => disk.db.flush().map(drop).map_err(Into::into),
            Self::Memory(_) | Self::Closed => Ok(()),
        }
    }

    /// Makes everything applied so far durable: flush, then a real fsync of every file and folder.
    pub fn sync(&self) -> Result<(), EngineError> {
        self.flush()?;
        match self {
            Self::Disk(disk) => Ok(disk::sync_tree(&disk.folder)?),
            Self::Memory(_) | Self::Closed => Ok(()),
        }
    }
}

/// Opens the engine's files. Threads of an earlier use in this program may still be letting them go.
fn open(config: &sled::Config) -> Result<sled::Db, EngineError> {
    let patience = Instant::now() + Duration::from_secs(5);
    loop {
        let opened = catch_unwind(AssertUnwindSafe(|| config.open()));
        match opened.map_err(|_| EngineError("the engine panicked".into()))? {
            Err(sled::Error::Io(error))
                if error.to_string().contains("could not acquire lock") && Instant::now() < patience =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            other => return Ok(other?),
        }
    }
}

impl Disk {
    fn tree(&self, table: &str) -> Result<sled::Tree, EngineError> {
        if let Some(tree) = self.trees.read().get(table) {
            return Ok(tree.clone());
        }
        let tree = self.db.open_tree(table)?;
        self.trees.write().insert(table.to_owned(), tree.clone());
        Ok(tree)
    }
}

/// The rows of a range, from both ends. Ends after its first error.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and is moved once")]
pub(super) enum Range {
    None,
    Disk(sled::Iter),
    /// What is left: each step takes the lock anew, so that a long walk stops nobody.
    Memory(Arc<MemoryTable>, Bound<Vec<u8>>, Option<Vec<u8>>),
    Failed(EngineError),
}

type Row = Result<(Bytes, Bytes), EngineError>;

impl Range {
    fn disk(&mut self, row: Option<sled::Result<(sled::IVec, sled::IVec)>>) -> Option<Row> {
        let row = row?.map_err(EngineError::from);
        let row = row.and_then(|(key, value)| Ok((Bytes::Engine(key), Bytes::unpack(value)?)));
        if row.is_err() {
            // A damaged page would be reported again and again, for ever.
            *self = Self::None;
        }
        Some(row)
    }

    fn memory(&mut self, back: bool) -> Option<Row> {
        let Self::Memory(table, from, to) = self else { return None };
        let after = match from {
            Bound::Included(key) | Bound::Excluded(key) => key.as_slice(),
            Bound::Unbounded => &[],
        };
        if to.as_deref().is_some_and(|to| after >= to) {
            return None;
        }
        let lower = from.as_ref().map(Vec::as_slice);
        let upper = to.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let rows = table.read();
        let mut range = rows.range::<[u8], _>((lower, upper));
        let (key, value) = if back { range.next_back()? } else { range.next()? };
        let row = (Bytes::Shared(Arc::clone(key)), Bytes::Shared(Arc::clone(value)));
        drop(rows);
        match back {
            true => *to = Some(row.0.to_vec()),
            false => *from = Bound::Excluded(row.0.to_vec()),
        }
        Some(Ok(row))
    }
}

impl Iterator for Range {
    type Item = Row;

    fn next(&mut self) -> Option<Row> {
        match self {
            Self::None => None,
            Self::Disk(rows) => {
                let row = rows.next();
                self.disk(row)
            }
            Self::Memory(..) => self.memory(false),
            Self::Failed(error) => {
                let error = error.clone();
                *self = Self::None;
                Some(Err(error))
            }
        }
    }
}

impl DoubleEndedIterator for Range {
    fn next_back(&mut self) -> Option<Row> {
        match self {
            Self::Disk(rows) => {
                let row = rows.next_back();
                self.disk(row)
            }
            Self::Memory(..) => self.memory(true),
            Self::None | Self::Failed(_) => self.next(),
        }
    }
}

/// The first key after all keys that begin with `prefix`; nothing if there is none.
pub(super) fn after(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != 0xFF)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}
