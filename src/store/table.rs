//! A table is a typed constant: `pub const MEMBERS: Table<(RoomNo, UserNo), Member> = Table::new("members");`
//!
//! The constant stands beside its record in [`super::schema`] and says what a row means and who
//! writes it. Values are CBOR.

use std::{cell::RefCell, marker::PhantomData};

use serde::{Serialize, de::DeserializeOwned};

use super::{StoreError, key::Key};

thread_local! {
    /// Where texts stand while a row is read. Making it anew costs more than reading a small row.
    static SCRATCH: RefCell<[u8; 4096]> = const { RefCell::new([0; 4096]) };
}

/// The name and types of one sled tree.
pub struct Table<K, V> {
    /// The name of the tree on disk.
    pub name: &'static str,
    types: PhantomData<fn(K) -> V>,
}

impl<K, V> Clone for Table<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K, V> Copy for Table<K, V> {}

impl<K: Key, V: Serialize + DeserializeOwned> Table<K, V> {
    /// A table of this name.
    pub const fn new(name: &'static str) -> Self {
        Self { name, types: PhantomData }
    }

    /// The bytes of a value.
    pub(super) fn encode(self, value: &V) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(32);
        // Writing to a Vec cannot fail, and records hold nothing that CBOR cannot express.
        if let Err(error) = ciborium::into_writer(value, &mut bytes) {
            unreachable!("a row of {} does not encode: {error}", self.name);
        }
        bytes
    }

    /// The value behind `bytes`; an error names the table.
    pub(super) fn decode(self, bytes: &[u8]) -> Result<V, StoreError> {
        let read = SCRATCH.with(|scratch| match scratch.try_borrow_mut() {
            Ok(mut scratch) => ciborium::de::from_reader_with_buffer(bytes, &mut scratch[..]),
            // In the middle of another row.
            Err(_) => ciborium::from_reader(bytes),
        });
        read.map_err(|_| StoreError::BadRow { table: self.name })
    }

    /// The key behind `bytes`; an error names the table.
    pub(super) fn decode_key(self, mut bytes: &[u8]) -> Result<K, StoreError> {
        K::decode(&mut bytes).map_err(|_| StoreError::BadRow { table: self.name })
    }
}
