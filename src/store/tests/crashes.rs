//! The crash model: the machine stops at any moment. What the journal had made durable is there, whole,
//! whatever sled's files look like.
//!
//! A crash is a copy of the folder taken while everything runs: first the journal, then sled's files, then
//! the manifest, which is the order in which they may be behind one another. Then 4 KiB blocks of sled's
//! files that no fsync had reached go back to what they were, and so do parts of the newest group.

use std::{io, sync::Arc};

use parking_lot::{Mutex, RwLock};
use tempfile::{TempDir, tempdir};

use super::*;
use crate::store::{
    disk::{Faults, Op},
    journal, segments,
};

const BLOCK: usize = 4096;

/// Lets all threads of a store stop at their next step, and keeps a copy of what was durable last.
pub(crate) struct Machine {
    folder: TempDir,
    /// Held by whoever takes a copy.
    gate: Arc<RwLock<()>>,
    /// Sled's files as they were when they had just been made durable.
    durable: Arc<Mutex<TempDir>>,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { folder: tempdir().unwrap(), gate: Arc::default(), durable: Arc::new(Mutex::new(tempdir().unwrap())) }
    }

    fn faults(&self) -> Faults {
        let (gate, durable) = (Arc::clone(&self.gate), Arc::clone(&self.durable));
        let folder = self.folder.path().to_owned();
        Faults::new(move |op| {
            drop(gate.read());
            if op == Op::Manifest {
                let mut durable = durable.lock();
                let fresh = tempdir()?;
                generations(&folder).for_each(|path| copy(&path, &fresh.path().join(path.file_name().unwrap())));
                *durable = fresh;
            }
            io::Result::Ok(())
        })
    }

    pub(crate) fn start(&self) -> Store {
        let mut options = options(self.folder.path());
        options.faults = self.faults();
        // Small, so that much happens in a short time.
        options.segment = 20_000;
        options.checkpoint = 15_000;
        let store = Store::open(options).unwrap();
        let durable = self.durable.lock();
        generations(self.folder.path()).for_each(|path| copy(&path, &durable.path().join(path.file_name().unwrap())));
        store
    }

    /// The folder as a crash at this moment would leave it, and the last Write that sled may know of.
    pub(crate) fn crash(&self, store: &Store) -> (TempDir, u64) {
        let crashed = tempdir().unwrap();
        let stopped = self.gate.write();
        let applied = store.core().applied.lock().last;
        let durable = self.durable.lock();
        let (from, to) = (self.folder.path(), crashed.path());
        copy(&from.join("journal"), &to.join("journal"));
        generations(from).for_each(|path| copy(&path, &to.join(path.file_name().unwrap())));
        fs::copy(from.join("MANIFEST"), to.join("MANIFEST")).unwrap();
        fs::create_dir_all(from.join("archives")).unwrap();
        copy(&from.join("archives"), &to.join("archives"));
        copy(durable.path(), &to.join("durable"));
        drop(stopped);
        forget_the_start(to);
        (crashed, applied)
    }
}

fn generations(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("generation-"))
}

/// Takes back, block by block and as chance has it, what no fsync had reached.
pub(crate) fn power_cut(folder: &Path, applied: u64, chance: &mut Chance) {
    let durable = folder.join("durable");
    for generation in generations(folder) {
        let before = durable.join(generation.file_name().unwrap());
        for entry in fs::read_dir(&generation).unwrap().map(|entry| entry.unwrap().path()) {
            if entry.is_file() {
                let old = fs::read(before.join(entry.file_name().unwrap())).unwrap_or_default();
                let mut new = fs::read(&entry).unwrap();
                for (index, block) in new.chunks_mut(BLOCK).enumerate() {
                    let start = index * BLOCK;
                    if chance.below(3) == 0 {
                        for (at, byte) in block.iter_mut().enumerate() {
                            *byte = old.get(start + at).copied().unwrap_or(0);
                        }
                    }
                }
                fs::write(&entry, new).unwrap();
            }
        }
    }
    fs::remove_dir_all(durable).unwrap();
    let Some(segment) = segments::list(&folder.join("journal")).unwrap().pop() else { return };
    tear(&segment, applied, chance);
}

/// Takes back parts of the newest group, unless it was durable for certain: then it was applied.
fn tear(segment: &segments::Found, applied: u64, chance: &mut Chance) {
    let mut bytes = fs::read(&segment.path).unwrap();
    let Some((_, _)) = journal::Header::decode(&bytes) else { return };
    let mut at = journal::Header::length(&bytes).unwrap().next_multiple_of(8);
    let mut newest = None;
    while let Some((group, ..)) = bytes.get(at..).and_then(|rest| journal::decode(rest, segment.id)) {
        let end = at + journal::length(&bytes[at..]).unwrap();
        newest = Some((at..end, group.head.last));
        at = end.next_multiple_of(8);
    }
    let Some((range, last)) = newest else { return };
    if last > applied && chance.below(2) == 0 {
        for at in range {
            if (at / BLOCK + usize::try_from(last).unwrap()).is_multiple_of(2) {
                bytes[at] = 0;
            }
        }
        if chance.below(2) == 0 {
            bytes.truncate(bytes.len() - usize::try_from(chance.below(2000)).unwrap().min(bytes.len()));
        }
        fs::write(&segment.path, bytes).unwrap();
    }
}

fn check(seed: u64, moments: u64, mut also: impl FnMut(u64, &Model)) {
    let machine = Machine::new();
    let mut model = Model::new(machine.start(), seed);
    for moment in 0..moments {
        for _ in 0..model.chance.below(25) {
            assert!(model.write());
            if model.chance.below(5) == 0 {
                assert!(model.wait());
            }
        }
        also(moment, &model);
        if model.chance.below(2) == 0 {
            // sled writes its buffers when it likes; no fsync of ours follows.
            model.store.core().engine().flush().unwrap();
        }
        let acknowledged = model.acknowledged;
        let (crashed, applied) = machine.crash(&model.store);
        let committed = model.states.len() - 1;
        power_cut(crashed.path(), applied, &mut model.chance);
        let store = open(crashed.path());
        let state = model.check(acknowledged, committed, &store, &format!("seed {seed}, moment {moment}"));
        let rebuilt = if store.notices().is_empty() { "" } else { ", rebuilt" };
        println!("seed {seed}: {acknowledged} acknowledged, {state} found, {committed} committed{rebuilt}");
        say(&store, "afterwards", "1");
        drop(store);
        assert_eq!(words(&open(crashed.path())).last().unwrap(), "afterwards=1");
    }
}

/// As many as usual, or as the environment says: `CRASHES=100 cargo test crashes`.
pub(crate) fn seeds(usual: u64) -> u64 {
    env::var("CRASHES").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn after_a_power_cut_everything_acknowledged_is_there_and_nothing_by_half() {
    for seed in 0..seeds(4) {
        check(seed, 6, |_, _| ());
    }
}

#[test]
fn so_it_is_with_archives_and_compact_copies_in_between() {
    for seed in 1000..1000 + seeds(2) {
        check(seed, 6, |moment, model| match moment % 3 {
            0 => drop(model.store.archive().unwrap()),
            1 => model.store.compact().unwrap(),
            _ => {}
        });
    }
}
