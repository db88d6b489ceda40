//! Archives: all rows in one file, made while the store runs. An archive is a backup, and what a
//! damaged store is rebuilt from.
//!
//! The rows are copied as they stand, from the Write b on, while others go on writing; behind them come
//! the changes of the journal from b to e, the last Write when the copy was done. With both, the
//! rows are exactly those at e. Without its end, an archive is none.
//!
//! ```text
//! archive = "INGLEAR1" block*
//! block   = stored:u32 raw:u32 checksum:u128 (zstd of items)      checksum: of the stored bytes
//! item    = 'H' header | 'T' table | 'R' key value | 'D' key | 'E' end
//! ```
//!
//! `H` and `E` are JSON, first and last; `R` sets and `D` removes a row of the table named last.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{
    StoreError,
    digest::{self, Digests},
    disk,
    engine::Engine,
    home::{Options, Step},
    journal::{ChangeRef, Group, Input, put_bytes},
    keeper::Keeper,
    manifest::ArchiveNote,
    segments::{self, Reached, Stop},
};

const MAGIC: &[u8; 8] = b"INGLEAR1";
/// A block is closed when it has this many bytes.
const BLOCK: usize = 1 << 20;
/// No block is longer: rows are short, and a block ends with the item that fills it.
const MAX_BLOCK: usize = 64 << 20;
/// How hard to compress. More costs a small machine minutes and saves little.
const LEVEL: i32 = 3;

/// What an archive begins with.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct First {
    /// The last Write that was applied when it was begun.
    begin: u64,
    epoch: u64,
    schema: u64,
}

/// What an archive ends with: how things stood at its last Write.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct End {
    last: u64,
    position: u64,
    numbers: u64,
    digests: Digests,
}

/// What was restored.
pub(super) struct Restored {
    pub begin: u64,
    pub epoch: u64,
    pub reached: Reached,
}

/// All archives in a folder, the newest first.
pub(super) fn list(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension == "ingle") {
                    found.push(path);
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // The names are numbers of one width.
    found.sort_unstable_by(|left, right| right.cmp(left));
    Ok(found)
}

impl Keeper {
    /// Makes an archive, proves it by restoring it, and lets go of what it replaces. Takes as long as it
    /// takes to read all rows and write them twice; the store goes on meanwhile.
    pub fn archive(&self) -> Result<PathBuf, StoreError> {
        let options = &self.options;
        let folder = options.archive_folder();
        let fail = |error: String| options.fail("cannot make an archive of", error);
        let _alone = self.copying.lock();
        fs::create_dir_all(&folder).map_err(|error| fail(error.to_string()))?;
        let (pin, start) = self.pin();
        let draft = folder.join("archive.new");
        let end = self.write_archive(&draft, &start).map_err(fail)?;
        let proof = folder.join("proof");
        let proved = prove(options, &draft, &proof);
        let _ = fs::remove_dir_all(&proof);
        proved.map_err(|error| fail(format!("it does not restore: {error}")))?;
        let name = format!("archive-{:020}.ingle", end.last);
        disk::rename(&draft, &folder.join(&name)).map_err(|error| fail(error.to_string()))?;
        let mut manifest = self.manifest.lock();
        let mut next = manifest.clone();
        next.archive = Some(ArchiveNote { file: name.clone(), begin: start.last, end: end.last });
        next.write(&options.folder).map_err(|error| fail(error.to_string()))?;
        *manifest = next;
        drop(pin);
        let retired = self
            .retire(&manifest)
            .and_then(|()| list(&folder)?.iter().skip(options.archives.max(1)).try_for_each(|old| disk::remove(old)));
        retired.map_err(|error| fail(error.to_string()))?;
        Ok(folder.join(name))
    }

    fn write_archive(&self, path: &Path, start: &Reached) -> Result<End, String> {
        let text = |error: io::Error| error.to_string();
        let mut step = self.options.progress.begin("making an archive", start.digests.values().map(|d| d.rows).sum());
        let mut writer = Writer::create(path).map_err(text)?;
        let epoch = self.manifest.lock().epoch;
        let first = First { begin: start.last, epoch, schema: start.schema };
        writer.json(b'H', &first).map_err(text)?;
        let engine = self.core.engine();
        let mut count = 0;
        for table in engine.tables() {
            writer.table(&table).map_err(text)?;
            for row in engine.range(&table, Vec::new(), None) {
                let (key, value) = row.map_err(|error| self.core.broken(&error).to_string())?;
                writer.row(&key, Some(&value)).map_err(text)?;
                count += 1;
                if count % 1024 == 0 {
                    step.at(count);
                }
            }
        }
        let until = self.core.applied.lock().last;
        let mut reached = start.clone();
        let mut visit = |_: &Reached, group: &Group<'_>| {
            group.writes.iter().flat_map(|write| &write.changes).try_for_each(|change| {
                writer.table(change.table)?;
                writer.row(change.key, change.value)
            })
        };
        let findings = segments::walk(&self.options.journal(), &mut reached, until, &mut visit);
        let findings = findings.map_err(|(Stop::Disk(error) | Stop::Visitor(error))| text(error))?;
        if reached.last != until {
            let damage = findings.damage.map(|damage| damage.to_string());
            return Err(damage.unwrap_or_else(|| "the journal ends too early".into()));
        }
        let Reached { last, position, numbers, digests, .. } = reached;
        let end = End { last, position, numbers, digests };
        writer.json(b'E', &end).map_err(text)?;
        writer.finish().map_err(text)?;
        Ok(end)
    }
}

