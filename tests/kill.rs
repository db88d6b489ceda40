//! The store against what really happens to programs: `kill -9` in the middle, and a disk that is full.
//!
//! The test program starts itself once more as the one that is killed. It says on its standard output
//! what it was told is durable; whatever it said has to be there, whole.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{BufRead, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use ingle::store::{Options, Store, StoreError, Table};

/// Each Write sets a row of both tables: what is in one has to be in the other.
const LEFT: Table<(u64, u64), String> = Table::new("left");
const RIGHT: Table<(u64, u64), String> = Table::new("right");
/// And the number of its writer's newest row.
const NEWEST: Table<u64, u64> = Table::new("newest");

const WRITERS: u64 = 6;
const FOLDER: &str = "INGLE_KILL_FOLDER";

/// Small, so that segments, checkpoints and copies come often.
fn options(folder: &Path) -> Options {
    Options { segment: 60_000, checkpoint: 40_000, min_free: 1 << 20, reserve: 0, ..Options::new(folder) }
}

fn text(writer: u64, number: u64) -> String {
    format!("{writer}-{number} ").repeat(usize::try_from(number * 7 % 90).unwrap_or(0) + 1)
}

fn write(store: &Store, writer: u64, number: u64) -> Result<(), StoreError> {
    let mut write = store.write();
    write.put(LEFT, &(writer, number), &text(writer, number));
    write.put(RIGHT, &(writer, number), &text(writer, number));
    write.put(NEWEST, &writer, &number);
    // Not all rows stay.
    if number > 50 {
        write.delete(LEFT, &(writer, number - 50));
        write.delete(RIGHT, &(writer, number - 50));
    }
    write.commit()?.wait().map(drop)
}

/// Not a test: the program that is killed.
#[test]
fn the_one_that_is_killed() {
    let Some(folder) = env::var_os(FOLDER) else { return };
    let store = Store::open(options(Path::new(&folder))).expect("the store opens");
    println!("open");
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            let store = &store;
            scope.spawn(move || {
                let newest = store.get(NEWEST, &writer).expect("a row").unwrap_or(0);
                for number in newest + 1.. {
                    write(store, writer, number).expect("a disk that works");
                    println!("durable {writer} {number}");
                }
            });
        }
        loop {
            store.archive().expect("an archive");
            store.compact().expect("a copy");
        }
    });
}

