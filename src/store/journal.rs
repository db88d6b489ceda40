//! The text of the journal: what a segment begins with, and how a group of Writes stands in it.
//!
//! Bytes in, bytes out; the files are [`super::segments`]'. A group is checksummed by itself, with the
//! segment's random number as the seed, and names the checksum before it: what an earlier use of
//! the file left behind is never taken for a group, and a group is never read over a gap.
//!
//! ```text
//! segment  = "INGLEJ01" length:u32 header checksum:u128 group*
//! header   = id:u64 epoch:u64 schema:u64 first:u64 position:u64 numbers:u64 digests
//! group    = "GRP1" length:u32 chain:u128 first:u64 last:u64 synced:u64 position:u64 numbers:u64
//!            digests write* checksum:u128 (zeros up to a multiple of 8)
//! digests  = count (name rows bytes sum:u128)*
//! write    = slots count (table key (0 | length+1 bytes))*        table: an index into the digests
//! ```
//!
//! Integers of a fixed width are little-endian, all others LEB128; names and keys have their length
//! before them.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::digest::{Digest, Digests, set};

/// What a segment begins with.
pub(super) const MAGIC: &[u8; 8] = b"INGLEJ01";
const GROUP: &[u8; 4] = b"GRP1";
/// The bytes of a group before its digests.
const HEAD: usize = 4 + 4 + 16 + 5 * 8;
/// The bytes of a segment before its header.
pub(super) const PREFIX: usize = MAGIC.len() + 4;
const CHECKSUM: usize = 16;
/// No group is longer: a length beyond it is garbage.
pub(super) const MAX_GROUP: usize = 64 << 20;
/// No header is longer.
pub(super) const MAX_HEADER: usize = 1 << 20;

/// A row that is set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Change {
    pub table: &'static str,
    pub key: Arc<[u8]>,
    pub value: Option<Arc<[u8]>>,
}

/// The same, as it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ChangeRef<'a> {
    pub table: &'a str,
    pub key: &'a [u8],
    pub value: Option<&'a [u8]>,
}

/// How things stood when a segment was begun.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Header {
    /// A random number, the seed of all checksums in this segment.
    pub id: u64,
    /// What the positions in it belong to.
    pub epoch: u64,
    /// The version of the tables.
    pub schema: u64,
    /// The sequence number of the first Write in it.
    pub first: u64,
    /// The last position given before it.
    pub position: u64,
    /// The highest number given before it.
    pub numbers: u64,
    /// What the tables hold before it.
    pub digests: Digests,
}

/// What a group says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Head {
    /// The sequence numbers of its first and last Write.
    pub first: u64,
    pub last: u64,
    /// The last Write that was durable when this group was written.
    pub synced: u64,
    /// The last position given in it.
    pub position: u64,
    /// The highest number given up to it.
    pub numbers: u64,
}

/// A group as it is read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Group<'a> {
    pub head: Head,
    /// What the tables that it changes hold after it.
    pub digests: Vec<(&'a str, Digest)>,
    pub writes: Vec<WriteRef<'a>>,
}

/// One Write of a group.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WriteRef<'a> {
    /// How many positions it took.
    pub slots: u64,
    pub changes: Vec<ChangeRef<'a>>,
}

impl Header {
    /// The bytes that a segment begins with, and the first checksum of its chain.
    pub fn encode(&self) -> (Vec<u8>, u128) {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&[0; 4]);
        for number in [self.id, self.epoch, self.schema, self.first, self.position, self.numbers] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        put_digests(&mut out, self.digests.iter().map(|(name, digest)| (name.as_str(), *digest)));
        let length = u32::try_from(out.len() + CHECKSUM).unwrap_or(u32::MAX);
        out[MAGIC.len()..PREFIX].copy_from_slice(&length.to_le_bytes());
        let checksum = xxh3_128_with_seed(&out, self.id);
        out.extend_from_slice(&checksum.to_le_bytes());
        (out, checksum)
    }

    /// The length of the whole header, from its first [`PREFIX`] bytes.
    pub fn length(prefix: &[u8]) -> Option<usize> {
        let length = prefix.strip_prefix(MAGIC)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*length)).ok().filter(|length| *length <= MAX_HEADER)
    }

    /// The header at the front of `bytes`, and the first checksum of the chain.
    pub fn decode(bytes: &[u8]) -> Option<(Self, u128)> {
        let length = Self::length(bytes)?;
        let (body, checksum) = bytes.get(..length)?.split_last_chunk::<CHECKSUM>()?;
        let mut input = Input(body.get(PREFIX..)?);
        let [id, epoch, schema, first, position, numbers] = input.fixed()?;
        let checksum = u128::from_le_bytes(*checksum);
        if xxh3_128_with_seed(body, id) != checksum {
            return None;
        }
        let mut digests = Digests::new();
        for (name, digest) in input.digests()? {
            set(&mut digests, name, digest);
        }
        Some((Self { id, epoch, schema, first, position, numbers, digests }, checksum))
    }
}

