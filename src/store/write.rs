//! All changes of one action, as a value.
//!
//! A `Write` is built while the lock of its subject is held and committed at once: it is not
//! `Send`, so a handler that keeps one across an `.await` does not compile.

use std::{collections::BTreeMap, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;

use super::{
    Rows, Store, StoreError, engine,
    journal::Change,
    key::Key,
    log::Position,
    pipeline::{Name, News},
    schema::{RoomNo, UserNo},
    table::Table,
};

/// Makes a row, its table, key and value, when its position is known.
type Later = Box<dyn FnOnce(Position) -> (&'static str, Vec<u8>, Option<Vec<u8>>)>;

/// One of the positions that a [`Write`] will get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u64);

/// Changes of any number of tables that become durable and visible together, or not at all.
pub struct Write {
    store: Store,
    changes: BTreeMap<(&'static str, Vec<u8>), Option<Vec<u8>>>,
    later: Vec<(Slot, Later)>,
    slots: u64,
    news: News,
    claims: Claims,
    not_send: PhantomData<*const ()>,
}

/// The names for which a [`Write`] was the first to ask for a number; let go when it is queued or given up.
struct Claims {
    store: Store,
    names: Vec<Name>,
}

impl Drop for Claims {
    fn drop(&mut self) {
        if self.names.is_empty() {
            return;
        }
        let mut claims = self.store.core().claims.lock();
        for name in self.names.drain(..) {
            if let Some(claim) = claims.get_mut(&name) {
                claim.1 -= 1;
                if claim.1 == 0 {
                    claims.remove(&name);
                }
            }
        }
    }
}

impl Write {
    pub(super) fn new(store: Store) -> Self {
        let (changes, later, news) = (BTreeMap::new(), Vec::new(), News::default());
        let claims = Claims { store: store.clone(), names: Vec::new() };
        Self { store, changes, later, slots: 0, news, claims, not_send: PhantomData }
    }

    /// The row at `key` as this `Write` finds or left it: published, queued before it, or its own.
    /// Rows of [`Write::put_at`] are not seen before the commit.
    pub fn get<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        match self.changes.get(&(table.name, key.to_bytes())) {
            Some(own) => own.as_ref().map(|bytes| table.decode(bytes)).transpose(),
            None => self.store.queued(table, key),
        }
    }

    /// The rows whose key begins with `prefix`, as [`Write::get`] sees them.
    pub fn scan<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        prefix: &impl Key,
    ) -> Result<Vec<(K, V)>, StoreError> {
        let prefix = prefix.to_bytes();
        let end = engine::after(&prefix);
        self.rows(table, prefix, end)
    }

    /// The rows from `from` (included) up to `to` (excluded), as [`Write::get`] sees them.
    pub fn range<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        from: &impl Key,
        to: &impl Key,
    ) -> Result<Vec<(K, V)>, StoreError> {
        self.rows(table, from.to_bytes(), Some(to.to_bytes()))
    }

    fn rows<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        from: Vec<u8>,
        to: Option<Vec<u8>>,
    ) -> Result<Vec<(K, V)>, StoreError> {
        if to.as_ref().is_some_and(|to| from >= *to) {
            return Ok(Vec::new());
        }
        let core = self.store.core();
        // First what is queued: a row that is applied in between is then seen twice, never not at all.
        let mut queued = core.overlay.range(table.name, &from, to.as_deref());
        let own = self.changes.range((table.name, from.clone())..);
        for ((_, key), value) in
            own.take_while(|((name, key), _)| *name == table.name && to.as_ref().is_none_or(|to| key < to))
        {
            queued.insert(key.as_slice().into(), value.as_deref().map(Into::into));
        }
        let mut rows = Vec::new();
        for row in core.engine().range(table.name, from, to) {
            let (key, value) = row.map_err(|error| core.broken(&error))?;
            if !queued.contains_key(&*key) {
                rows.push((table.decode_key(&key)?, table.decode(&value)?, key.to_vec()));
            }
        }
        let sorted = queued.is_empty();
        for (key, value) in queued {
            if let Some(value) = value {
                rows.push((table.decode_key(&key)?, table.decode(&value)?, key.to_vec()));
            }
        }
        if !sorted {
            rows.sort_unstable_by(|left, right| left.2.cmp(&right.2));
        }
        Ok(rows.into_iter().map(|(key, value, _)| (key, value)).collect())
    }

    /// Sets the row at `key`.
    pub fn put<K: Key, V: Serialize + DeserializeOwned>(&mut self, table: Table<K, V>, key: &K, value: &V) {
        self.changes.insert((table.name, key.to_bytes()), Some(table.encode(value)));
    }

    /// Removes the row at `key`, if there is one.
    pub fn delete<K: Key, V: Serialize + DeserializeOwned>(&mut self, table: Table<K, V>, key: &K) {
        self.changes.insert((table.name, key.to_bytes()), None);
    }

    /// Reserves the next position of this `Write`. Positions are given out at the commit, in order.
    pub fn slot(&mut self) -> Slot {
        self.slots += 1;
        Slot(self.slots - 1)
    }

    /// Sets a row whose key or value holds a position: `row` is called, briefly, at the commit.
    pub fn put_at<K: Key + 'static, V: Serialize + DeserializeOwned + 'static>(
        &mut self,
        table: Table<K, V>,
        slot: Slot,
        row: impl FnOnce(Position) -> (K, V) + 'static,
    ) {
        let later = move |position| {
            let (key, value) = row(position);
            (table.name, key.to_bytes(), Some(table.encode(&value)))
        };
        self.later.push((slot, Box::new(later)));
    }

    /// The epoch of the store: another one means that newer rows than these were lost.
    pub fn epoch(&self) -> u64 {
        self.store.epoch()
    }

    /// A number that was never given out before and never will be again, not even after a crash.
    pub fn number(&mut self) -> u64 {
        self.store.number()
    }

    /// The number behind a name: the one in `table`, or a new one, which is put there. With a new one
    /// comes `true`, and what belongs to it is to be put as well. Two Writes that come upon the same name
    /// for the first time at once, under different locks, get the same number, and both put it.
    pub fn number_of<K: Key, V: Serialize + DeserializeOwned>(
        &mut self,
        table: Table<K, V>,
        key: &K,
        make: impl FnOnce(u64) -> V,
    ) -> Result<(V, bool), StoreError> {
        if let Some(number) = self.get(table, key)? {
            return Ok((number, false));
        }
        let store = self.store.clone();
        let mut claims = store.core().claims.lock();
        // Whoever had claimed it may have committed in between.
        if let Some(number) = self.get(table, key)? {
            return Ok((number, false));
        }
        let name = (table.name, key.to_bytes());
        let claim = claims.entry(name.clone()).or_insert_with(|| (table.encode(&make(store.number())), 0));
        claim.1 += 1;
        let number = table.decode(&claim.0)?;
        self.changes.insert(name.clone(), Some(claim.0.clone()));
        self.claims.names.push(name);
        Ok((number, true))
    }

    /// Names a local user for whom this is news: their waiting requests wake when it is published.
    pub fn wake(&mut self, user: UserNo) {
        self.news.users.push(user);
    }

    /// Names a room in which something happens that everybody there may see.
    pub fn touch(&mut self, room: RoomNo) {
        self.news.rooms.push(room);
    }

    /// Queues everything for the disk. The next `Write` sees it at once; readers see it when the
    /// ticket is published. An error means that nothing of it will happen.
    ///
    /// This waits only when several megabytes are queued already, until the disk has caught up.
    pub fn commit(self) -> Result<Ticket, StoreError> {
        // The claims are let go only when the next Write sees the rows.
        let Self { store, mut changes, later, slots, news, claims: _claims, .. } = self;
        let queued = store.core().commit(slots.max(1), news, |first| {
            for (Slot(slot), later) in later {
                let (table, key, value) = later(Position(first.0 + slot));
                changes.insert((table, key), value);
            }
            changes.into_iter().map(check).collect()
        })?;
        Ok(Ticket { first: queued.first, last: queued.last, done: queued.done })
    }
}

