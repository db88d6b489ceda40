//! The one file that says which files count: the generation of the engine's folder, how far it is
//! certain, the newest archive, the version of the tables, and the epoch.
//!
//! It is replaced by rename, as a whole; a line of JSON for whoever looks into the folder, and its
//! checksum.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{digest::Digests, disk, segments::Reached};

/// Which files count, and what is true of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// The version of this file's own format.
    pub format: u64,
    /// Which folder the engine's files are in.
    pub generation: u64,
    /// The newest archive that was verified.
    pub archive: Option<ArchiveNote>,
    /// The version of the tables.
    pub schema: u64,
    /// A random number that changes when positions no longer mean what they meant.
    pub epoch: u64,
    /// The engine's files certainly hold every Write up to this one.
    pub checkpoint: u64,
    /// The last position given up to the checkpoint.
    pub position: u64,
    /// The highest number given up to the checkpoint.
    pub numbers: u64,
    /// What the tables hold at the checkpoint.
    pub digests: Digests,
}

/// An archive, as the manifest knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ArchiveNote {
    /// Its file, in the folder of the archives.
    pub file: String,
    /// The last Write that it certainly held when it was begun: the journal is kept from here.
    pub begin: u64,
    /// The last Write that it holds.
    pub end: u64,
}

const FORMAT: u64 = 1;
const NAME: &str = "MANIFEST";

impl Manifest {
    /// The manifest of a store that is made now.
    pub fn new(epoch: u64, schema: u64) -> Self {
        Self {
            format: FORMAT,
            generation: 1,
            archive: None,
            schema,
            epoch,
            checkpoint: 0,
            position: 0,
            numbers: 0,
            digests: Digests::new(),
        }
    }

    /// The manifest in `folder`; nothing if there is none or it is damaged. One of a format that this
    /// program does not know is an error.
    pub fn read(folder: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(folder.join(NAME)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let Some(line) = whole(&text) else { return Ok(None) };
        match serde_json::from_slice::<Format>(line) {
            Ok(Format { format: FORMAT }) => Ok(serde_json::from_slice(line).ok()),
            Ok(_) => Err(io::Error::other("it was written by a newer version of this program; start that one")),
            Err(_) => Ok(None),
        }
    }

    /// Replaces the manifest in `folder`. It is durable when this returns.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let line = serde_json::to_string(self)?;
        let sum = checksum(line.as_bytes());
        disk::replace(&folder.join(NAME), format!("{line}\n{sum}\n").as_bytes())
    }

    /// The folder of the engine's files.
    pub fn generation(&self, folder: &Path) -> PathBuf {
        generation(folder, self.generation)
    }

    /// Where a replay begins.
    pub fn reached(&self) -> Reached {
        Reached {
            last: self.checkpoint,
            position: self.position,
            numbers: self.numbers,
            schema: self.schema,
            digests: self.digests.clone(),
        }
    }

    /// Notes that the engine's files hold everything up to here.
    pub fn advance(&mut self, reached: &Reached) {
        self.checkpoint = reached.last;
        self.position = reached.position;
        self.numbers = reached.numbers;
        self.digests = reached.digests.clone();
    }
}

#[derive(Deserialize)]
struct Format {
    format: u64,
}

/// The first line, if the second is its checksum.
fn whole(text: &[u8]) -> Option<&[u8]> {
    let mut lines = text.splitn(3, |byte| *byte == b'\n');
    let (line, sum) = (lines.next()?, lines.next()?);
    (sum == checksum(line).as_bytes()).then_some(line)
}

/// The folder of the engine's files of one generation.
pub(super) fn generation(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("generation-{number:06}"))
}

/// The generations that lie in the folder, sorted.
pub(super) fn generations(folder: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("generation-")?.parse::<u64>().ok());
        found.extend(number);
    }
    found.sort_unstable();
    Ok(found)
}

fn checksum(line: &[u8]) -> String {
    format!("{:032x}", xxh3_128(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::new(u64::MAX, 3);
        manifest.digests.insert("rooms".into(), crate::store::digest::Digest { rows: 1, bytes: 2, sum: u128::MAX });
        manifest.archive = Some(ArchiveNote { file: "a".into(), begin: 1, end: 2 });
        assert_eq!(Manifest::read(folder.path()).unwrap(), None);
        manifest.write(folder.path()).unwrap();
        assert_eq!(Manifest::read(folder.path()).unwrap(), Some(manifest));
    }

    #[test]
    fn a_manifest_of_a_later_format_is_no_damage() {
        let folder = tempfile::tempdir().unwrap();
        Manifest { format: FORMAT + 1, ..Manifest::new(1, 1) }.write(folder.path()).unwrap();
        assert!(Manifest::read(folder.path()).unwrap_err().to_string().contains("newer version"));
    }

    #[test]
    fn a_garbled_manifest_is_none() {
        let folder = tempfile::tempdir().unwrap();
        Manifest::new(1, 1).write(folder.path()).unwrap();
        let path = folder.path().join(NAME);
        let text = fs::read(&path).unwrap();
        for at in 0..text.len() - 1 {
            let mut garbled = text.clone();
            garbled[at] ^= 1;
            fs::write(&path, garbled).unwrap();
            assert_eq!(Manifest::read(folder.path()).unwrap(), None, "byte {at}");
        }
    }
}
