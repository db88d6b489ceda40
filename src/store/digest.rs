//! What a table holds, as three numbers: how many rows, their length, and the sum of a 128-bit hash of each.
//!
//! A sum does not depend on the order of the rows, so it is kept up to date row by row, and a copy
//! of a table is compared with the original by walking it once.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

/// The digest of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// How many rows.
    pub rows: u64,
    /// The bytes of their keys and values.
    pub bytes: u64,
    /// The sum of their hashes, modulo 2¹²⁸.
    pub sum: u128,
}

/// The digests of all tables, by name. A table without rows is left out.
pub type Digests = BTreeMap<String, Digest>;

impl Digest {
    /// Counts a row in.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    /// Counts a row out.
    pub fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub((key.len() + value.len()) as u64);
        self.sum = self.sum.wrapping_sub(hash(key, value));
    }
}

/// Notes the new digest of a table.
pub(super) fn set(digests: &mut Digests, table: &str, digest: Digest) {
    match digests.get_mut(table) {
        Some(_) if digest.rows == 0 => drop(digests.remove(table)),
        Some(old) => *old = digest,
        None if digest.rows == 0 => {}
        None => drop(digests.insert(table.to_owned(), digest)),
    }
}

/// The first table whose digests differ, with a sentence that says how.
pub(super) fn difference(expected: &Digests, found: &Digests) -> Option<String> {
    let names = expected.keys().chain(found.keys());
    names.into_iter().find_map(|name| {
        let [wanted, is] = [expected, found].map(|digests| digests.get(name).copied().unwrap_or_default());
        match (wanted == is, wanted.rows == is.rows) {
            (true, _) => None,
            (_, true) => Some(format!("the table {name} has the right number of rows, but not the right ones")),
            _ => Some(format!("the table {name} has {} rows instead of {}", is.rows, wanted.rows)),
        }
    })
}

fn hash(key: &[u8], value: &[u8]) -> u128 {
    xxh3_128_with_seed(value, xxh3_64(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_that_comes_and_goes_leaves_no_trace() {
        let mut digest = Digest::default();
        digest.add(b"a", b"1");
        let before = digest;
        digest.add(b"b", b"2");
        digest.remove(b"b", b"2");
        assert_eq!(digest, before);
    }

    #[test]
    fn what_is_key_and_what_is_value_matters() {
        let [mut left, mut right] = [Digest::default(); 2];
        left.add(b"ab", b"c");
        right.add(b"a", b"bc");
        assert_ne!(left, right);
    }

    #[test]
    fn a_difference_names_the_table() {
        let mut one = Digests::new();
        set(&mut one, "rooms", Digest { rows: 2, bytes: 4, sum: 5 });
        assert_eq!(difference(&one, &one.clone()), None);
        assert_eq!(difference(&one, &Digests::new()).as_deref(), Some("the table rooms has 0 rows instead of 2"));
    }
}