/// Restores an archive into a folder of its own, and looks whether everything is there.
pub(super) fn prove(options: &Options, archive: &Path, proof: &Path) -> Result<Restored, String> {
    let _ = fs::remove_dir_all(proof);
    let restored = restore(options, archive, proof)?;
    let engine = Engine::open(proof, options.cache).map_err(|error| error.0)?;
    let total = restored.reached.digests.values().map(|digest| digest.rows).sum();
    let mut step = options.progress.begin("proving the archive", total);
    let found = engine.digests(&mut |done| step.at(done)).map_err(|error| error.0)?;
    digest::difference(&restored.reached.digests, &found).map_or(Ok(restored), Err)
}

/// Reads an archive into a new engine in `folder`.
pub(super) fn restore(options: &Options, archive: &Path, folder: &Path) -> Result<Restored, String> {
    let engine = Engine::open(folder, options.cache).map_err(|error| error.0)?;
    let length = fs::metadata(archive).map_err(|error| error.to_string())?.len();
    let step = options.progress.begin("restoring an archive", length);
    let restored = read(archive, step, &mut |change| {
        engine.apply(change.table, change.key, change.value).map_err(|error| error.0)
    })?;
    engine.sync().map_err(|error| error.0)?;
    Ok(restored)
}

/// Shows the changes of an archive in order. An error says what is wrong with it.
fn read(
    archive: &Path,
    mut step: Step<'_>,
    apply: &mut dyn FnMut(ChangeRef<'_>) -> Result<(), String>,
) -> Result<Restored, String> {
    let mut blocks = Blocks::open(archive).map_err(|error| error.to_string())?;
    let (mut first, mut table) = (None::<First>, String::new());
    while let Some(block) = blocks.next()? {
        step.at(blocks.read);
        let mut input = Input(&block);
        while !input.0.is_empty() {
            let item = item(&mut input).ok_or("an item that cannot be read")?;
            match (item, &first) {
                (Item::First(text), None) => first = Some(parse(text)?),
                (Item::Table(name), Some(_)) => name.clone_into(&mut table),
                (Item::Set(key, value), Some(_)) => apply(ChangeRef { table: &table, key, value: Some(value) })?,
                (Item::Remove(key), Some(_)) => apply(ChangeRef { table: &table, key, value: None })?,
                (Item::End(text), Some(First { begin, epoch, schema })) => {
                    let End { last, position, numbers, digests } = parse(text)?;
                    let reached = Reached { last, position, numbers, schema: *schema, digests };
                    return Ok(Restored { begin: *begin, epoch: *epoch, reached });
                }
                _ => return Err("an item out of place".into()),
            }
        }
    }
    Err("its end is missing".into())
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| error.to_string())
}

enum Item<'a> {
    First(&'a [u8]),
    Table(&'a str),
    Set(&'a [u8], &'a [u8]),
    Remove(&'a [u8]),
    End(&'a [u8]),
}

fn item<'a>(input: &mut Input<'a>) -> Option<Item<'a>> {
    Some(match input.take(1)?[0] {
        b'H' => Item::First(input.bytes()?),
        b'T' => Item::Table(std::str::from_utf8(input.bytes()?).ok()?),
        b'R' => Item::Set(input.bytes()?, input.bytes()?),
        b'D' => Item::Remove(input.bytes()?),
        b'E' => Item::End(input.bytes()?),
        _ => return None,
    })
}

/// Writes the items of an archive.
struct Writer {
    file: BufWriter<File>,
    block: Vec<u8>,
    table: String,
}

impl Writer {
    fn create(path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        file.write_all(MAGIC)?;
        Ok(Self { file, block: Vec::new(), table: String::new() })
    }

    fn json(&mut self, tag: u8, value: &impl Serialize) -> io::Result<()> {
        self.block.push(tag);
        put_bytes(&mut self.block, &serde_json::to_vec(value)?);
        self.close(BLOCK)
    }

    fn table(&mut self, name: &str) -> io::Result<()> {
        if self.table != name {
            name.clone_into(&mut self.table);
            self.block.push(b'T');
            put_bytes(&mut self.block, name.as_bytes());
        }
        Ok(())
    }

    fn row(&mut self, key: &[u8], value: Option<&[u8]>) -> io::Result<()> {
        self.block.push(if value.is_some() { b'R' } else { b'D' });
        put_bytes(&mut self.block, key);
        if let Some(value) = value {
            put_bytes(&mut self.block, value);
        }
        self.close(BLOCK)
    }

    /// Writes the block if it has so many bytes.
    fn close(&mut self, least: usize) -> io::Result<()> {
        if self.block.len() < least {
            return Ok(());
        }
        let stored = zstd::bulk::compress(&self.block, LEVEL)?;
        let [length, raw] = [stored.len(), self.block.len()].map(|length| u32::try_from(length).unwrap_or(u32::MAX));
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&raw.to_le_bytes())?;
        self.file.write_all(&xxh3_128(&stored).to_le_bytes())?;
        self.file.write_all(&stored)?;
        self.block.clear();
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.close(1)?;
        self.file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }
}

