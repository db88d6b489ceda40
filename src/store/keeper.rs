//! What is done beside reading and writing while the store runs: checkpoints, letting go of old
//! journal, watching the free space, and opening the engine again after it failed.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::{Condvar, Mutex};

use super::{
    StoreError,
    disk::{self, Op},
    engine::{Engine, EngineError},
    home::{self, Options},
    manifest::Manifest,
    open::replay,
    pipeline::{Closed, Core},
    segments::{self, Reached},
};

/// A store that was quiet for this long is checkpointed.
const QUIET: Duration = Duration::from_secs(60);
/// How often the free space is looked at while there is too little.
const LOW: Duration = Duration::from_millis(500);
/// The engine is opened again at most so often when space is not what it lacks.
const ATTEMPTS: u32 = 5;

/// Looks after a running store.
pub(super) struct Keeper {
    pub core: Arc<Core>,
    pub options: Options,
    /// Locked while the files that count change.
    pub manifest: Mutex<Manifest>,
    /// Locked while rows are copied: one copy at a time.
    pub copying: Mutex<()>,
    /// From where on running copies need the journal.
    pins: Mutex<Vec<u64>>,
    /// Locked while the engine is opened again.
    mending: Mutex<()>,
    due: Mutex<Due>,
    call: Condvar,
}

#[derive(Default)]
struct Due {
    /// Bytes that were applied since the last checkpoint.
    bytes: u64,
    /// There is too little space.
    low: bool,
    /// The engine failed for want of space.
    trouble: bool,
    /// There is a reserve.
    reserved: bool,
    stopping: bool,
}

/// Keeps the journal from a place on, until it is dropped.
pub(super) struct Pin<'a> {
    keeper: &'a Keeper,
    from: u64,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        let mut pins = self.keeper.pins.lock();
        if let Some(index) = pins.iter().position(|from| *from == self.from) {
            pins.swap_remove(index);
        }
    }
}

impl Keeper {
    pub fn new(core: Arc<Core>, options: Options, manifest: Manifest) -> Self {
        Self {
            core,
            options,
            manifest: Mutex::new(manifest),
            copying: Mutex::default(),
            pins: Mutex::default(),
            mending: Mutex::default(),
            due: Mutex::default(),
            call: Condvar::new(),
        }
    }

    /// What the engine holds at this moment, and the journal from here on for as long as the pin lives.
    pub fn pin(&self) -> (Pin<'_>, Reached) {
        let mut pins = self.pins.lock();
        let reached = self.core.applied.lock().clone();
        pins.push(reached.last);
        (Pin { keeper: self, from: reached.last }, reached)
    }

    /// A group was applied.
    pub fn applied(&self, bytes: usize) {
        let mut due = self.due.lock();
        due.bytes += bytes as u64;
        if due.bytes >= self.options.checkpoint {
            self.call.notify_one();
        }
    }

    /// The engine failed for want of space: it is to be opened again.
    pub fn trouble(&self) {
        self.due.lock().trouble = true;
        self.call.notify_one();
    }

    /// The thread.
    pub fn run(&self) {
        self.look_at_space();
        self.keep_reserve();
        loop {
            let mut due = self.due.lock();
            if !due.stopping && (due.low || due.bytes < self.options.checkpoint) {
                let wait = if due.low || due.trouble { LOW } else { QUIET };
                self.call.wait_for(&mut due, wait);
            }
            if due.stopping {
                return;
            }
            let trouble = std::mem::take(&mut due.trouble);
            drop(due);
            self.look_at_space();
            self.keep_reserve();
            if trouble {
                let broken = !self.core.is_open() || self.core.engine().flush().is_err_and(|error| error.is_space());
                let mended = if broken { self.reopen(self.core.replaced()) } else { Ok(()) };
                self.due.lock().trouble |= mended.is_err();
            }
            let mut due = self.due.lock();
            // Without space a checkpoint would only do harm; the journal has everything.
            let bytes = if due.low { 0 } else { std::mem::take(&mut due.bytes) };
            drop(due);
            if bytes > 0
                && let Err(error) = self.checkpoint()
            {
                tracing::error!(%error, "the store could not make a checkpoint");
            }
        }
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.due.lock().stopping = true;
        self.call.notify_one();
    }

    /// The last checkpoint, when nothing is applied any more.
    pub fn finish(&self) {
        // Also those numbers are gone that were given to a Write that was never committed.
        let mut applied = self.core.applied.lock();
        applied.numbers = applied.numbers.max(self.core.numbers.load(Ordering::Relaxed) - 1);
        drop(applied);
        let closed = self.checkpoint().and_then(|()| match self.core.sound() {
            true => {
                home::mark_closed(&self.options.folder).map_err(|error| self.options.fail("cannot write to", error))
            }
            false => Ok(()),
        });
        if let Err(error) = closed {
            tracing::error!(%error, "the store could not be closed; the next start looks through it");
        }
    }