fn start(folder: &Path) -> Child {
    let mut command = Command::new(env::current_exe().expect("this program"));
    command.args(["--exact", "the_one_that_is_killed", "--nocapture"]).env(FOLDER, folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().expect("a child")
}

/// Reads what the child says, kills it after so many lines, and reads the rest.
fn kill_after(mut child: Child, lines: u64, durable: &mut BTreeMap<u64, u64>) {
    let out = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut seen = 0;
    if lines == 0 {
        child.kill().expect("a child to kill");
    }
    // What the pipe holds after the kill was said before it.
    for line in out.lines().map_while(Result::ok) {
        // The last line may be cut off; a number that lost its end is only smaller.
        if let Some(("durable", rest)) = line.split_once(' ')
            && let Some((writer, number)) = rest.split_once(' ')
            && let (Ok(writer), Ok(number)) = (writer.parse(), number.parse())
        {
            let newest = durable.entry(writer).or_default();
            *newest = (*newest).max(number);
        }
        seen += 1;
        if seen == lines {
            child.kill().expect("a child to kill");
        }
    }
    child.wait().expect("a child");
}

/// Everything that was said to be durable is there, and nothing is there by half.
fn check(store: &Store, durable: &BTreeMap<u64, u64>, what: &str) {
    assert!(store.notices().is_empty(), "{what}: {:?}", store.notices());
    let left: Vec<_> = store.scan(LEFT, &()).map(|row| row.expect("a row")).collect();
    let right: Vec<_> = store.scan(RIGHT, &()).map(|row| row.expect("a row")).collect();
    assert!(left == right, "{what}: a Write is there by half");
    let mut count = left.len() + right.len();
    for writer in 0..WRITERS {
        let newest = store.get(NEWEST, &writer).expect("a row").unwrap_or(0);
        let said = durable.get(&writer).copied().unwrap_or(0);
        assert!(newest >= said, "{what}: writer {writer} was told that {said} is durable, but {newest} is there");
        let rows = left.iter().filter(|((of, _), _)| *of == writer);
        let expected =
            (newest.saturating_sub(49).max(1)..=newest).map(|number| ((writer, number), text(writer, number)));
        assert!(rows.cloned().eq(expected), "{what}: the rows of writer {writer}");
        count += usize::from(newest > 0);
    }
    let rows = store.usage().expect("a folder").rows;
    assert_eq!(rows, count as u64, "{what}: the number of rows that the store believes in");
}

#[test]
fn whoever_is_killed_has_lost_nothing_that_was_acknowledged() {
    if env::var_os(FOLDER).is_some() {
        return;
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (mut durable, mut chance) = (BTreeMap::new(), 0x9E37_79B9_7F4A_7C15u64);
    for round in 0..56 {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        // Now and then while it opens, mostly while it works.
        let lines = if chance.is_multiple_of(8) { chance >> 8 & 1 } else { chance >> 8 & 0xFF };
        kill_after(start(folder.path()), lines, &mut durable);
        // Every other time the next child finds what the last one left.
        if round % 2 == 0 {
            let store = Store::open(options(folder.path())).expect("the store opens");
            check(&store, &durable, &format!("kill {round}"));
        }
    }
    check(&Store::open(options(folder.path())).expect("the store opens"), &durable, "at the end");
    assert!(durable.values().sum::<u64>() > 500, "hardly anything was written: {durable:?}");
}

/// A disk of its own, as large as it is told.
struct Disk(PathBuf);

impl Disk {
    fn mount(folder: &Path, size: &str) -> Option<Self> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(folder).stderr(Stdio::null());
        match mount.status() {
            Ok(status) if status.success() => Some(Self(folder.to_owned())),
            _ => {
                println!("skipped: this user may not mount a small disk");
                None
            }
        }
    }

    /// Leaves only so many bytes free.
    fn fill(&self, leave: u64) {
        let free = fs4::available_space(&self.0).expect("a disk");
        let mut file = fs::File::create(self.0.join("ballast")).expect("a file");
        let bytes = vec![1; 1 << 16];
        let mut left = free.saturating_sub(leave);
        while left > 0 {
            let part = bytes.len().min(usize::try_from(left).unwrap_or(bytes.len()));
            if file.write_all(&bytes[..part]).is_err() {
                return;
            }
            left -= part as u64;
        }
    }

    fn free(&self) {
        fs::remove_file(self.0.join("ballast")).expect("a file");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Writes until it no longer works, and says how many Writes were acknowledged, and the error.
fn write_until_refused(store: &Store, from: u64) -> (u64, StoreError) {
    for number in from.. {
        if let Err(error) = write(store, 0, number) {
            return (number - 1, error);
        }
    }
    unreachable!("the disk is small")
}

/// Whether a full disk is met early, by the watch of the free space, or only when writing fails.
fn full(min_free: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(disk) = Disk::mount(folder.path(), "48m") else { return };
    let place = disk.0.join("store");
    let options = Options { min_free, reserve: 4 << 20, segment: 1 << 20, checkpoint: 1 << 20, ..Options::new(&place) };
    let store = Store::open(options.clone()).expect("the store opens");
    for number in 1..200 {
        write(&store, 0, number).expect("a disk with space");
    }
    disk.fill(200_000);
    let mut last = 199;
    // The reserve that is given up may help once more.
    for _ in 0..3 {
        let error;
        (last, error) = write_until_refused(&store, last + 1);
        println!("with {min_free} bytes to be kept free, after {last} Writes: {error}");
        assert!(matches!(error, StoreError::Engine(_) | StoreError::ReadOnly(_)), "{error}");
    }
    // Reading goes on.
    let mut durable = BTreeMap::from([(0, last)]);
    for number in last.saturating_sub(49).max(1)..=last {
        let row = store.get(LEFT, &(0, number)).expect("reading goes on");
        // The Write that failed may have removed it.
        assert!(row.is_some() || number + 50 == last + 1, "row {number} of {last}");
    }
    drop(store);
    disk.free();
    let store = Store::open(options).expect("the store opens again");
    check(&store, &durable, "after there was space again");
    let newest = store.get(NEWEST, &0).expect("a row").unwrap_or(0);
    write(&store, 0, newest + 1).expect("a disk with space");
    durable.insert(0, newest + 1);
    check(&store, &durable, "after one more");
}

#[test]
fn a_disk_that_runs_full_stops_writing_with_a_reason_and_loses_nothing() {
    full(4 << 20);
}

#[test]
fn so_does_a_disk_that_is_full_to_the_last_byte() {
    full(0);
}
