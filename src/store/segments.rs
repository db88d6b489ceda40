//! The files of the journal: one is written at a time, all are walked at the start.
//!
//! A segment is filled with zeros ahead of the writing, so that making a group durable needs no change
//! of the file's length. Only what comes after the last durable group may be torn, and only that is
//! ever cut; any other gap is [`Damage`], which is reported.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::{
    digest::Digests,
    disk::{self, Faults, Op},
    journal::{self, Group, Header},
};

/// How far ahead of the writing a segment is filled with zeros.
const AHEAD: u64 = 256 << 10;

/// The segment that is being written.
pub(super) struct Segment {
    file: File,
    faults: Faults,
    id: u64,
    chain: u128,
    /// Where the next group goes.
    pub offset: u64,
    filled: u64,
}

impl Segment {
    /// Makes a new segment. It is durable when this returns.
    pub fn create(folder: &Path, header: &Header, faults: &Faults) -> io::Result<Self> {
        let path = folder.join(format!("{:020}-{:016x}.journal", header.first, header.id));
        let (mut bytes, chain) = header.encode();
        let offset = bytes.len().next_multiple_of(8) as u64;
        let filled = offset.next_multiple_of(AHEAD);
        bytes.resize(usize::try_from(filled).unwrap_or(bytes.len()), 0);
        faults.check(Op::Append)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&path)?;
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        disk::sync_folder(folder)?;
        Ok(Self { file, faults: faults.clone(), id: header.id, chain, offset, filled })
    }

    /// The seed and the chain for the next group.
    pub fn link(&self) -> (u64, u128) {
        (self.id, self.chain)
    }

    /// Writes an encoded group and makes it durable. After an error the segment is not written again.
    pub fn append(&mut self, group: &mut Vec<u8>, checksum: u128) -> io::Result<()> {
        let end = self.offset + group.len() as u64;
        if end > self.filled {
            self.filled = end.next_multiple_of(AHEAD);
            group.resize(usize::try_from(self.filled - self.offset).unwrap_or(group.len()), 0);
        }
        self.faults.check(Op::Append)?;
        self.file.write_all_at(group, self.offset)?;
        self.faults.check(Op::Sync)?;
        self.file.sync_data()?;
        self.offset = end;
        self.chain = checksum;
        Ok(())
    }
}

/// A segment as it lies in the folder.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// The sequence number of its first Write.
    pub first: u64,
    pub id: u64,
    pub path: PathBuf,
}

/// All segments, in order.
pub(super) fn list(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let parts = path.file_name().and_then(|name| name.to_str()).and_then(|name| {
            let (first, id) = name.strip_suffix(".journal")?.split_once('-')?;
            Some((first.parse().ok()?, u64::from_str_radix(id, 16).ok()?))
        });
        if let Some((first, id)) = parts {
            found.push(Found { first, id, path });
        }
    }
    found.sort_unstable();
    Ok(found)
}

/// A part of the journal that was durable and cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it.
    pub offset: u64,
    /// The sequence number of the first Write that cannot be read.
    pub first: u64,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the journal {} is damaged at byte {}", self.path.display(), self.offset)
    }
}

/// How far a walk came, and what is true there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Reached {
    /// The last Write.
    pub last: u64,
    /// The last position given.
    pub position: u64,
    /// The highest number given.
    pub numbers: u64,
    /// The version of the tables.
    pub schema: u64,
    /// What the tables hold.
    pub digests: Digests,
}

/// What a walk found besides the Writes.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The end of the newest segment.
    pub tail: Option<Tail>,
    /// What the positions in the newest segment belong to.
    pub epoch: Option<u64>,
    /// Where the walk had to stop.
    pub damage: Option<Damage>,
    /// Damage before the start of the walk, which does no harm to it.
    pub behind: Option<Damage>,
}

/// The end of the newest segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tail {
    path: PathBuf,
    /// Where the newest group begins, if the segment has one.
    newest: Option<u64>,
    /// Where it ends.
    end: u64,
}

impl Tail {
    /// Cuts what is torn, and writes the newest group once more: it may have been read from memory
    /// that an fsync failed to bring to the disk, and would otherwise be gone after the next power
    /// cut. A segment without any group is removed.
    pub fn mend(&self) -> io::Result<()> {
        let Some(start) = self.newest else { return disk::remove(&self.path) };
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        file.set_len(self.end)?;
        let mut group = vec![0; usize::try_from(self.end - start).unwrap_or(0)];
        file.read_exact_at(&mut group, start)?;
        file.write_all_at(&group, start)?;
        file.sync_all()
    }
}

/// Why a walk was broken off.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// The disk's error.
    Disk(io::Error),
    /// The visitor's.
    Visitor(E),
}

