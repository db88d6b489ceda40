//! The key that signs what this server says, in a file of its own: `signing.key` in the data folder.
//!
//! ```text
//! given-up ed25519 <version> <public key in Base64> <since when, in milliseconds since the epoch>
//! ed25519 <version> <seed in Base64>
//! ```
//!
//! The last line is the key in use, in the form of other homeservers. Keys before it are given up at the next
//! start, when nothing can be signed with them any more; their public halves stay, so that others still believe
//! what they have signed. Whoever restores a backup must bring this file along: without it other servers no
//! longer believe that this is the same server.
//!
//! Spec: server-server-api#retrieving-server-keys, appendices#signing-details

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use crate::protocol::{
    hash::{base64, unbase64},
    sign::{KeyPair, PublicKey},
};

/// The name of the file in the data folder.
pub const FILE: &str = "signing.key";
/// How the line of a key begins that is no longer used.
const GIVEN_UP: &str = "given-up";
/// Held while the file is changed: one at a time.
static CHANGING: Mutex<()> = Mutex::new(());

/// The keys of this server.
#[derive(Debug)]
pub struct OwnKeys {
    /// The one that signs.
    pub pair: KeyPair,
    /// Those that did.
    pub given_up: Vec<GivenUp>,
}

/// A key that this server no longer signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    /// Its ID, such as `ed25519:a_abcd`.
    pub id: String,
    /// What its signatures are verified with.
    pub public: PublicKey,
    /// Since when, in milliseconds since the epoch.
    pub since: u64,
}

impl From<KeyPair> for OwnKeys {
    fn from(pair: KeyPair) -> Self {
        Self { pair, given_up: Vec::new() }
    }
}

/// Why there is no key, or no new one.
#[derive(Debug)]
pub struct KeyError {
    file: PathBuf,
    why: String,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file of the signing key, {}: {}", self.file.display(), self.why)
    }
}

impl std::error::Error for KeyError {}

/// The keys of the server whose data is in `folder`, the first one made from `seed` if this is its first start.
///
/// Only for whoever opens the data folder: keys before the last are given up `now`.
pub fn load_or_create(folder: &Path, seed: [u8; 32], now: u64) -> Result<OwnKeys, KeyError> {
    let _alone = CHANGING.lock();
    let file = folder.join(FILE);
    let failed = |why: String| KeyError { file: file.clone(), why };
    match fs::read_to_string(&file) {
        Ok(text) => {
            let (keys, settled) = parse(&text, now).map_err(failed)?;
            if settled.trim_end() != text.trim_end() {
                write(folder, &file, &settled).map_err(|error| failed(error.to_string()))?;
            }
            Ok(keys)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let (pair, line) = new_key(&seed);
            write(folder, &file, &line).map_err(|error| failed(error.to_string()))?;
            Ok(pair.into())
        }
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Puts a new key, made from `seed`, behind the one in use; the next start takes it over. Returns its ID.
///
/// Errors: there is no good file, a new key waits already, or the disk refuses.
pub fn rotate(folder: &Path, seed: [u8; 32]) -> Result<String, KeyError> {
    let _alone = CHANGING.lock();
    let file = folder.join(FILE);
    let failed = |why: String| KeyError { file: file.clone(), why };
    let text = fs::read_to_string(&file).map_err(|error| failed(error.to_string()))?;
    parse(&text, 0).map_err(failed)?;
    if text.lines().filter(|line| is_key(line)).count() > 1 {
        return Err(failed("a new key waits in it already; restart the server, which then uses it".to_owned()));
    }
    let (pair, line) = new_key(&seed);
    write(folder, &file, &format!("{}\n{line}", text.trim_end())).map_err(|error| failed(error.to_string()))?;
    Ok(pair.id())
}

/// Whether a line has a key with its secret half.
fn is_key(line: &str) -> bool {
    let line = line.trim();
    !line.is_empty() && !line.starts_with('#') && line.split_whitespace().next() != Some(GIVEN_UP)
}

/// The keys in a file, and the file with every key but the last given up, `now`.
fn parse(text: &str, now: u64) -> Result<(OwnKeys, String), String> {
    let lines: Vec<&str> = text.lines().collect();
    let last = lines.iter().rposition(|line| is_key(line));
    let last = last.ok_or("it holds no key; put the copy from your backup here")?;
    let (mut pair, mut given_up, mut settled) = (None, Vec::new(), String::new());
    for (at, line) in lines.into_iter().enumerate() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let settled_line = match is_key(line) {
            true if at == last => {
                pair = Some(parse_key(&fields)?);
                line.to_owned()
            }
            true => {
                let old = parse_key(&fields)?;
                given_up.push(GivenUp { id: old.id(), public: old.public(), since: now });
                format!("{GIVEN_UP} ed25519 {} {} {now}", old.version(), old.public().to_base64())
            }
            false => {
                if fields.first() == Some(&GIVEN_UP) {
                    given_up.push(parse_given_up(&fields)?);
                }
                line.to_owned()
            }
        };
        settled += &settled_line;
        settled.push('\n');
    }
    let pair = pair.ok_or("it holds no key")?;
    if given_up.iter().any(|old| old.id == pair.id()) {
        return Err(format!("two keys are called {}", pair.id()));
    }
    Ok((OwnKeys { pair, given_up }, settled))
}

fn parse_key(fields: &[&str]) -> Result<KeyPair, String> {
    let &[algorithm, version, seed] = fields else {
        return Err("a line must read `ed25519 <version> <seed>`".to_owned());
    };
    check_name(algorithm, version)?;
    let seed = unbase64(seed.trim_end_matches('=')).and_then(|bytes| bytes.try_into().ok());
    let seed: [u8; 32] = seed.ok_or("the seed must be 32 bytes in Base64")?;
    Ok(KeyPair::from_seed(&seed, version))
}

fn parse_given_up(fields: &[&str]) -> Result<GivenUp, String> {
    let &[_, algorithm, version, public, since] = fields else {
        return Err(format!("a line must read `{GIVEN_UP} ed25519 <version> <public key> <since when>`"));
    };
    check_name(algorithm, version)?;
    let public = PublicKey::from_base64(public).ok_or("the public key must be 32 bytes in Base64")?;
    let since = since.parse().map_err(|_| format!("{since} is no time in milliseconds"))?;
    Ok(GivenUp { id: format!("{algorithm}:{version}"), public, since })
}

fn check_name(algorithm: &str, version: &str) -> Result<(), String> {
    if algorithm != "ed25519" {
        return Err(format!("the algorithm {algorithm} is not known; only ed25519 is"));
    }
    if version.is_empty() || !version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return Err(format!("the version {version:?} may hold letters, digits and _ only"));
    }
    Ok(())
}

