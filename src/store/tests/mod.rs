//! The store from outside, on a real folder: what was acknowledged is there, and nothing is there by half.

mod basics;

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Options, Store, Table};

/// A table to play with.
const WORDS: Table<String, String> = Table::new("words");
/// Another one, whose rows a Write sets together with those of the first.
const PAIRS: Table<(u64, String), u64> = Table::new("pairs");

fn open(folder: &Path) -> Store {
    Store::open(Options::new(folder)).unwrap()
}

/// A copy of a folder as it is at this moment, as a crash would leave it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target: PathBuf = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
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
