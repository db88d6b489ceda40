//! The key that signs what this server says, in a file of its own: `signing.key` in the data folder.
//!
//! One line each, as other homeservers have it: `ed25519 <version> <seed in Base64>`. The last line is the
//! key in use. Whoever restores a backup must bring this file along: without it other servers no longer
//! believe that this is the same server.
//!
//! Spec: server-server-api#retrieving-server-keys, appendices#signing-details

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use crate::protocol::{
    hash::{base64, unbase64},
    sign::KeyPair,
};

/// The name of the file in the data folder.
pub const FILE: &str = "signing.key";

/// Why there is no key.
#[derive(Debug)]
pub struct KeyError {
    file: PathBuf,
    why: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the signing key in {} cannot be used: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for KeyError {}

/// The key of the server whose data is in `folder`, made from `seed` if this is its first start.
pub fn load_or_create(folder: &Path, seed: [u8; 32]) -> Result<KeyPair, KeyError> {
    let file = folder.join(FILE);
    let failed = |why: String| KeyError { file: file.clone(), why };
    match fs::read_to_string(&file) {
        Ok(text) => parse(&text).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let version = version_of(&seed);
            let line = format!("ed25519 {version} {}\n", base64(&seed));
            create(folder, &file, &line).map_err(|error| failed(error.to_string()))?;
            Ok(KeyPair::from_seed(&seed, version))
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

fn parse(text: &str) -> Result<KeyPair, String> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = lines.next_back().ok_or("the file is empty; put the copy from your backup here")?;
    let &[algorithm, version, seed] = &line.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err("a line must read `ed25519 <version> <seed>`".to_owned());
    };
    if algorithm != "ed25519" {
        return Err(format!("the algorithm {algorithm} is not known; only ed25519 is"));
    }
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(format!("the version {version:?} may hold letters, digits and _ only"));
    }
    let seed = unbase64(seed.trim_end_matches('=')).and_then(|bytes| bytes.try_into().ok());
    let seed: [u8; 32] = seed.ok_or("the seed must be 32 bytes in Base64")?;
    Ok(KeyPair::from_seed(&seed, version))
}

/// A version that another key will hardly ever have.
fn version_of(seed: &[u8; 32]) -> String {
    let public = KeyPair::from_seed(seed, "a").public();
    let letters = public.as_bytes().iter().take(6).map(|byte| char::from(b'a' + byte % 26));
    format!("a_{}", letters.collect::<String>())
}

/// Writes the file so that after a power cut it is either there, whole, or not there at all.
fn create(folder: &Path, file: &Path, text: &str) -> io::Result<()> {
    let fresh = file.with_extension("key.new");
    let mut out = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(&fresh, file)?;
    fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let first = load_or_create(folder.path(), [1; 32]).unwrap();
        let again = load_or_create(folder.path(), [2; 32]).unwrap();
        assert_eq!((first.id(), first.seed()), (again.id(), again.seed()));
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_of_another_homeserver_is_taken_over() {
        let key = parse("ed25519 a_abcd YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n").unwrap();
        assert_eq!(key.id(), "ed25519:a_abcd");
    }

    #[test]
    fn a_broken_file_is_never_replaced() {
        for text in ["", "ed25519 a", "ed25519 a! AAAA", "rsa a AAAA", "ed25519 a AAAA"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(load_or_create(folder.path(), [1; 32]).is_err(), "{text}");
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), text);
        }
    }
}
