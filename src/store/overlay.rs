//! Rows that are queued for the disk and not yet in the engine: what the next decision has to see,
//! and no reader may.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;

use super::journal::Change;

/// The newest queued value of each row, by table; a removed row is nothing.
#[derive(Default)]
pub(super) struct Overlay(RwLock<HashMap<&'static str, Table>>);

type Table = BTreeMap<Arc<[u8]>, Queued>;

struct Queued {
    /// The Write that queued it.
    sequence: u64,
    value: Option<Arc<[u8]>>,
}

impl Overlay {
    /// The queued value at `key`: nothing if none is queued, `Some(None)` if the row is being removed.
    pub fn get(&self, table: &str, key: &[u8]) -> Option<Option<Arc<[u8]>>> {
        let tables = self.0.read();
        tables.get(table)?.get(key).map(|queued| queued.value.clone())
    }

    /// The queued rows from `from` up to `to`.
    pub fn range(&self, table: &str, from: &[u8], to: Option<&[u8]>) -> BTreeMap<Arc<[u8]>, Option<Arc<[u8]>>> {
        let tables = self.0.read();
        let range = (Bound::Included(from), to.map_or(Bound::Unbounded, Bound::Excluded));
        let rows = tables.get(table).into_iter().flat_map(|rows| rows.range::<[u8], _>(range));
        rows.map(|(key, queued)| (Arc::clone(key), queued.value.clone())).collect()
    }

    /// Queues the rows of a Write.
    pub fn insert(&self, sequence: u64, changes: &[Change]) {
        let mut tables = self.0.write();
        for change in changes {
            let queued = Queued { sequence, value: change.value.clone() };
            tables.entry(change.table).or_default().insert(Arc::clone(&change.key), queued);
        }
    }

    /// Forgets the rows of a Write, now that the engine has them, except those that a later Write
    /// queued anew.
    pub fn remove(&self, sequence: u64, changes: &[Change]) {
        let mut tables = self.0.write();
        for change in changes {
            let Some(rows) = tables.get_mut(change.table) else { continue };
            if rows.get(&*change.key).is_some_and(|queued| queued.sequence == sequence) {
                rows.remove(&*change.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> Change {
        Change { table: "t", key: key.as_bytes().into(), value: value.map(|value| value.as_bytes().into()) }
    }

    #[test]
    fn a_row_stays_until_its_newest_write_is_applied() {
        let overlay = Overlay::default();
        let (first, second) = ([change("a", Some("1"))], [change("a", None)]);
        overlay.insert(1, &first);
        overlay.insert(2, &second);
        overlay.remove(1, &first);
        assert_eq!(overlay.get("t", b"a"), Some(None));
        overlay.remove(2, &second);
        assert_eq!(overlay.get("t", b"a"), None);
    }

    #[test]
    fn a_range_has_its_ends() {
        let overlay = Overlay::default();
        overlay.insert(1, &["a", "b", "c"].map(|key| change(key, Some("x"))));
        let keys: Vec<_> = overlay.range("t", b"b", Some(b"c")).into_keys().collect();
        assert_eq!(keys, [Arc::from(*b"b")]);
        assert_eq!(overlay.range("t", b"b", None).len(), 2);
    }
}
