//! Opening a store: what the folder holds is brought up to date, then the threads begin.
//!
//! The manifest says which files count; the journal is replayed from the checkpoint; a new segment
//! is begun, so that nothing is ever written behind a place that was read; only then is the store used.
//! What cannot be trusted is set aside and rebuilt from the newest archive and the journal.

use std::{
    fs::{self, File},
    path::Path,
    sync::{Arc, mpsc},
    thread::{self, JoinHandle},
};

use super::{
    StoreError,
    disk::Faults,
    engine::{Engine, EngineError},
    home::{self, Left, Options},
    journal::Group,
    keeper::Keeper,
    live::Live,
    manifest::{self, Manifest},
    migrate,
    pipeline::{self, Core, Journal},
    rebuild,
    segments::{self, Findings, Reached, Stop},
    verify,
};

/// Numbers that may have been given to a Write that a crash took are not given again.
const NUMBERS_AHEAD: u64 = 1 << 16;

/// A running store.
pub(super) struct Inner {
    pub core: Arc<Core>,
    pub live: Live,
    pub epoch: u64,
    pub boot: u64,
    /// What happened at the start that the owner should know.
    pub notices: Vec<String>,
    pub keeper: Option<Arc<Keeper>>,
    threads: Vec<JoinHandle<()>>,
    /// Held as long as the store runs.
    _lock: Option<File>,
}

impl Inner {
    pub fn in_memory() -> Self {
        let core = Core::new(Engine::memory(), Reached::default(), Faults::default(), None);
        Self::over(Arc::new(core), 1)
    }

    /// A store in memory that is started for the `boot`th time.
    pub fn over(core: Arc<Core>, boot: u64) -> Self {
        Self {
            core,
            live: Live::default(),
            epoch: 1,
            boot,
            notices: Vec::new(),
            keeper: None,
            threads: Vec::new(),
            _lock: None,
        }
    }

