//! The folder of a store: what lies where in it, who may use it, and what its owner is told.
//!
//! ```text
//! MANIFEST            which of the files below count
//! lock                held by the program that uses the folder
//! running             there while a program uses it; after a crash it says which start of the machine that was
//! suspect             there when a row could not be read: the next start looks through everything
//! reserve             space to give up when the disk is full
//! generation-000001/  the engine's files
//! journal/            the journal's segments
//! archives/           backups
//! set-aside/          what was found damaged: never read again, and never removed
//! ```

use std::{
    ffi::OsString,
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    Store, StoreError,
    disk::{self, Faults},
    migrate::{self, Migration},
};

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
    /// Nothing is accepted while less space than this is free.
    pub min_free: u64,
    /// The space that is kept to be given up when the disk is full nevertheless.
    pub reserve: u64,
    /// How many archives are kept.
    pub archives: usize,
    /// Who looks through the rows after a crash.
    pub verifier: Verifier,
    /// Whether to go on with what can still be read when a part of what was saved is lost for good.
    pub accept_loss: bool,
    /// What removes rows that a large job left behind half-way; run at the end of a start.
    pub sweeps: &'static [Sweep],
    /// How older tables become newer ones.
    pub migrations: &'static [Migration],
    /// Who is told when something takes long.
    pub progress: Progress,
    /// Lets a test refuse what the store does to the disk.
    pub faults: Faults,
}

/// Removes rows that nothing refers to.
pub type Sweep = fn(&Store) -> Result<(), StoreError>;

impl Options {
    /// A store in `folder`, with everything else as it usually is.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            cache: 8 << 20,
            segment: 8 << 20,
            checkpoint: 8 << 20,
            min_free: 64 << 20,
            reserve: 4 << 20,
            archives: 2,
            verifier: Verifier::Here,
            accept_loss: false,
            sweeps: &[],
            migrations: migrate::MIGRATIONS,
            progress: Progress::default(),
            faults: Faults::default(),
        }
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.folder.join("journal")
    }

    pub(super) fn archive_folder(&self) -> PathBuf {
        self.folder.join("archives")
    }

    /// An error with the folder's name in it.
    pub(super) fn fail(&self, what: &str, error: impl std::fmt::Display) -> StoreError {
        StoreError::Engine(format!("{what} {}: {error}", self.folder.display()))
    }
}

/// Who looks through the rows after a crash. The engine may panic, hang, or ask for all memory
/// when its files are damaged.
#[derive(Clone)]
pub enum Verifier {
    /// This program, on a thread that is left alone when it takes too long.
    Here,
    /// A program that calls [`super::verify::child`] first thing: its path and the arguments to put
    /// before that function's own.
    Program(PathBuf, Vec<OsString>),
}

impl Verifier {
    /// The running program, once more.
    pub fn this_program() -> io::Result<Self> {
        Ok(Self::Program(std::env::current_exe()?, Vec::new()))
    }

    pub(super) fn command(&self) -> Option<Command> {
        match self {
            Self::Here => None,
            Self::Program(program, arguments) => {
                let mut command = Command::new(program);
                command.args(arguments);
                Some(command)
            }
        }
    }
}

/// Is told how far something is that takes more than two seconds: what is done, how much of it, and
/// of how much (0 if that is unknown).
#[derive(Clone, Default)]
pub struct Progress(Option<Arc<Tell>>);

type Tell = dyn Fn(&str, u64, u64) + Send + Sync;

impl Progress {
    /// Calls `tell` about twice a second.
    pub fn new(tell: impl Fn(&str, u64, u64) + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(tell)))
    }

    /// Begins something of `total` parts.
    pub(super) fn begin(&self, what: &'static str, total: u64) -> Step<'_> {
        Step { progress: self, what, total, next: Instant::now() + Duration::from_secs(2) }
    }
}

/// Something that may take long.
pub(super) struct Step<'a> {
    progress: &'a Progress,
    what: &'static str,
    total: u64,
    next: Instant,
}

impl Step<'_> {
    /// So much is done.
    pub fn at(&mut self, done: u64) {
        if let Some(tell) = &self.progress.0
            && Instant::now() >= self.next
        {
            self.next = Instant::now() + Duration::from_millis(500);
            tell(self.what, done, self.total);
        }
    }
}

