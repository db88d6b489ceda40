//! Backups: a folder with everything that a server needs to begin again elsewhere.
//!
//! ```text
//! archive.ingle       all rows, as `store` writes them
//! signing.key         without it other servers do not believe that this is the same server
//! ```
//!
//! Everything here blocks and is meant for commands. The configuration is the owner's own file.

use std::{
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use crate::{
    remote::own_key,
    store::{Options, Store},
};

const ARCHIVE: &str = "archive.ingle";

/// Copies an archive that the store has made, and the key beside it, into a new folder. Returns its size
/// in bytes.
pub fn keep(archive: &Path, data_dir: &Path, to: &Path) -> Result<u64, String> {
    let failed = |error: io::Error| format!("the backup cannot be written to {}: {error}", to.display());
    match fs::read_dir(to).map(|mut entries| entries.next().is_none()) {
        Ok(false) => return Err(format!("{} is not empty; name a new folder for each backup", to.display())),
        Ok(true) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(to).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    let key = copy(&data_dir.join(own_key::FILE), &to.join(own_key::FILE)).map_err(failed)?;
    // Last, so that a folder with an archive in it is whole.
    let rows = copy(archive, &to.join(ARCHIVE)).map_err(failed)?;
    Ok(key + rows)
}

/// Proves that a backup can be restored, by doing so into `scratch`, which is removed again.
pub fn verify(from: &Path, scratch: Options) -> Result<(), String> {
    let archive = archive(from)?;
    let folder = scratch.folder.clone();
    let done = Store::restore(&scratch, &archive).map_err(|error| error.to_string());
    let removed = fs::remove_dir_all(&folder);
    done?;
    removed.map_err(|error| format!("{} is left over and cannot be removed: {error}", folder.display()))
}

/// Begins a server from a backup, where there is none.
pub fn restore(from: &Path, data_dir: &Path, store: &Options) -> Result<(), String> {
    let archive = archive(from)?;
    if store.folder.exists() {
        let folder = store.folder.display();
        return Err(format!("there is a server in {folder} already; move it away first: mv {folder} {folder}.old"));
    }
    let failed = |error: io::Error| format!("{} cannot be used: {error}", data_dir.display());
    let (saved, own) = (from.join(own_key::FILE), data_dir.join(own_key::FILE));
    match (fs::read(&saved), fs::read(&own)) {
        (Ok(saved), Ok(own)) if saved == own => {}
        (Ok(_), Ok(_)) => {
            return Err(format!("{} is another key than that of the backup; move it away first", own.display()));
        }
        // First of all: a store without its key would get a new one at the next start.
        (Ok(_), Err(_)) => drop(copy(&saved, &own).map_err(failed)?),
        (Err(_), Ok(_)) => {}
        (Err(error), Err(_)) => {
            return Err(format!("{} cannot be read ({error}), and no server is without its key", saved.display()));
        }
    }
    Store::restore(store, &archive).map_err(|error| error.to_string())
}

fn archive(from: &Path) -> Result<std::path::PathBuf, String> {
    let archive = if from.is_dir() { from.join(ARCHIVE) } else { from.to_owned() };
    match archive.is_file() {
        true => Ok(archive),
        false => Err(format!("there is no {}; name a folder that `ingle backup make` has written", archive.display())),
    }
}

/// Copies a file so that it is on the disk, whole, or not there under that name.
fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let draft = to.with_extension("part");
    let mut out = File::options().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    let bytes = io::copy(&mut File::open(from)?, &mut out)?;
    out.flush()?;
    out.sync_all()?;
    fs::rename(&draft, to)?;
    if let Some(folder) = to.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(bytes)
}