/// Appends a group to `out` and returns its checksum: the next link of the chain. Every table that a
/// Write changes has to stand in `digests`.
pub(super) fn encode<'a>(
    out: &mut Vec<u8>,
    id: u64,
    chain: u128,
    head: &Head,
    digests: &[(&str, Digest)],
    writes: impl Iterator<Item = (u64, &'a [Change])>,
) -> u128 {
    let start = out.len();
    out.extend_from_slice(GROUP);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&chain.to_le_bytes());
    for number in [head.first, head.last, head.synced, head.position, head.numbers] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    put_digests(out, digests.iter().copied());
    for (slots, changes) in writes {
        put(out, slots);
        put(out, changes.len() as u64);
        for change in changes {
            let table = digests.iter().position(|(name, _)| *name == change.table);
            let table = table.unwrap_or_else(|| unreachable!("{} has no digest in its group", change.table));
            put(out, table as u64);
            put_bytes(out, &change.key);
            match &change.value {
                None => put(out, 0),
                Some(value) => {
                    put(out, value.len() as u64 + 1);
                    out.extend_from_slice(value);
                }
            }
        }
    }
    let length = u32::try_from(out.len() - start + CHECKSUM).unwrap_or(u32::MAX);
    out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
    let checksum = xxh3_128_with_seed(&out[start..], id);
    out.extend_from_slice(&checksum.to_le_bytes());
    out.resize(start + (out.len() - start).next_multiple_of(8), 0);
    checksum
}

/// The length of the group that begins with these eight bytes, without the zeros after it.
pub(super) fn length(prefix: &[u8]) -> Option<usize> {
    let length = prefix.strip_prefix(GROUP)?.first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    (HEAD + CHECKSUM..=MAX_GROUP).contains(&length).then_some(length)
}

/// The group at the front of `bytes`, the checksum that it names as its predecessor's, and its own.
/// Nothing if it is not whole, or of another segment.
pub(super) fn decode(bytes: &[u8], id: u64) -> Option<(Group<'_>, u128, u128)> {
    let (body, checksum) = bytes.get(..length(bytes)?)?.split_last_chunk::<CHECKSUM>()?;
    let checksum = u128::from_le_bytes(*checksum);
    if xxh3_128_with_seed(body, id) != checksum {
        return None;
    }
    let mut input = Input(body.get(8..)?);
    let chain = input.wide()?;
    let [first, last, synced, position, numbers] = input.fixed()?;
    let digests = input.digests()?;
    let mut writes = Vec::new();
    for _ in first..=last {
        let slots = input.number()?;
        let count = input.count()?;
        let mut changes = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let table = digests.get(usize::try_from(input.number()?).ok()?)?.0;
            let key = input.bytes()?;
            let value = match input.number()? {
                0 => None,
                length => Some(input.take(usize::try_from(length - 1).ok()?)?),
            };
            changes.push(ChangeRef { table, key, value });
        }
        writes.push(WriteRef { slots, changes });
    }
    let head = Head { first, last, synced, position, numbers };
    input.0.is_empty().then_some((Group { head, digests, writes }, chain, checksum))
}

/// Appends a LEB128 integer.
pub(super) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

/// Appends bytes with their length before them.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_digests<'a>(out: &mut Vec<u8>, digests: impl ExactSizeIterator<Item = (&'a str, Digest)>) {
    put(out, digests.len() as u64);
    for (name, digest) in digests {
        put_bytes(out, name.as_bytes());
        put(out, digest.rows);
        put(out, digest.bytes);
        out.extend_from_slice(&digest.sum.to_le_bytes());
    }
}