/// Takes the folder for this program, as long as the file is open.
pub(super) fn lock(folder: &Path) -> Result<File, StoreError> {
    let fail = |error: io::Error| StoreError::Engine(format!("cannot lock {}: {error}", folder.display()));
    let file = File::options().create(true).append(true).open(folder.join("lock")).map_err(fail)?;
    // A store that was closed a moment ago may still be held by a child process that is just starting.
    let patience = Instant::now() + Duration::from_millis(500);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(fail(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < patience => thread::sleep(Duration::from_millis(5)),
            Err(TryLockError::WouldBlock) => {
                let why = format!("another program is using {}; only one may at a time", folder.display());
                return Err(StoreError::Engine(why));
            }
        }
    }
}

/// How the store was left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It was closed.
    Clean,
    /// The program ended without closing it; what it had written is still as it wrote it.
    Killed,
    /// The machine stopped, or nobody knows: what was not made durable may be gone.
    PowerCut,
}

const RUNNING: &str = "running";
const SUSPECT: &str = "suspect";

/// How the store in `folder` was left.
pub(super) fn left(folder: &Path) -> io::Result<Left> {
    if folder.join(SUSPECT).exists() {
        return Ok(Left::PowerCut);
    }
    match fs::read_to_string(folder.join(RUNNING)) {
        Ok(text) => {
            let same = machine_start().is_some_and(|start| start == text.trim());
            Ok(if same { Left::Killed } else { Left::PowerCut })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Left::Clean),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Left::PowerCut),
        Err(error) => Err(error),
    }
}

/// Notes that the store is in use from now on, and that what it holds was found in order.
pub(super) fn mark_running(folder: &Path) -> io::Result<()> {
    disk::replace(&folder.join(RUNNING), machine_start().unwrap_or_default().as_bytes())?;
    disk::remove(&folder.join(SUSPECT))
}

/// Notes that the store was closed.
pub(super) fn mark_closed(folder: &Path) -> io::Result<()> {
    disk::remove(&folder.join(RUNNING))
}

/// Notes that a row could not be read.
pub(super) fn mark_suspect(folder: &Path) -> io::Result<()> {
    disk::replace(&folder.join(SUSPECT), b"a row could not be read\n")
}

/// A text that is another one after each start of the machine; nothing where there is no such text.
fn machine_start() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// Where that is which was found damaged.
pub(super) fn shelf(folder: &Path) -> PathBuf {
    folder.join("set-aside")
}

/// Moves something out of the way without removing it, and says where it is now.
pub(super) fn set_aside(folder: &Path, path: &Path) -> io::Result<PathBuf> {
    let shelf = shelf(folder);
    fs::create_dir_all(&shelf)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let free = (0..).map(|count| shelf.join(format!("{name}-{}", now + count))).find(|target| !target.exists());
    let target = free.unwrap_or_else(|| shelf.join(&*name));
    disk::rename(path, &target)?;
    Ok(target)
}

/// Makes the file that is given up when the disk is full, if it is not there.
pub(super) fn keep_reserve(folder: &Path, bytes: u64) -> io::Result<()> {
    let path = folder.join("reserve");
    if bytes == 0 || fs::metadata(&path).is_ok_and(|metadata| metadata.len() == bytes) {
        return Ok(());
    }
    let file = File::create(&path)?;
    io::copy(&mut io::Read::take(io::repeat(0), bytes), &mut &file)?;
    file.sync_all()
}

/// Gives up the reserve; says whether there was one.
pub(super) fn give_up_reserve(folder: &Path) -> bool {
    fs::remove_file(folder.join("reserve")).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_store_was_left_is_seen_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        assert_eq!(left(path).unwrap(), Left::Clean);
        mark_running(path).unwrap();
        let killed = if machine_start().is_some() { Left::Killed } else { Left::PowerCut };
        assert_eq!(left(path).unwrap(), killed);
        mark_suspect(path).unwrap();
        assert_eq!(left(path).unwrap(), Left::PowerCut);
        mark_running(path).unwrap();
        mark_closed(path).unwrap();
        assert_eq!(left(path).unwrap(), Left::Clean);
        fs::write(path.join(RUNNING), "another start").unwrap();
        assert_eq!(left(path).unwrap(), Left::PowerCut);
    }

    #[test]
    fn what_is_set_aside_is_kept_even_twice() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thing");
        for text in ["one", "two"] {
            fs::write(&path, text).unwrap();
            let kept = set_aside(folder.path(), &path).unwrap();
            assert_eq!(fs::read_to_string(kept).unwrap(), text);
            assert!(!path.exists());
        }
    }
}
