//! What can be searched: the words of events, packed.
//!
//! An event that is new has a row of its own; when there are many, they become one block, in which every word stands
//! once with the events that have it. So an event costs one small row when it is sent, and a search reads few rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Visitor};

use super::{EventNo, RoomNo};
use crate::store::Table;

/// The words of one new event. Written by `rooms::projections::search`.
pub const SEARCH_TAIL: Table<(RoomNo, EventNo), Packed> = Table::new("search_tail");

/// The words of many events: `(room, greatest event, number)`, where the last only tells blocks apart. Events
/// that were taken out leave the key as it is. Written by `rooms::projections::search`.
///
/// The name sorts before [`SEARCH_TAIL`], so that an event which moves is in at least one of the two at any time.
pub const SEARCH_BLOCKS: Table<(RoomNo, EventNo, u64), Packed> = Table::new("search_blocks");

/// Entries as bytes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Packed(pub Vec<u8>);

/// An event that can be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is found.
    pub found: Found,
    /// Its words, and how often each occurs.
    pub words: BTreeMap<String, u8>,
}

/// What is known of an event without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found {
    /// The event.
    pub event: EventNo,
    /// When it was sent, in milliseconds since the epoch.
    pub at: u64,
    /// In which field the words stand.
    pub field: Field,
    /// How many words there are.
    pub length: u64,
}

/// What can be searched of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// `content.body` of messages.
    Body,
    /// `content.name` of names of rooms.
    Name,
    /// `content.topic` of topics.
    Topic,
}

impl Packed {
    /// Packs entries. Unpacked they are the same, ordered by event.
    pub fn new(mut entries: Vec<Entry>) -> Self {
        entries.sort_by_key(|entry| entry.found.event);
        let mut out = Vec::with_capacity(64 * entries.len());
        let mut words = BTreeMap::<&str, Vec<(u64, u8)>>::new();
        let mut last = 0;
        put(&mut out, entries.len() as u64);
        for (nth, Entry { found, words: own }) in entries.iter().enumerate() {
            put(&mut out, found.event.0.wrapping_sub(last));
            last = found.event.0;
            put(&mut out, found.at);
            out.push(found.field as u8);
            put(&mut out, found.length);
            for (word, count) in own {
                words.entry(word).or_default().push((nth as u64, *count));
            }
        }
        let mut before: &str = "";
        for (word, places) in words {
            // A word begins like the one before it, more often than not.
            let shared = word.bytes().zip(before.bytes()).take_while(|(one, other)| one == other).count().min(255);
            put(&mut out, shared as u64);
            put(&mut out, (word.len() - shared) as u64);
            out.extend_from_slice(&word.as_bytes()[shared..]);
            put(&mut out, places.len() as u64);
            for (nth, count) in places {
                put(&mut out, nth);
                out.push(count);
            }
            before = word;
        }
        Self(out)
    }

    /// The events, in their order.
    pub fn events(&self) -> Option<Vec<Found>> {
        events(&mut &*self.0)
    }

    /// Shows every word, in order, with the places of its events among [`Packed::events`] and how often it occurs in
    /// each; gives the events. Nothing if the bytes are damaged.
    pub fn read<'a>(&'a self, mut word: impl FnMut(&[u8], &mut Places<'a>)) -> Option<Vec<Found>> {
        let mut rest = &*self.0;
        let events = events(&mut rest)?;
        let mut current = Vec::new();
        while !rest.is_empty() {
            let (shared, own) = (length(&mut rest)?, length(&mut rest)?);
            current.truncate(shared);
            current.extend_from_slice(rest.split_off(..own)?);
            let mut places = Places { left: length(&mut rest)?, rest, events: events.len() };
            word(&current, &mut places);
            places.by_ref().for_each(drop);
            if places.left > 0 {
                return None;
            }
            rest = places.rest;
        }
        Some(events)
    }

    /// All entries again. Nothing if the bytes are damaged.
    pub fn unpack(&self) -> Option<Vec<Entry>> {
        let mut words: Vec<BTreeMap<String, u8>> = vec![BTreeMap::new(); self.events()?.len()];
        let found = self.read(|word, places| {
            for (nth, count) in places {
                words[nth].insert(String::from_utf8_lossy(word).into_owned(), count);
            }
        })?;
        Some(found.into_iter().zip(words).map(|(found, words)| Entry { found, words }).collect())
    }
}

/// In which events a word stands, and how often.
pub struct Places<'a> {
    left: usize,
    rest: &'a [u8],
    events: usize,
}

impl Iterator for Places<'_> {
    type Item = (usize, u8);

    fn next(&mut self) -> Option<(usize, u8)> {
        if self.left == 0 {
            return None;
        }
        let nth = length(&mut self.rest).filter(|nth| *nth < self.events)?;
        let count = self.rest.split_off_first()?;
        self.left -= 1;
        Some((nth, *count))
    }
}

fn events(rest: &mut &[u8]) -> Option<Vec<Found>> {
    let count = length(rest)?;
    let mut events = Vec::with_capacity(count.min(rest.len()));
    let mut last = 0u64;
    for _ in 0..count {
        last = last.wrapping_add(take(rest)?);
        let at = take(rest)?;
        let field = match rest.split_off_first()? {
            0 => Field::Body,
            1 => Field::Name,
            2 => Field::Topic,
            _ => return None,
        };
        events.push(Found { event: EventNo(last), at, field, length: take(rest)? });
    }
    Some(events)
}

/// Seven bits a byte, the low ones first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// A number that counts something in memory.
fn length(rest: &mut &[u8]) -> Option<usize> {
    usize::try_from(take(rest)?).ok()
}

impl Serialize for Packed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Packed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Packed;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Packed, E> {
                Ok(Packed(bytes.to_vec()))
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Packed, E> {
                Ok(Packed(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let words = prop::collection::btree_map("[a-cé]{1,6}", 1u8..255, 0..12);
        (any::<u64>(), any::<u64>(), 0u8..3, words).prop_map(|(event, at, field, words)| {
            let field = [Field::Body, Field::Name, Field::Topic][usize::from(field)];
            let length = words.len() as u64;
            Entry { found: Found { event: EventNo(event), at, field, length }, words }
        })
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked(mut entries in prop::collection::vec(entry(), 0..40)) {
            let packed = Packed::new(entries.clone());
            entries.sort_by_key(|entry| entry.found.event);
            prop_assert_eq!(packed.unpack(), Some(entries));
        }

        #[test]
        fn damaged_bytes_are_no_entries_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Packed(bytes).unpack();
        }

        #[test]
        fn a_cut_block_does_not_panic(entries in prop::collection::vec(entry(), 1..10), cut in 0usize..200) {
            let mut packed = Packed::new(entries);
            let length = packed.0.len();
            packed.0.truncate(cut.min(length));
            let _ = packed.unpack();
        }
    }

    #[test]
    fn a_block_is_much_smaller_than_its_texts() {
        let words = ["dinner", "is", "ready", "please", "come", "down", "and", "bring", "your", "plates"];
        let entries = (0..256).map(|nth| {
            let found =
                Found { event: EventNo(1_000 + nth), at: 1_782_000_000_000 + nth, field: Field::Body, length: 10 };
            Entry { found, words: words.iter().map(|word| (format!("{word}{}", nth % 7), 1)).collect() }
        });
        let size = Packed::new(entries.collect()).0.len();
        assert!(size < 256 * 40, "{size}");
    }
}
