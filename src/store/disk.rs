//! What the store does to files beside the engine's own: whole files by rename, folders that are
//! made to last, and the one seam at which a test may let any of it fail.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

/// A step at which the disk may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// A group is about to be written to the journal.
    Append,
    /// The journal is about to be made durable.
    Sync,
    /// A journaled group is about to be applied to the engine.
    Apply,
    /// The engine's files are about to be made durable.
    Checkpoint,
    /// The engine's files are durable, and the manifest is about to say so.
    Manifest,
    /// The engine is about to be opened again after a failed apply.
    Reopen,
    /// The free space is about to be looked at: an error means that there is none.
    Space,
}

/// Lets a test refuse a step; by default nothing is refused.
#[derive(Clone, Default)]
pub struct Faults(Option<Arc<Hook>>);

type Hook = dyn Fn(Op) -> io::Result<()> + Send + Sync;

impl Faults {
    /// Asks `hook` before every step.
    pub fn new(hook: impl Fn(Op) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(hook)))
    }

    /// An error when the hook refuses this step.
    pub(super) fn check(&self, op: Op) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |hook| hook(op))
    }
}

/// Writes a whole file so that after a crash either the old or the new text is there, never a mixture.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = path.with_extension("new");
    let mut file = File::create(&draft)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    sync_parent(path)
}

/// Renames so that the new name lasts.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(from)?;
    sync_parent(to)
}

/// Removes a file so that it stays removed; one that is not there is no error.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => sync_parent(path),
    }
}

/// Makes the names in a folder last.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), sync_folder)
}

/// Makes everything below a folder last: files, folders, and their names.
pub(super) fn sync_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let synced = match entry.file_type()?.is_dir() {
            true => sync_tree(&entry.path()),
            false => File::open(entry.path()).and_then(|file| file.sync_all()),
        };
        match synced {
            // The engine may remove a file of its own in between.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    sync_folder(path)
}

/// The bytes that the files below a folder take.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    let mut total = 0;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let size = match entry.file_type()?.is_dir() {
            true => size(&entry.path()),
            false => entry.metadata().map(|metadata| metadata.len()),
        };
        match size {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => total += other?,
        }
    }
    Ok(total)
}
