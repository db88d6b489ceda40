//! A new generation while the store runs: the live rows are copied, and what was written meanwhile is
//! replayed behind them. That is how space is given back, which the engine never does by itself.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    StoreError, Usage, digest, disk,
    engine::{Bytes, Engine, EngineError},
    home,
    keeper::Keeper,
    manifest,
    open::replay,
    segments::Reached,
};

/// So few Writes may be left to replay while everybody waits.
const FEW: u64 = 200;

impl Keeper {
    /// Copies all rows into a new generation and goes on with that one. The store goes on meanwhile;
    /// writing waits for a moment at the end. Needs as much free space as the live rows take.
    pub fn compact(&self) -> Result<(), StoreError> {
        let _alone = self.copying.lock();
        let number = self.manifest.lock().generation + 1;
        let folder = manifest::generation(&self.options.folder, number);
        let copied = fs::remove_dir_all(&folder).or_else(absent).map_err(EngineError::from);
        let result = copied.and_then(|()| self.copy(&folder)).and_then(|new| self.switch(number, new));
        if let Err(error) = result {
            let _ = fs::remove_dir_all(&folder);
            return Err(self.options.fail("cannot make a compact copy of", error.0));
        }
        Ok(())
    }

    /// A copy of all rows that is not far behind, and right so far.
    fn copy(&self, folder: &Path) -> Result<(Engine, Reached), EngineError> {
        let (_pin, mut reached) = self.pin();
        let total = reached.digests.values().map(|digest| digest.rows).sum();
        let mut step = self.options.progress.begin("making the store smaller", total);
        let new = Engine::open(folder, self.options.cache)?;
        let old = self.core.engine();
        let mut count = 0;
        for table in old.tables() {
            let mut rows = old.range(&table, Vec::new(), None).rev();
            loop {
                let some = take(&mut rows)?;
                if some.is_empty() {
                    break;
                }
                // The engine divides a page when it is full, and leaves both halves half empty when rows come in
                // order. If every second row comes first, the others find room in what the first have left.
                let (first, second) = (some.iter().step_by(2), some.iter().skip(1).step_by(2));
                first.chain(second).try_for_each(|(key, value)| new.apply(&table, key, Some(value)))?;
                count += some.len() as u64;
                step.at(count);
            }
        }
        drop(old);
        self.follow(&new, &mut reached)?;
        let found = new.digests(&mut |_| {})?;
        if let Some(why) = digest::difference(&reached.digests, &found) {
            return Err(EngineError(format!("the copy is not like the original: {why}")));
        }
        new.sync()?;
        while self.core.applied.lock().last > reached.last + FEW {
            self.follow(&new, &mut reached)?;
        }
        new.sync()?;
        Ok((new, reached))
    }

    /// Brings a copy up to what the engine had a moment ago.
    fn follow(&self, new: &Engine, reached: &mut Reached) -> Result<(), EngineError> {
        let until = self.core.applied.lock().last;
        let findings = replay(new, &self.options.journal(), reached, until)?;
        match reached.last == until {
            true => Ok(()),
            false => Err(EngineError(
                findings.damage.map_or_else(|| "the journal ends too early".into(), |damage| damage.to_string()),
            )),
        }
    }

    /// Goes on with the copy.
    fn switch(&self, number: u64, (new, mut reached): (Engine, Reached)) -> Result<(), EngineError> {
        let mut manifest = self.manifest.lock();
        let applied = self.core.applied.lock();
        let findings = replay(&new, &self.options.journal(), &mut reached, applied.last)?;
        if reached != *applied {
            let damage = findings.damage.map(|damage| damage.to_string());
            return Err(EngineError(damage.unwrap_or_else(|| "the copy fell behind".into())));
        }
        new.sync()?;
        let mut next = manifest.clone();
        next.advance(&reached);
        next.generation = number;
        next.write(&self.options.folder)?;
        let old = manifest.generation(&self.options.folder);
        *manifest = next;
        self.core.replace(new);
        drop(applied);
        // Whoever still reads the old generation keeps its file open.
        fs::remove_dir_all(old).or_else(absent)?;
        Ok(())
    }

    /// Whether so much of the engine's files is dead space that a copy is worth its while, and there is
    /// room for one.
    pub fn wants_compaction(&self) -> Result<bool, StoreError> {
        let usage = self.usage()?;
        let live = usage.bytes + ROW * usage.rows;
        let free = fs4::available_space(&self.options.folder).unwrap_or(0);
        Ok(usage.engine > SMALL && usage.engine > WASTE * live && free > WASTE * live + self.options.min_free)
    }

    /// Whether so much journal is kept that an archive is worth its while.
    pub fn wants_archive(&self) -> Result<bool, StoreError> {
        let usage = self.usage()?;
        Ok(usage.journal > JOURNAL.max(usage.bytes / 3))
    }

    /// The newest archive that was proved.
    pub fn newest_archive(&self) -> Option<PathBuf> {
        let manifest = self.manifest.lock();
        manifest.archive.as_ref().map(|note| self.options.archive_folder().join(&note.file))
    }

    /// What lies in the folder of what was found damaged.
    pub fn set_aside(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(home::shelf(&self.options.folder)).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort_unstable();
        paths
    }

    /// What the store takes on the disk.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let digests = self.core.applied.lock().digests.clone();
        let fail = |error: io::Error| self.options.fail("cannot measure", error);
        let generation = self.manifest.lock().generation(&self.options.folder);
        Ok(Usage {
            rows: digests.values().map(|digest| digest.rows).sum(),
            bytes: digests.values().map(|digest| digest.bytes).sum(),
            engine: disk::size(&generation).map_err(fail)?,
            journal: disk::size(&self.options.journal()).map_err(fail)?,
            archives: disk::size(&self.options.archive_folder()).or_else(absent).map_err(fail)?,
        })
    }
}

/// The next rows, as many as may be in memory at once; none at the end.
fn take(
    rows: &mut impl Iterator<Item = Result<(Bytes, Bytes), EngineError>>,
) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    let (mut some, mut bytes) = (Vec::new(), 0);
    while some.len() < ROWS_AT_ONCE && bytes < BYTES_AT_ONCE {
        let Some(row) = rows.next() else { break };
        let (key, value) = row?;
        bytes += key.len() + value.len();
        some.push((key, value));
    }
    Ok(some)
}

/// How many rows are in memory at once while they are copied, and how many bytes of them.
const ROWS_AT_ONCE: usize = 4_096;
const BYTES_AT_ONCE: usize = 2 << 20;
/// What a row takes in the engine besides its bytes, roughly.
const ROW: u64 = 16;
/// An engine that takes less than this is never copied for its size.
const SMALL: u64 = 64 << 20;
/// So much journal is always kept.
const JOURNAL: u64 = 16 << 20;
/// A copy takes up to twice the bytes of its rows; one that takes so many times more is worth the work.
const WASTE: u64 = 4;

fn absent<T: Default>(error: io::Error) -> io::Result<T> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(T::default()),
        _ => Err(error),
    }
}