/// A new key and its line.
fn new_key(seed: &[u8; 32]) -> (KeyPair, String) {
    let version = version_of(seed);
    let line = format!("ed25519 {version} {}\n", base64(seed));
    (KeyPair::from_seed(seed, version), line)
}

/// A version that another key will hardly ever have.
fn version_of(seed: &[u8; 32]) -> String {
    let public = KeyPair::from_seed(seed, "a").public();
    let letters = public.as_bytes().iter().take(6).map(|byte| char::from(b'a' + byte % 26));
    format!("a_{}", letters.collect::<String>())
}

/// Writes the file so that after a power cut it is whole, as it was or as it is to be.
fn write(folder: &Path, file: &Path, text: &str) -> io::Result<()> {
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
        let first = load_or_create(folder.path(), [1; 32], 0).unwrap().pair;
        let again = load_or_create(folder.path(), [2; 32], 1).unwrap().pair;
        assert_eq!((first.id(), first.seed()), (again.id(), again.seed()));
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_of_another_homeserver_is_taken_over() {
        let key = parse("ed25519 a_abcd YJDBA9Xnr2sVqXD9Vj7XVUnmFZcZrlw8Md7kMW+3XA1\n", 0).unwrap().0;
        assert_eq!(key.pair.id(), "ed25519:a_abcd");
    }

    #[test]
    fn a_broken_file_is_never_replaced() {
        let (_, good) = new_key(&[1; 32]);
        let half = format!("given-up ed25519 a AAAA 1\n{good}");
        let twice = format!("{good}{good}");
        for text in ["", "ed25519 a", "ed25519 a! AAAA", "rsa a AAAA", "ed25519 a AAAA", &half, &twice] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join(FILE), text).unwrap();
            assert!(load_or_create(folder.path(), [1; 32], 0).is_err(), "{text}");
            assert!(rotate(folder.path(), [2; 32]).is_err(), "{text}");
            assert_eq!(fs::read_to_string(folder.path().join(FILE)).unwrap(), text);
        }
    }

    #[test]
    fn a_new_key_takes_over_at_the_next_start_and_the_old_one_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let load = |now| load_or_create(folder.path(), [1; 32], now).unwrap();
        let first = load(10).pair;
        let second = rotate(folder.path(), [2; 32]).unwrap();
        let why = rotate(folder.path(), [3; 32]).unwrap_err().to_string();
        assert!(why.contains("a new key waits"), "{why}");
        let keys = load(20);
        let old = GivenUp { id: first.id(), public: first.public(), since: 20 };
        assert_eq!((keys.pair.id(), keys.given_up), (second, vec![old.clone()]));
        // Its secret half is gone, and the moment stays what it was.
        let text = fs::read_to_string(folder.path().join(FILE)).unwrap();
        assert!(!text.contains(&base64(first.seed())), "{text}");
        assert_eq!(load(30).given_up, vec![old.clone()]);
        let third = rotate(folder.path(), [3; 32]).unwrap();
        let keys = load(40);
        let since: Vec<_> = keys.given_up.iter().map(|old| old.since).collect();
        assert_eq!((keys.pair.id(), since), (third, vec![20, 40]));
        let mode = fs::metadata(folder.path().join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