impl Rows for Write {
    fn row<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        key: &K,
    ) -> Result<Option<V>, StoreError> {
        self.get(table, key)
    }
}

/// No value is longer: the engine would keep it outside of its log.
const MAX_VALUE: usize = 100_000;
/// No key is longer.
const MAX_KEY: usize = 4_000;

/// A row that the engine takes.
fn check(((table, key), value): ((&'static str, Vec<u8>), Option<Vec<u8>>)) -> Result<Change, StoreError> {
    if key.len() > MAX_KEY || value.as_ref().is_some_and(|value| value.len() > MAX_VALUE) {
        return Err(StoreError::TooLarge { table });
    }
    Ok(Change { table, key: key.into(), value: value.map(Into::into) })
}

/// The promise of a committed [`Write`].
#[derive(Debug)]
#[must_use = "await `published` before you answer: only then is it durable"]
pub struct Ticket {
    first: Position,
    last: Position,
    /// Nothing to wait for if the store is in memory.
    done: Option<oneshot::Receiver<Result<(), StoreError>>>,
}

impl Ticket {
    /// The position that `slot` got.
    pub fn position(&self, slot: Slot) -> Position {
        Position(self.first.0 + slot.0)
    }

    /// The last position of the `Write`.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Waits until the `Write` is durable and visible, and returns its last position.
    ///
    /// An error means that the outcome is unknown: the disk failed while it was written.
    pub async fn published(self) -> Result<Position, StoreError> {
        if let Some(done) = self.done {
            done.await.unwrap_or_else(|_| Err(stopped()))?;
        }
        Ok(self.last)
    }

    /// The same for a thread of its own, outside of the runtime.
    pub fn wait(self) -> Result<Position, StoreError> {
        if let Some(done) = self.done {
            done.blocking_recv().unwrap_or_else(|_| Err(stopped()))?;
        }
        Ok(self.last)
    }
}

fn stopped() -> StoreError {
    StoreError::Engine("the store stopped; whether the last changes are saved is unknown until a restart".into())
}
