//! How the server's store is: what whoever runs the server should know of it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    clock::Clock,
    error::Result,
    store::{Store, Usage},
};

/// How the store is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Why nothing can be saved, or a part cannot be read; nothing if all is well.
    pub trouble: Option<String>,
    /// What was noticed at the start, in sentences: what was rebuilt, and what was lost.
    pub notices: Vec<String>,
    /// What was found damaged at some start and is kept.
    pub set_aside: Vec<PathBuf>,
    /// The newest archive, and for how many seconds it has been there.
    pub archive: Option<(PathBuf, u64)>,
    /// How many rows there are.
    pub rows: u64,
    /// The bytes of the engine's files, of the journal, and of the archives.
    pub disk: [u64; 3],
}

/// Asks the store how it is. Reads the sizes of its files.
pub fn of(store: &Store, clock: &Clock) -> Result<Status> {
    let Usage { rows, engine, journal, archives, .. } = store.usage()?;
    let archive = store.newest_archive().map(|(path, made)| {
        let made = made.duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        (path, (clock.now() / 1000).saturating_sub(made))
    });
    Ok(Status {
        trouble: store.health().err().map(|error| error.to_string()),
        notices: store.notices().to_vec(),
        set_aside: store.set_aside(),
        archive,
        rows,
        disk: [engine, journal, archives],
    })
}
