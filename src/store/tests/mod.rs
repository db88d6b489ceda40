//! The store from outside, on a real folder: what was acknowledged is there, and nothing is there by half.

mod basics;
pub(crate) mod crashes;
mod failures;
mod recovery;

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process,
};

use super::{Options, Store, Table, Verifier, digest::Digests, verify};

/// A table to play with.
const WORDS: Table<String, String> = Table::new("words");
/// Another one, whose rows a Write sets together with those of the first.
const PAIRS: Table<(u64, String), u64> = Table::new("pairs");

/// A store that verifies as the real one does, in a child process, and asks for little space.
fn options(folder: &Path) -> Options {
    let arguments = ["store::tests::child_process", "--exact", "--nocapture", "--test-threads=1"];
    let program = env::current_exe().unwrap();
    Options {
        min_free: 1 << 20,
        reserve: 0,
        verifier: Verifier::Program(program, arguments.map(Into::into).to_vec()),
        ..Options::new(folder)
    }
}

/// Not a test: the child process of [`options`].
#[test]
fn child_process() {
    let mut arguments = env::args_os().skip_while(|argument| argument != "verify-store").skip(1).peekable();
    if arguments.peek().is_some() {
        let code = verify::child_with(arguments);
        process::exit(i32::from(code != process::ExitCode::SUCCESS));
    }
}

pub(crate) fn open(folder: &Path) -> Store {
    Store::open(options(folder)).unwrap()
}

/// A copy of a folder as it is at this moment. What disappears meanwhile is left out.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target: PathBuf = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            let _ = fs::copy(entry.path(), target);
        }
    }
}

/// Makes the next start believe that the machine was started anew.
fn forget_the_start(folder: &Path) {
    fs::write(folder.join("running"), "another start of the machine").unwrap();
}

/// Sets one word, and waits until it is durable.
fn say(store: &Store, key: &str, value: &str) {
    let mut write = store.write();
    write.put(WORDS, &key.to_owned(), &value.to_owned());
    write.commit().unwrap().wait().unwrap();
}

fn words(store: &Store) -> Vec<String> {
    store.scan(WORDS, &()).map(|row| row.map(|(key, value)| format!("{key}={value}")).unwrap()).collect()
}

/// Everything in the store, as text.
type Rows = BTreeMap<String, String>;

fn rows(store: &Store) -> Rows {
    let words = store.scan(WORDS, &()).map(|row| row.unwrap());
    let pairs = store.scan(PAIRS, &()).map(|row| row.unwrap());
    words
        .map(|(key, value)| (format!("word {key}"), value))
        .chain(pairs.map(|((room, key), value)| (format!("pair {room} {key}"), value.to_string())))
        .collect()
}

/// What the store believes that its tables hold, and what they hold.
fn digests(store: &Store) -> [Digests; 2] {
    let core = store.core();
    [core.applied.lock().digests.clone(), core.engine().digests(&mut |_| {}).unwrap()]
}

/// A source of chance that is the same each time.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// A store beside what it should hold: after each Write, as a list.
struct Model {
    store: Store,
    chance: Chance,
    /// What the store holds after so many Writes.
    states: Vec<Rows>,
    tickets: Vec<super::Ticket>,
    /// So many Writes are known to be durable.
    acknowledged: usize,
}

impl Model {
    fn new(store: Store, seed: u64) -> Self {
        let states = vec![rows(&store)];
        Self { store, chance: Chance::new(seed), states, tickets: Vec::new(), acknowledged: 0 }
    }

    /// One Write of several rows of both tables. Says whether the store took it.
    fn write(&mut self) -> bool {
        let chance = &mut self.chance;
        let mut next = self.states.last().unwrap().clone();
        let mut write = self.store.write();
        for _ in 0..=chance.below(4) {
            let key = format!("{:02}", chance.below(40));
            if chance.below(4) == 0 {
                write.delete(WORDS, &key);
                next.remove(&format!("word {key}"));
            } else {
                let length = if chance.below(20) == 0 { 5000 } else { 20 };
                let value =
                    format!("{:04}", chance.below(10_000)).repeat(usize::try_from(chance.below(length)).unwrap());
                write.put(WORDS, &key, &value);
                next.insert(format!("word {key}"), value);
            }
        }
        let room = chance.below(3);
        let slot = write.slot();
        write.put_at(PAIRS, slot, move |position| ((room, format!("{:06}", position.0)), position.0));
        if chance.below(3) == 0 {
            // Removes what an earlier Write set by its position.
            let first = write.scan(PAIRS, &room).unwrap().into_iter().next();
            if let Some(((room, key), _)) = first {
                write.delete(PAIRS, &(room, key.clone()));
                next.remove(&format!("pair {room} {key}"));
            }
        }
        let Ok(ticket) = write.commit() else { return false };
        let position = ticket.position(slot).0;
        next.insert(format!("pair {room} {position:06}"), position.to_string());
        self.states.push(next);
        self.tickets.push(ticket);
        true
    }

    /// Waits for everything that is queued. Says whether all of it was acknowledged.
    fn wait(&mut self) -> bool {
        for ticket in self.tickets.drain(..) {
            if ticket.wait().is_err() {
                return false;
            }
            self.acknowledged += 1;
        }
        true
    }

    /// Whether a store is as this one was after one of its Writes, and not before what was acknowledged.
    #[track_caller]
    fn check(&self, acknowledged: usize, committed: usize, store: &Store, what: &str) -> usize {
        let found = rows(store);
        let state = (acknowledged..=committed).rev().find(|index| self.states[*index] == found);
        let earlier = self.states.iter().rposition(|state| *state == found);
        let [believed, held] = digests(store);
        assert_eq!(believed, held, "{what}: the digests");
        state.unwrap_or_else(|| {
            panic!("{what}: not as it was after Write {acknowledged} to {committed}, but as after {earlier:?}")
        })
    }
}
