//! All changes of one action, as a value.
//!
//! A `Write` is built while the lock of its subject is held and committed at once: it is not
//! `Send`, so a handler that keeps one across an `.await` does not compile.

use std::{collections::BTreeMap, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use super::{
    Rows, Store, StoreError,
    key::Key,
    log::Position,
    schema::{RoomNo, UserNo},
    table::Table,
};

/// A row as bytes: its table, its key, and its value or nothing.
type Change = (&'static str, Vec<u8>, Option<Vec<u8>>);
/// Makes a row when its position is known.
type Later = Box<dyn FnOnce(Position) -> Change>;

/// One of the positions that a [`Write`] will get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(u64);

/// Changes of any number of tables that become durable and visible together, or not at all.
pub struct Write {
    store: Store,
    changes: BTreeMap<(&'static str, Vec<u8>), Option<Vec<u8>>>,
    later: Vec<(Slot, Later)>,
    slots: u64,
    wake: Vec<UserNo>,
    touch: Vec<RoomNo>,
    not_send: PhantomData<*const ()>,
}

impl Write {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            changes: BTreeMap::new(),
            later: Vec::new(),
            slots: 0,
            wake: Vec::new(),
            touch: Vec::new(),
            not_send: PhantomData,
        }
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
            None => self.store.get(table, key),
        }
    }

    /// The rows whose key begins with `prefix`, as [`Write::get`] sees them.
    pub fn scan<K: Key, V: Serialize + DeserializeOwned>(
        &self,
        table: Table<K, V>,
        prefix: &impl Key,
    ) -> Result<Vec<(K, V)>, StoreError> {
        let prefix = prefix.to_bytes();
        let mut rows = BTreeMap::new();
        for row in self.store.scan(table, &()) {
            let (key, value) = row?;
            let bytes = key.to_bytes();
            if bytes.starts_with(&prefix) {
                rows.insert(bytes, (key, value));
            }
        }
        for ((name, key), value) in &self.changes {
            if *name == table.name && key.starts_with(&prefix) {
                rows.remove(key);
                if let Some(value) = value {
                    rows.insert(key.clone(), (table.decode_key(key)?, table.decode(value)?));
                }
            }
        }
        Ok(rows.into_values().collect())
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

    /// A number that was never given out before and never will be again, not even after a crash.
    pub fn number(&mut self) -> u64 {
        self.store.number()
    }

    /// Names a local user for whom this is news: their waiting requests wake when it is published.
    pub fn wake(&mut self, user: UserNo) {
        self.wake.push(user);
    }

    /// Names a room in which something happens that everybody there may see.
    pub fn touch(&mut self, room: RoomNo) {
        self.touch.push(room);
    }

    /// Queues everything for the disk. The next `Write` sees it at once; readers see it when the
    /// ticket is published. An error means that nothing of it will happen.
    pub fn commit(self) -> Result<Ticket, StoreError> {
        let mut rows = self.store.inner.rows.write();
        let first = self.store.position().0 + 1;
        let last = Position(first + self.slots.max(1) - 1);
        for ((table, key), value) in self.changes {
            match value {
                Some(value) => rows.insert((table, key), value),
                None => rows.remove(&(table, key)),
            };
        }
        for (Slot(slot), later) in self.later {
            let (table, key, value) = later(Position(first + slot));
            if let Some(value) = value {
                rows.insert((table, key), value);
            }
        }
        self.store.inner.wakers.note(&self.wake, &self.touch, last);
        self.store.inner.position.send_replace(last);
        drop(rows);
        self.store.inner.wakers.wake(&self.wake);
        Ok(Ticket { first: Position(first), last })
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

/// The promise of a committed [`Write`].
#[derive(Debug)]
#[must_use = "await `published` before you answer: only then is it durable"]
pub struct Ticket {
    first: Position,
    last: Position,
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
        Ok(self.last)
    }
}