    /// Makes the engine's files durable, and lets go of the journal before.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut manifest = self.manifest.lock();
        let reached = self.core.applied.lock().clone();
        if reached.last == manifest.checkpoint && reached.numbers == manifest.numbers {
            return Ok(());
        }
        let engine = self.core.engine();
        let synced = self.core.faults.check(Op::Checkpoint).map_err(EngineError::from).and_then(|()| engine.sync());
        // What could not be made durable is still in the journal, and stays there; but after a failed
        // fsync nobody knows what the files hold.
        synced.map_err(|error| self.core.broken(&error))?;
        let mut next = manifest.clone();
        next.advance(&reached);
        let saved = self.core.faults.check(Op::Manifest).and_then(|()| next.write(&self.options.folder));
        saved.map_err(|error| self.options.fail("cannot write to", error))?;
        *manifest = next;
        self.retire(&manifest).map_err(|error| self.options.fail("cannot tidy the journal of", error))
    }

    /// Removes the segments that neither a start nor a rebuild nor a running copy needs.
    pub fn retire(&self, manifest: &Manifest) -> io::Result<()> {
        let archived = manifest.archive.as_ref().map_or(0, |archive| archive.begin);
        let pins = self.pins.lock();
        let needed = pins.iter().copied().fold(manifest.checkpoint.min(archived), u64::min);
        let found = segments::list(&self.options.journal())?;
        for pair in found.windows(2) {
            if pair[1].first <= needed + 1 {
                disk::remove(&pair[0].path)?;
            }
        }
        Ok(())
    }

    /// Stops accepting while there is too little space, and begins again when there is enough: also for
    /// the reserve, if that was given up.
    pub fn look_at_space(&self) {
        let options = &self.options;
        let free = self.core.faults.check(Op::Space).and_then(|()| fs4::available_space(&options.folder));
        let free = free.unwrap_or(0);
        let mut due = self.due.lock();
        let wanted = options.min_free + if due.reserved { 0 } else { options.reserve };
        let was_low = due.low;
        // A little more than enough, or it would begin and end all the time.
        due.low = free < wanted || due.low && free < wanted + options.min_free / 4;
        let low = due.low;
        drop(due);
        if low {
            if !was_low {
                tracing::error!("only {} MB are free in {}", free >> 20, options.folder.display());
                self.call.notify_one();
            }
            self.core.close(Closed::Full(format!(
                "only {} MB are free on the disk of {}; free some space there",
                free >> 20,
                options.folder.display()
            )));
        } else if was_low {
            tracing::info!("there is space in {} again", options.folder.display());
            self.core.open_again(|closed| matches!(closed, Closed::Full(_)));
        }
    }

    /// Makes the reserve, if there is space for it.
    fn keep_reserve(&self) {
        let options = &self.options;
        if self.due.lock().low {
            return;
        }
        match home::keep_reserve(&options.folder, options.reserve) {
            Ok(()) => self.due.lock().reserved = true,
            Err(error) => tracing::warn!(%error, "no space can be reserved in {}", options.folder.display()),
        }
    }

    /// Opens the engine again, after it failed, until `retry` works. Says whether it did.
    pub fn recover(&self, error: &EngineError, retry: &mut dyn FnMut() -> Result<(), EngineError>) -> bool {
        let folder = &self.options.folder;
        tracing::error!(error = %error.0, "the engine cannot save rows; it is opened again as soon as it can be");
        let why = format!("the rows cannot be saved ({}); what was written is kept and shown later", error.0);
        self.core.close(Closed::Reopening(why));
        let (mut wait, mut attempts) = (Duration::from_millis(10), 0);
        loop {
            if self.core.wait_for_stop(wait) {
                return false;
            }
            wait = (wait * 2).min(Duration::from_secs(10));
            let reopened = self.core.faults.check(Op::Reopen).map_err(EngineError::from);
            let result = reopened.and_then(|()| self.reopen(self.core.replaced()));
            match result.and_then(|()| retry()) {
                Ok(()) => {
                    tracing::info!("the engine is open again");
                    self.core.open_again(|closed| matches!(closed, Closed::Reopening(_)));
                    self.look_at_space();
                    return true;
                }
                Err(error) => tracing::error!(error = %error.0, "the engine cannot be opened again yet"),
            }
            if fs4::available_space(folder).unwrap_or(0) > self.options.min_free {
                attempts += 1;
            }
            if attempts == ATTEMPTS {
                let _ = home::mark_suspect(folder);
                self.core.close(Closed::Failed("the rows cannot be saved; a restart repairs them".into()));
                return false;
            }
        }
    }

    /// Closes the engine, opens it, and brings it to where it was, unless somebody has done that since it
    /// was replaced for the `seen`th time. The reserve is given up for it.
    pub fn reopen(&self, seen: u64) -> Result<(), EngineError> {
        let _alone = self.mending.lock();
        if self.core.replaced() != seen {
            return Ok(());
        }
        if home::give_up_reserve(&self.options.folder) {
            tracing::warn!("the reserve in {} is given up", self.options.folder.display());
        }
        self.due.lock().reserved = false;
        self.look_at_space();
        let manifest = self.manifest.lock();
        let mut applied = self.core.applied.lock();
        let mut old = self.core.replace(Engine::Closed);
        let patience = Instant::now() + Duration::from_secs(5);
        let last = loop {
            match Arc::try_unwrap(old) {
                Ok(engine) => break Some(engine),
                Err(_) if Instant::now() > patience => break None,
                Err(used) => old = used,
            }
            thread::sleep(Duration::from_millis(1));
        };
        // The engine may panic when it cannot save what it still holds.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(last)));
        let engine = Engine::open(&manifest.generation(&self.options.folder), self.options.cache)?;
        let mut reached = manifest.reached();
        replay(&engine, &self.options.journal(), &mut reached, applied.last)?;
        if reached.last != applied.last {
            return Err(EngineError("the journal ends too early".into()));
        }
        *applied = reached;
        self.core.replace(engine);
        Ok(())
    }
}