/// Reads the blocks of an archive.
struct Blocks {
    file: BufReader<File>,
    read: u64,
}

impl Blocks {
    fn open(path: &Path) -> io::Result<Self> {
        let mut file = BufReader::new(File::open(path)?);
        let mut magic = [0; MAGIC.len()];
        match file.read_exact(&mut magic) {
            Ok(()) if &magic == MAGIC => Ok(Self { file, read: MAGIC.len() as u64 }),
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "this is no archive")),
        }
    }

    /// The next block; nothing at the end of the file.
    fn next(&mut self) -> Result<Option<Vec<u8>>, String> {
        let mut head = Vec::new();
        Read::by_ref(&mut self.file).take(24).read_to_end(&mut head).map_err(|error| error.to_string())?;
        let Some((lengths, checksum)) = head.split_at_checked(8).filter(|_| head.len() == 24) else {
            return if head.is_empty() { Ok(None) } else { Err("it is cut off".into()) };
        };
        let [stored, raw] = [&lengths[..4], &lengths[4..]]
            .map(|bytes| bytes.try_into().map_or(usize::MAX, |bytes| u32::from_le_bytes(bytes) as usize));
        if stored > MAX_BLOCK || raw > MAX_BLOCK {
            return Err("a block of an impossible length".into());
        }
        let mut bytes = Vec::new();
        let limit = stored as u64;
        Read::by_ref(&mut self.file).take(limit).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
        if bytes.len() != stored || xxh3_128(&bytes).to_le_bytes() != checksum {
            return Err("a block that is damaged".into());
        }
        self.read += 24 + limit;
        zstd::bulk::decompress(&bytes, raw).map(Some).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::home::Progress;

    type Change = (String, Vec<u8>, Option<Vec<u8>>);

    fn written(path: &Path, changes: &[Change]) {
        let mut writer = Writer::create(path).unwrap();
        writer.json(b'H', &First { begin: 1, epoch: 2, schema: 3 }).unwrap();
        for (table, key, value) in changes {
            writer.table(table).unwrap();
            writer.row(key, value.as_deref()).unwrap();
        }
        writer.json(b'E', &End { last: 4, position: 5, numbers: 6, digests: Digests::new() }).unwrap();
        writer.finish().unwrap();
    }

    fn restored(path: &Path) -> Result<Vec<Change>, String> {
        let mut changes = Vec::new();
        let progress = Progress::default();
        read(path, progress.begin("", 0), &mut |change| {
            changes.push((change.table.to_owned(), change.key.to_vec(), change.value.map(<[u8]>::to_vec)));
            Ok(())
        })?;
        Ok(changes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn an_archive_is_read_as_it_was_written(changes: Vec<Change>) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            written(&path, &changes);
            prop_assert_eq!(restored(&path), Ok(changes));
        }

        #[test]
        fn a_damaged_or_shortened_archive_is_refused(changes: Vec<Change>, at: prop::sample::Index, bit in 0..8u8) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            written(&path, &changes);
            let mut bytes = fs::read(&path).unwrap();
            let at = at.index(bytes.len());
            fs::write(&path, &bytes[..at]).unwrap();
            prop_assert!(restored(&path).is_err());
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            // A bit of the compression's own frame may mean nothing; then everything is there.
            let read = restored(&path);
            prop_assert!(read.is_err() || read == Ok(changes));
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a");
            fs::write(&path, &bytes).unwrap();
            let _ = restored(&path);
            // The same in a block with a right checksum.
            let stored = zstd::bulk::compress(&bytes, 1).unwrap();
            let mut whole = MAGIC.to_vec();
            whole.extend_from_slice(&u32::try_from(stored.len()).unwrap().to_le_bytes());
            whole.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
            whole.extend_from_slice(&xxh3_128(&stored).to_le_bytes());
            whole.extend_from_slice(&stored);
            fs::write(&path, &whole).unwrap();
            let _ = restored(&path);
            bytes.clear();
        }
    }
}
