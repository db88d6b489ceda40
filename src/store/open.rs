//! Opening a store: what the folder holds is brought up to date, then the threads begin.
//!
//! The manifest says which files count; the journal is replayed from the checkpoint; a new segment
//! is begun, so that nothing is ever written behind a place that was read; only then is the store used.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use super::{
    StoreError,
    disk::Faults,
    engine::{Engine, EngineError},
    journal::Group,
    keeper::Keeper,
    live::Live,
    manifest::Manifest,
    pipeline::{self, Core, Journal},
    segments::{self, Reached, Stop},
};

/// The version of the tables.
pub(super) const SCHEMA: u64 = 1;

/// Where a store is and what it may use.
#[derive(Clone)]
pub struct Options {
    /// The folder. It is made if it is not there.
    pub folder: PathBuf,
    /// The bytes that the engine may keep of its pages.
    pub cache: u64,
    /// The length at which a new segment of the journal is begun.
    pub segment: u64,
    /// The engine's files are made durable when this many bytes were journaled, and when the store has
    /// been quiet for a while.
    pub checkpoint: u64,
    /// Lets a test refuse what the store does to the disk.
    pub faults: Faults,
}

impl Options {
    /// A store in `folder`, with everything else as it usually is.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), cache: 8 << 20, segment: 8 << 20, checkpoint: 8 << 20, faults: Faults::default() }
    }
}

/// A running store.
pub(super) struct Inner {
    pub core: Arc<Core>,
    pub live: Live,
    pub epoch: u64,
    pub boot: u64,
    threads: Vec<JoinHandle<()>>,
    keeper: Option<Arc<Keeper>>,
    /// Held as long as the store runs.
    _lock: Option<File>,
}

impl Inner {
    pub fn in_memory() -> Self {
        let core = Core::new(Engine::memory(), Reached::default(), Faults::default());
        Self {
            core: Arc::new(core),
            live: Live::default(),
            epoch: 1,
            boot: 1,
            threads: Vec::new(),
            keeper: None,
            _lock: None,
        }
    }

    pub fn open(options: Options) -> Result<Self, StoreError> {
        let fail = |what: &str, error: &dyn std::fmt::Display| {
            StoreError::Engine(format!("{what} {}: {error}", options.folder.display()))
        };
        let (folder, journal) = (&options.folder, options.folder.join("journal"));
        fs::create_dir_all(&journal).map_err(|error| fail("cannot make the folder", &error))?;
        let lock = lock(folder)?;
        let mut manifest = manifest(folder).map_err(|error| fail("cannot read", &error))?;
        let engine = Engine::open(&manifest.generation(folder), options.cache)
            .map_err(|error| fail("cannot open the rows in", &error.0))?;
        let reached = replay(&engine, &journal, manifest.reached())?;
        engine.sync().map_err(|error| fail("cannot save the rows in", &error.0))?;
        manifest.advance(&reached);
        manifest.write(folder).map_err(|error| fail("cannot write to", &error))?;
        let segment = Journal::begin(&journal, &reached, options.segment, &options.faults)
            .map_err(|error| fail("cannot write to", &error))?;

        let core = Arc::new(Core::new(engine, reached, options.faults.clone()));
        let epoch = manifest.epoch;
        let keeper = Arc::new(Keeper::new(Arc::clone(&core), options.clone(), manifest));
        let threads = start(&core, segment, &keeper).map_err(|error| fail("cannot start the threads for", &error))?;
        Ok(Self {
            core,
            live: Live::default(),
            epoch,
            boot: rand::random(),
            threads,
            keeper: Some(keeper),
            _lock: Some(lock),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.stop();
        if let Some(keeper) = &self.keeper {
            keeper.stop();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        if let Some(keeper) = &self.keeper {
            keeper.finish();
        }
    }
}

fn lock(folder: &Path) -> Result<File, StoreError> {
    let fail = |error: io::Error| StoreError::Engine(format!("cannot lock {}: {error}", folder.display()));
    let file = File::options().create(true).append(true).open(folder.join("lock")).map_err(fail)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::Error(error)) => Err(fail(error)),
        Err(TryLockError::WouldBlock) => {
            Err(StoreError::Engine(format!("another program is using {}; only one may at a time", folder.display())))
        }
    }
}

fn manifest(folder: &Path) -> io::Result<Manifest> {
    if let Some(manifest) = Manifest::read(folder)? {
        return Ok(manifest);
    }
    let manifest = Manifest::new(rand::random(), SCHEMA);
    manifest.write(folder)?;
    Ok(manifest)
}

/// Brings the engine up to date with the journal.
fn replay(engine: &Engine, journal: &Path, mut reached: Reached) -> Result<Reached, StoreError> {
    let mut visit = |_: &Reached, group: &Group<'_>| -> Result<(), EngineError> {
        for change in group.writes.iter().flat_map(|write| &write.changes) {
            engine.apply(change.table, change.key, change.value)?;
        }
        Ok(())
    };
    let findings = segments::walk(journal, &mut reached, &mut visit).map_err(|stop| match stop {
        Stop::Disk(error) => StoreError::Engine(format!("cannot read the journal: {error}")),
        Stop::Visitor(error) => StoreError::Engine(error.0),
    })?;
    if let Some(damage) = findings.damage {
        return Err(StoreError::Engine(format!(
            "the journal {} is damaged at byte {}",
            damage.path.display(),
            damage.offset
        )));
    }
    if let Some(tail) = findings.tail {
        tail.mend().map_err(|error| StoreError::Engine(format!("cannot mend the journal: {error}")))?;
    }
    Ok(reached)
}

fn start(core: &Arc<Core>, journal: Journal, keeper: &Arc<Keeper>) -> io::Result<Vec<JoinHandle<()>>> {
    let (to_engine, from_journal) = mpsc::channel();
    let (first, second) = (Arc::clone(core), Arc::clone(core));
    let (told, own) = (Arc::clone(keeper), Arc::clone(keeper));
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name.into()).spawn(run);
    Ok(vec![
        spawn("journal", Box::new(move || pipeline::journal_thread(&first, journal, &to_engine)))?,
        spawn("apply", Box::new(move || pipeline::apply_thread(&second, &from_journal, &|bytes| told.applied(bytes))))?,
        spawn("keeper", Box::new(move || own.run()))?,
    ])
}