    pub fn open(options: Options) -> Result<Self, StoreError> {
        let folder = &options.folder;
        fs::create_dir_all(options.journal()).map_err(|error| options.fail("cannot make the folder", error))?;
        let lock = home::lock(folder)?;
        let left = home::left(folder).map_err(|error| options.fail("cannot read", error))?;
        let mut notices = Vec::new();
        let mut manifest = trusted(&options, left, &mut notices)?;
        tidy(&options, &manifest).map_err(|error| options.fail("cannot tidy", error))?;
        home::mark_running(folder).map_err(|error| options.fail("cannot write to", error))?;

        let journal_gone =
            journal_gone(&options, left, &manifest).map_err(|error| options.fail("cannot read", error))?;
        let (engine, mut reached) = up_to_date(&options, &mut manifest, &mut notices)?;
        if journal_gone {
            notices.push("The journal is missing. What was saved since the last checkpoint is lost.".into());
            manifest.epoch = rand::random();
            reached.position += rebuild::JUMP;
            reached.numbers += rebuild::JUMP;
        }
        if left != Left::Clean {
            reached.numbers += NUMBERS_AHEAD;
        }
        let engine = migrated(&options, engine, &mut manifest, &mut reached)?;
        checkpoint(&options, &engine, &mut manifest, &reached)?;
        let journal = Journal::begin(&options.journal(), &reached, manifest.epoch, options.segment, &options.faults)
            .map_err(|error| options.fail("cannot begin the journal of", error))?;
        for notice in &notices {
            tracing::warn!("{notice}");
        }

        let core = Arc::new(Core::new(engine, reached, options.faults.clone(), Some(folder.clone())));
        let epoch = manifest.epoch;
        let keeper = Arc::new(Keeper::new(Arc::clone(&core), options.clone(), manifest));
        let _ = core.keeper.set(Arc::downgrade(&keeper));
        let threads = start(&keeper, journal).map_err(|error| options.fail("cannot start the threads of", error))?;
        Ok(Self {
            core,
            live: Live::default(),
            epoch,
            boot: rand::random(),
            notices,
            keeper: Some(keeper),
            threads,
            _lock: Some(lock),
        })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // What is in memory alone has nothing to finish, and may have been started again.
        if self.keeper.is_none() {
            return;
        }
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

/// The manifest of a store whose files can be opened; after a rebuild, if that is needed.
fn trusted(options: &Options, left: Left, notices: &mut Vec<String>) -> Result<Manifest, StoreError> {
    let folder = &options.folder;
    let Some(manifest) = Manifest::read(folder).map_err(|error| options.fail("cannot read", error))? else {
        let fresh = rebuild::nothing_here(options).map_err(|error| options.fail("cannot read", error))?;
        if !fresh {
            return rebuild::rebuild(options, None, "its manifest is missing or damaged", notices);
        }
        let manifest = Manifest::new(rand::random(), migrate::version(options.migrations));
        manifest.write(folder).map_err(|error| options.fail("cannot write to", error))?;
        return Ok(manifest);
    };
    let engine = manifest.generation(folder);
    if !manifest.digests.is_empty() && !engine.join("db").is_file() {
        return rebuild::rebuild(options, Some(&manifest), "its rows are missing", notices);
    }
    if left == Left::PowerCut
        && let Err(why) = verify::verify(options, &manifest)
    {
        return rebuild::rebuild(options, Some(&manifest), &why, notices);
    }
    Ok(manifest)
}

/// Whether somebody removed the journal of a store that was not closed.
fn journal_gone(options: &Options, left: Left, manifest: &Manifest) -> std::io::Result<bool> {
    Ok(left != Left::Clean && manifest.checkpoint > 0 && segments::list(&options.journal())?.is_empty())
}

/// Removes copies that were never finished, and generations that a finished copy has replaced.
fn tidy(options: &Options, manifest: &Manifest) -> std::io::Result<()> {
    for number in manifest::generations(&options.folder)? {
        if number != manifest.generation {
            fs::remove_dir_all(manifest::generation(&options.folder, number))?;
        }
    }
    Ok(())
}

/// The engine with everything in it that the journal holds.
fn up_to_date(
    options: &Options,
    manifest: &mut Manifest,
    notices: &mut Vec<String>,
) -> Result<(Engine, Reached), StoreError> {
    let engine = match Engine::open(&manifest.generation(&options.folder), options.cache) {
        Ok(engine) => engine,
        Err(error) => {
            // Whether it is the files or something that will pass shows when somebody else tries.
            if verify::verify(options, manifest).is_err() {
                *manifest = rebuild::rebuild(options, Some(manifest), &error.0, notices)?;
            }
            Engine::open(&manifest.generation(&options.folder), options.cache)
                .map_err(|error| options.fail("cannot open the rows of", error.0))?
        }
    };
    let mut reached = manifest.reached();
    let findings = replay(&engine, &options.journal(), &mut reached, u64::MAX)
        .map_err(|error| options.fail("cannot replay the journal of", error.0))?;
    if let Some(damage) = &findings.damage {
        drop(engine);
        // An archive may be newer than the damage.
        *manifest = match rebuild::rebuild(options, Some(manifest), &damage.to_string(), notices) {
            Err(_) if options.accept_loss => rebuild::without_the_rest(options, manifest, &reached, damage, notices)?,
            other => other?,
        };
        return up_to_date(options, manifest, notices);
    }
    if let Some(damage) = &findings.behind {
        notices.push(format!("{damage}. Nothing is lost, but make an archive soon: the older one cannot be used."));
    }
    if let Some(tail) = findings.tail {
        tail.mend().map_err(|error| options.fail("cannot mend the journal of", error))?;
    }
    Ok((engine, reached))
}

/// Brings an engine up to date with the journal, up to the Write `until`.
pub(super) fn replay(
    engine: &Engine,
    journal: &Path,
    reached: &mut Reached,
    until: u64,
) -> Result<Findings, EngineError> {
    let mut visit = |_: &Reached, group: &Group<'_>| -> Result<(), EngineError> {
        for change in group.writes.iter().flat_map(|write| &write.changes) {
            engine.apply(change.table, change.key, change.value)?;
        }
        Ok(())
    };
    segments::walk(journal, reached, until, &mut visit).map_err(|stop| match stop {
        Stop::Disk(error) => error.into(),
        Stop::Visitor(error) => error,
    })
}

/// Copies the rows of an older version into those of the newest, one version after the other.
fn migrated(
    options: &Options,
    mut engine: Engine,
    manifest: &mut Manifest,
    reached: &mut Reached,
) -> Result<Engine, StoreError> {
    let newest = migrate::version(options.migrations);
    if reached.schema > newest {
        let why = "it was written by a newer version of this program; start that one";
        return Err(options.fail("cannot use", why));
    }
    if reached.schema < newest {
        // What the journal still holds is of the old version, and must not be needed any more.
        checkpoint(options, &engine, manifest, reached)?;
    }
    while reached.schema < newest {
        let number = manifest.generation + 1;
        let new = rebuild::migrate_one(options, &engine, reached, number)
            .map_err(|error| options.fail("cannot bring up to date", error.0))?;
        let old = manifest.generation(&options.folder);
        manifest.generation = number;
        manifest.schema = reached.schema;
        checkpoint(options, &new, manifest, reached)?;
        engine = new;
        fs::remove_dir_all(old).map_err(|error| options.fail("cannot tidy", error))?;
    }
    Ok(engine)
}

/// Makes the engine's files durable and says so.
fn checkpoint(
    options: &Options,
    engine: &Engine,
    manifest: &mut Manifest,
    reached: &Reached,
) -> Result<(), StoreError> {
    engine.sync().map_err(|error| options.fail("cannot save the rows of", error.0))?;
    manifest.advance(reached);
    manifest.write(&options.folder).map_err(|error| options.fail("cannot write to", error))
}

fn start(keeper: &Arc<Keeper>, journal: Journal) -> std::io::Result<Vec<JoinHandle<()>>> {
    let (to_engine, from_journal) = mpsc::channel();
    let [first, second, third] = [(); 3].map(|()| Arc::clone(keeper));
    let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| thread::Builder::new().name(name.into()).spawn(run);
    Ok(vec![
        spawn("journal", Box::new(move || pipeline::journal_thread(&first, journal, &to_engine)))?,
        spawn("apply", Box::new(move || pipeline::apply_thread(&second, &from_journal)))?,
        spawn("keeper", Box::new(move || third.run()))?,
    ])
}
