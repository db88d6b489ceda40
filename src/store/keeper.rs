//! What is done now and then while the store runs: checkpoints, and letting go of old journal.

use std::{sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{
    StoreError,
    disk::{self, Op},
    manifest::Manifest,
    open::Options,
    pipeline::{Closed, Core},
    segments,
};

/// A store that was quiet for this long is checkpointed.
const QUIET: Duration = Duration::from_secs(60);

/// Looks after a running store.
pub(super) struct Keeper {
    core: Arc<Core>,
    options: Options,
    /// Locked while the files that count change.
    manifest: Mutex<Manifest>,
    due: Mutex<Due>,
    call: Condvar,
}

#[derive(Default)]
struct Due {
    /// Bytes that were applied since the last checkpoint.
    bytes: u64,
    stopping: bool,
}

impl Keeper {
    pub fn new(core: Arc<Core>, options: Options, manifest: Manifest) -> Self {
        Self { core, options, manifest: Mutex::new(manifest), due: Mutex::default(), call: Condvar::new() }
    }

    /// A group was applied.
    pub fn applied(&self, bytes: usize) {
        let mut due = self.due.lock();
        due.bytes += bytes as u64;
        if due.bytes >= self.options.checkpoint {
            self.call.notify_one();
        }
    }

    /// The thread.
    pub fn run(&self) {
        loop {
            let mut due = self.due.lock();
            if !due.stopping && due.bytes < self.options.checkpoint {
                self.call.wait_for(&mut due, QUIET);
            }
            if due.stopping {
                return;
            }
            if due.bytes > 0 {
                due.bytes = 0;
                drop(due);
                // What failed is closed already, and said so in the log.
                let _ = self.checkpoint();
            }
        }
    }

    /// Makes the engine's files durable, and lets go of the journal before.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let mut manifest = self.manifest.lock();
        let reached = self.core.applied.lock().clone();
        if let Err(error) =
            self.core.faults.check(Op::Checkpoint).map_err(Into::into).and_then(|()| self.core.engine.load().sync())
        {
            // After a failed fsync nobody knows what the disk holds.
            let why = format!("the disk failed while saving ({})", error.0);
            self.core.close(Closed::Failed(why.clone()));
            return Err(StoreError::Engine(why));
        }
        let mut next = manifest.clone();
        next.advance(&reached);
        let folder = &self.options.folder;
        let saved = self.core.faults.check(Op::Manifest).and_then(|()| next.write(folder));
        saved.map_err(|error| StoreError::Engine(format!("cannot write to {}: {error}", folder.display())))?;
        *manifest = next;
        self.retire(&manifest).map_err(|error| StoreError::Engine(format!("cannot tidy the journal: {error}")))
    }

    /// Removes the segments that neither a start nor a rebuild needs.
    fn retire(&self, manifest: &Manifest) -> std::io::Result<()> {
        let archived = manifest.archive.as_ref().map_or(0, |archive| archive.begin);
        let needed = manifest.checkpoint.min(archived);
        let found = segments::list(&self.options.folder.join("journal"))?;
        for pair in found.windows(2) {
            if pair[1].first <= needed + 1 {
                disk::remove(&pair[0].path)?;
            }
        }
        Ok(())
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.due.lock().stopping = true;
        self.call.notify_one();
    }

    /// The last checkpoint, when nothing is applied any more.
    pub fn finish(&self) {
        if let Err(error) = self.checkpoint() {
            tracing::error!(%error, "the store could not be closed cleanly");
        }
    }
}