impl<E> From<io::Error> for Stop<E> {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

/// Reads the Writes after `reached.last` up to `until`, group by group, in order and without a gap.
pub(super) fn walk<E>(
    folder: &Path,
    reached: &mut Reached,
    until: u64,
    visit: &mut dyn FnMut(&Reached, &Group<'_>) -> Result<(), E>,
) -> Result<Findings, Stop<E>> {
    let start = reached.last;
    let mut findings = Findings::default();
    let found = list(folder)?;
    let begin = found.iter().rposition(|found| found.first <= start + 1).unwrap_or(0);
    let (mut expected, mut buffer) = (None, Vec::new());
    for segment in &found[begin..] {
        let Some(mut reader) = Reader::open(segment)? else { continue };
        let follows = expected.map_or(segment.first <= start + 1, |expected| segment.first == expected);
        if !follows {
            // The writes between this segment and what was read before it are gone.
            let end = findings.tail.take();
            let path = end.as_ref().map_or(&segment.path, |tail| &tail.path).clone();
            let offset = end.map_or(0, |tail| tail.end);
            findings.damage = Some(Damage { path, offset, first: reached.last + 1 });
            return Ok(findings);
        }
        if let Some(header) = reader.header.take() {
            findings.epoch = Some(header.epoch);
            // Between this segment and the one before it, the rows were migrated.
            if header.schema > reached.schema && header.first == reached.last + 1 {
                (reached.schema, reached.digests) = (header.schema, header.digests);
            }
        }
        let mut next = segment.first;
        let mut newest = None;
        loop {
            let at = reader.offset;
            let group = match reader.next(&mut buffer)? {
                Some(group) => group,
                None => match reader.search(next, &mut buffer)? {
                    None => break,
                    Some(group) => {
                        let damage = Damage { path: segment.path.clone(), offset: at, first: next };
                        if group.head.first > start + 1 {
                            findings.damage = Some(damage);
                            return Ok(findings);
                        }
                        findings.behind = Some(damage);
                        next = group.head.first;
                        group
                    }
                },
            };
            if group.head.first != next {
                findings.damage = Some(Damage { path: segment.path.clone(), offset: at, first: next });
                return Ok(findings);
            }
            if group.head.first > until {
                return Ok(findings);
            }
            next = group.head.last + 1;
            newest = Some(reader.last);
            if group.head.last > start {
                reached.advance(&group.head, group.digests.iter().copied());
                visit(reached, &group).map_err(Stop::Visitor)?;
            }
        }
        expected = Some(next);
        findings.tail = Some(Tail { path: segment.path.clone(), newest, end: reader.offset });
    }
    Ok(findings)
}

/// Reads one segment.
struct Reader {
    file: File,
    length: u64,
    id: u64,
    /// What the segment begins with, unless that is damaged.
    header: Option<Header>,
    /// The checksum that the next group has to name; nothing takes any.
    chain: Option<u128>,
    /// Where the group that was read last begins.
    last: u64,
    /// Where it ends.
    offset: u64,
}

impl Reader {
    /// Nothing if the segment was never begun: its header was torn, and no group follows.
    fn open(found: &Found) -> io::Result<Option<Self>> {
        let file = File::open(&found.path)?;
        let length = file.metadata()?.len();
        let mut bytes = vec![0; journal::PREFIX];
        let mut header = None;
        if length >= bytes.len() as u64 {
            file.read_exact_at(&mut bytes, 0)?;
            if let Some(whole) = Header::length(&bytes).filter(|whole| *whole as u64 <= length) {
                bytes.resize(whole, 0);
                file.read_exact_at(&mut bytes, 0)?;
                header = Header::decode(&bytes).filter(|(header, _)| header.id == found.id);
            }
        }
        let offset = header.as_ref().map_or(0, |_| bytes.len().next_multiple_of(8) as u64);
        let chain = header.as_ref().map(|(_, chain)| *chain);
        let header = header.map(|(header, _)| header);
        let mut reader = Self { file, length, id: found.id, header, chain, last: 0, offset };
        if reader.header.is_none() && reader.search(0, &mut Vec::new())?.is_none() {
            return Ok(None);
        }
        if reader.header.is_none() {
            (reader.offset, reader.chain) = (0, Some(0));
        }
        Ok(Some(reader))
    }

    /// The next group, if a whole one follows.
    fn next<'a>(&mut self, buffer: &'a mut Vec<u8>) -> io::Result<Option<Group<'a>>> {
        if self.length < self.offset + 8 {
            return Ok(None);
        }
        buffer.resize(8, 0);
        self.file.read_exact_at(buffer, self.offset)?;
        let Some(whole) = journal::length(buffer).filter(|whole| self.offset + *whole as u64 <= self.length) else {
            return Ok(None);
        };
        buffer.resize(whole, 0);
        self.file.read_exact_at(buffer, self.offset)?;
        let Some((group, chain, checksum)) = journal::decode(buffer, self.id) else { return Ok(None) };
        if self.chain.is_some_and(|expected| expected != chain) {
            return Ok(None);
        }
        self.chain = Some(checksum);
        self.last = self.offset;
        self.offset += whole.next_multiple_of(8) as u64;
        Ok(Some(group))
    }

    /// Looks behind a place that cannot be read for a group that says that the Write `lost` had been
    /// durable. There is none behind a torn tail.
    fn search<'a>(&mut self, lost: u64, buffer: &'a mut Vec<u8>) -> io::Result<Option<Group<'a>>> {
        let (offset, chain) = (self.offset, self.chain.take());
        let mut rest = vec![0; usize::try_from(self.length - self.offset).unwrap_or(0)];
        self.file.read_exact_at(&mut rest, self.offset)?;
        let starts = (0..rest.len()).step_by(8).filter(|at| journal::length(&rest[*at..]).is_some());
        for start in starts {
            let proof = journal::decode(&rest[start..], self.id);
            if proof.is_some_and(|(group, ..)| group.head.synced >= lost) {
                drop(rest);
                self.offset = offset + start as u64;
                return self.next(buffer);
            }
        }
        (self.offset, self.chain) = (offset, chain);
        Ok(None)
    }
}