/// Bytes that are still to be read. Everything that does not fit is nothing.
pub(super) struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        self.take(length)
    }

    pub fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            let bits = u64::from(byte & 0x7F);
            if bits << shift >> shift != bits {
                return None;
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    /// A number of things that are still to come: at least one byte each.
    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.number()?).ok().filter(|count| *count <= self.0.len())
    }

    fn wide(&mut self) -> Option<u128> {
        Some(u128::from_le_bytes(*self.take(16)?.first_chunk()?))
    }

    fn fixed<const N: usize>(&mut self) -> Option<[u64; N]> {
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = u64::from_le_bytes(*self.take(8)?.first_chunk()?);
        }
        Some(numbers)
    }

    fn digests(&mut self) -> Option<Vec<(&'a str, Digest)>> {
        let count = self.count()?;
        let mut digests = Vec::with_capacity(count.min(1024));
        for _ in 0..count {
            let name = std::str::from_utf8(self.bytes()?).ok()?;
            let (rows, bytes, sum) = (self.number()?, self.number()?, self.wide()?);
            digests.push((name, Digest { rows, bytes, sum }));
        }
        Some(digests)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*, sample::select};

    use super::*;

    const ID: u64 = 7;

    fn writes() -> impl Strategy<Value = Vec<(u64, Vec<Change>)>> {
        let bytes = || vec(any::<u8>(), 0..200).prop_map(Arc::<[u8]>::from);
        let change = (select(vec!["a", "rooms", "events"]), bytes(), option::of(bytes()))
            .prop_map(|(table, key, value)| Change { table, key, value });
        vec((1..9u64, vec(change, 0..5)), 1..5)
    }

    fn encoded(writes: &[(u64, Vec<Change>)]) -> (Head, Vec<(&'static str, Digest)>, Vec<u8>) {
        let head = Head { first: 5, last: 4 + writes.len() as u64, synced: 4, position: 90, numbers: 1 << 40 };
        let digests =
            ["a", "rooms", "events"].map(|name| (name, Digest { rows: 3, bytes: 9, sum: u128::MAX })).to_vec();
        let mut out = Vec::new();
        encode(&mut out, ID, 99, &head, &digests, writes.iter().map(|(slots, changes)| (*slots, &changes[..])));
        (head, digests, out)
    }

    proptest! {
        #[test]
        fn a_group_is_read_as_it_was_written(writes in writes()) {
            let (head, digests, bytes) = encoded(&writes);
            prop_assert_eq!(bytes.len() % 8, 0);
            let (group, chain, _) = decode(&bytes, ID).unwrap();
            prop_assert_eq!((group.head, group.digests, chain), (head, digests, 99));
            prop_assert_eq!(group.writes.len(), writes.len());
            for (read, (slots, changes)) in group.writes.iter().zip(&writes) {
                prop_assert_eq!(read.slots, *slots);
                prop_assert_eq!(read.changes.len(), changes.len());
                for (read, change) in read.changes.iter().zip(changes) {
                    let written = ChangeRef { table: change.table, key: &change.key, value: change.value.as_deref() };
                    prop_assert_eq!(*read, written);
                }
            }
        }

        #[test]
        fn a_changed_bit_or_a_missing_byte_is_noticed(writes in writes(), at: prop::sample::Index, bit in 0..8u8) {
            let (.., mut bytes) = encoded(&writes);
            let length = length(&bytes).unwrap();
            let at = at.index(length);
            prop_assert!(decode(&bytes[..at], ID).is_none());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes, ID).is_none());
        }

        #[test]
        fn a_group_of_another_segment_is_none(writes in writes()) {
            let (.., bytes) = encoded(&writes);
            prop_assert!(decode(&bytes, ID + 1).is_none());
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes in vec(any::<u8>(), 0..300)) {
            let _ = (Header::decode(&bytes), decode(&bytes, ID));
            // The same with checksums that fit, so that the text behind them is read as well.
            if bytes.len() >= HEAD + CHECKSUM {
                bytes[..4].copy_from_slice(GROUP);
                let length = u32::try_from(bytes.len()).unwrap();
                bytes[4..8].copy_from_slice(&length.to_le_bytes());
                let end = bytes.len() - CHECKSUM;
                let checksum = xxh3_128_with_seed(&bytes[..end], ID);
                bytes[end..].copy_from_slice(&checksum.to_le_bytes());
                let _ = decode(&bytes, ID);
            }
        }

        #[test]
        fn a_number_is_read_as_it_was_written(number: u64) {
            let mut out = Vec::new();
            put(&mut out, number);
            prop_assert_eq!(Input(&out).number(), Some(number));
        }
    }

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let mut digests = Digests::new();
        set(&mut digests, "rooms", Digest { rows: 2, bytes: 9, sum: 77 });
        let header = Header { id: 3, epoch: 5, schema: 1, first: 10, position: 20, numbers: 30, digests };
        let (bytes, chain) = header.encode();
        assert_eq!(Header::decode(&bytes), Some((header, chain)));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(Header::decode(&damaged), None);
        }
    }
}
