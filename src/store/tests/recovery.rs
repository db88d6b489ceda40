//! Archives, compact copies, migrations, and stores that come back from damage.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tempfile::tempdir;

use super::*;
use crate::store::{
    Position, Progress, StoreError, archive,
    manifest::Manifest,
    migrate::{Migration, Row},
    segments,
};

/// The files of the engine that count.
fn engine(folder: &Path) -> PathBuf {
    Manifest::read(folder).unwrap().unwrap().generation(folder)
}

/// Overwrites a file from the middle on.
fn garble(path: &Path, seed: u64) {
    let mut bytes = fs::read(path).unwrap();
    let mut chance = Chance::new(seed);
    let middle = bytes.len() / 2;
    for byte in &mut bytes[middle..] {
        *byte = chance.below(256).to_le_bytes()[0];
    }
    fs::write(path, bytes).unwrap();
}

fn filled(folder: &Path, seed: u64) -> Model {
    let mut model = Model::new(open(folder), seed);
    for _ in 0..80 {
        assert!(model.write());
    }
    assert!(model.wait());
    model
}

fn close(model: &mut Model) -> Rows {
    drop(std::mem::replace(&mut model.store, Store::in_memory()));
    model.states.last().unwrap().clone()
}

#[test]
fn a_store_without_its_rows_comes_back_from_the_journal() {
    let folder = tempdir().unwrap();
    let mut model = filled(folder.path(), 1);
    let expected = close(&mut model);
    fs::remove_dir_all(engine(folder.path())).unwrap();
    let store = open(folder.path());
    assert_eq!(rows(&store), expected);
    assert!(store.notices().is_empty() || !store.notices()[0].contains("lost"), "{:?}", store.notices());
}

#[test]
fn a_store_with_garbled_rows_comes_back_from_archive_and_journal() {
    for seed in 0..4 {
        let folder = tempdir().unwrap();
        let mut model = filled(folder.path(), seed);
        model.store.archive().unwrap();
        for _ in 0..40 {
            assert!(model.write());
        }
        assert!(model.wait());
        let epoch = model.store.epoch();
        let expected = close(&mut model);
        let damaged = engine(folder.path());
        garble(&damaged.join("db"), seed);
        forget_the_start(folder.path());
        let store = open(folder.path());
        assert_eq!(rows(&store), expected);
        assert_eq!(store.epoch(), epoch);
        let notice = store.notices().first().unwrap();
        assert!(notice.contains("was rebuilt") && notice.contains("set-aside"), "{notice}");
        assert!(fs::read_dir(folder.path().join("set-aside")).unwrap().count() == 1);
        // And it is a store like any other afterwards.
        say(&store, "a", "1");
        drop(store);
        assert!(open(folder.path()).notices().is_empty());
    }
}

#[test]
fn a_lost_manifest_is_made_anew() {
    let folder = tempdir().unwrap();
    let mut model = filled(folder.path(), 3);
    let (epoch, position) = (model.store.epoch(), model.store.position());
    let expected = close(&mut model);
    fs::write(folder.path().join("MANIFEST"), "nonsense").unwrap();
    let store = open(folder.path());
    assert_eq!((rows(&store), store.epoch(), store.position()), (expected, epoch, position));
}

#[test]
fn a_sound_store_is_found_sound_after_a_power_cut() {
    let (folder, crashed) = (tempdir().unwrap(), tempdir().unwrap());
    let model = filled(folder.path(), 4);
    copy(folder.path(), crashed.path());
    forget_the_start(crashed.path());
    let store = open(crashed.path());
    assert!(store.notices().is_empty(), "{:?}", store.notices());
    assert_eq!(rows(&store), *model.states.last().unwrap());
}

#[test]
fn an_archive_made_while_others_write_restores_to_one_moment() {
    let (folder, restored) = (tempdir().unwrap(), tempdir().unwrap());
    let mut model = filled(folder.path(), 5);
    let done = Arc::new(AtomicBool::new(false));
    let (store, flag) = (model.store.clone(), Arc::clone(&done));
    let archiver = std::thread::spawn(move || {
        let path = store.archive();
        flag.store(true, Ordering::SeqCst);
        path
    });
    while !done.load(Ordering::SeqCst) {
        assert!(model.write() && model.wait());
    }
    let archive = archiver.join().unwrap().unwrap();
    Store::restore(&options(restored.path()), &archive).unwrap();
    let store = open(restored.path());
    model.check(80, model.states.len() - 1, &store, "the archive");
    assert_ne!(store.epoch(), model.store.epoch());
    assert!(store.position() > model.store.position());
    assert!(store.write().number() > model.store.write().number());
    let error = Store::restore(&options(restored.path()), &archive).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    drop(store);
    let error = Store::restore(&options(restored.path()), &archive).unwrap_err().to_string();
    assert!(error.contains("a store already"), "{error}");
}

#[test]
fn old_archives_and_old_journal_are_let_go() {
    let folder = tempdir().unwrap();
    let small = Options { segment: 4096, ..options(folder.path()) };
    let mut model = Model::new(Store::open(small.clone()).unwrap(), 6);
    let journal = || segments::list(&small.journal()).unwrap().first().unwrap().first;
    for round in 0..4 {
        for _ in 0..40 {
            assert!(model.write() && model.wait());
        }
        model.store.checkpoint().unwrap();
        assert_eq!(journal() == 1, round == 0, "without an archive the journal is kept");
        model.store.archive().unwrap();
    }
    assert!(journal() > 100);
    assert_eq!(archive::list(&small.archive_folder()).unwrap().len(), 2);
    let expected = close(&mut model);
    fs::remove_dir_all(engine(folder.path())).unwrap();
    assert_eq!(rows(&open(folder.path())), expected);
}

#[test]
fn a_damaged_archive_makes_room_for_the_one_before() {
    let folder = tempdir().unwrap();
    let mut model = filled(folder.path(), 7);
    let first = model.store.archive().unwrap();
    assert!(model.write() && model.wait());
    let kept = tempdir().unwrap();
    copy(&folder.path().join("journal"), kept.path());
    let second = model.store.archive().unwrap();
    let expected = close(&mut model);
    assert_ne!(first, second);
    garble(&second, 1);
    // The journal between the two is what the older one needs.
    copy(kept.path(), &folder.path().join("journal"));
    fs::remove_dir_all(engine(folder.path())).unwrap();
    let store = open(folder.path());
    assert_eq!(rows(&store), expected);
    assert!(store.notices()[0].contains("cannot be rebuilt from"), "{:?}", store.notices());
}

#[test]
fn a_compact_copy_is_made_while_others_write() {
    let folder = tempdir().unwrap();
    let mut model = filled(folder.path(), 8);
    let before = engine(folder.path());
    for _ in 0..3 {
        let done = Arc::new(AtomicBool::new(false));
        let (store, flag) = (model.store.clone(), Arc::clone(&done));
        let copier = std::thread::spawn(move || {
            let result = store.compact();
            flag.store(true, Ordering::SeqCst);
            result
        });
        while !done.load(Ordering::SeqCst) {
            assert!(model.write() && model.wait());
        }
        copier.join().unwrap().unwrap();
    }
    let last = model.states.len() - 1;
    model.check(last, last, &model.store, "the copy");
    assert!(!before.exists() && engine(folder.path()).exists());
    let expected = close(&mut model);
    assert_eq!(rows(&open(folder.path())), expected);
}

#[test]
fn a_compact_copy_is_smaller() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    for round in 0..20 {
        let mut write = store.write();
        for key in 0..200 {
            write.put(WORDS, &format!("{key:05}"), &format!("{round}").repeat(300));
        }
        write.commit().unwrap().wait().unwrap();
    }
    store.checkpoint().unwrap();
    let before = store.usage().unwrap();
    store.compact().unwrap();
    let after = store.usage().unwrap();
    assert_eq!((after.rows, after.bytes), (before.rows, before.bytes));
    assert!(after.engine < before.engine / 2, "{before:?} {after:?}");
}

fn loudly(row: Row<'_>, new: &mut dyn FnMut(Row<'_>)) {
    match row.table {
        "words" => {
            let text: String = ciborium::from_reader(row.value).unwrap();
            let mut value = Vec::new();
            ciborium::into_writer(&text.to_uppercase(), &mut value).unwrap();
            new(Row { value: &value, ..row });
        }
        _ => new(row),
    }
}

const LOUDER: &[Migration] = &[
    Migration { name: "louder words", row: |_, row, new| loudly(row, new) },
    Migration {
        name: "no word a",
        row: |old, row, new| {
            assert!(old.get(row.table, row.key).is_some());
            if !(row.table == "words" && row.key.starts_with(b"a")) {
                new(row);
            }
        },
    },
];

#[test]
fn older_tables_are_brought_up_to_date_one_version_after_the_other() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    say(&store, "a", "one");
    store.archive().unwrap();
    say(&store, "b", "two");
    drop(store);
    let migrating = Options { migrations: &LOUDER[..1], ..options(folder.path()) };
    let store = Store::open(migrating.clone()).unwrap();
    assert_eq!(words(&store), ["a=ONE", "b=TWO"]);
    say(&store, "c", "three");
    assert_eq!(store.position(), Position(3));
    drop(store);
    let error = Store::open(options(folder.path())).err().unwrap().to_string();
    assert!(error.contains("newer version"), "{error}");
    let newest = Options { migrations: LOUDER, ..migrating };
    let store = Store::open(newest.clone()).unwrap();
    assert_eq!(words(&store), ["b=TWO", "c=three"]);
    say(&store, "d", "four");
    drop(store);
    // From the archive of the first version, through both migrations, to the newest row.
    fs::remove_dir_all(engine(folder.path())).unwrap();
    let store = Store::open(newest).unwrap();
    assert_eq!(words(&store), ["b=TWO", "c=three", "d=four"]);
    assert_eq!(digests(&store)[0], digests(&store)[1]);
}

#[test]
fn damage_in_the_journal_is_reported_and_never_cut() {
    let (folder, crashed) = (tempdir().unwrap(), tempdir().unwrap());
    let mut model = Model::new(open(folder.path()), 9);
    for _ in 0..50 {
        assert!(model.write() && model.wait());
    }
    copy(folder.path(), crashed.path());
    let path = segments::list(&crashed.path().join("journal")).unwrap().pop().unwrap().path;
    let mut bytes = fs::read(&path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[written / 2] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = Store::open(options(crashed.path())).err().unwrap().to_string();
    assert!(error.contains("is damaged at byte") && error.contains("Nothing has been changed"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), bytes);
    let epoch = Manifest::read(crashed.path()).unwrap().unwrap().epoch;
    let store = Store::open(Options { accept_loss: true, ..options(crashed.path()) }).unwrap();
    let state = model.check(1, 49, &store, "with the loss accepted");
    assert!((10..49).contains(&state), "{state}");
    assert_ne!(store.epoch(), epoch);
    assert!(store.position() > model.store.position());
    assert!(store.notices().iter().any(|notice| notice.contains("are lost")), "{:?}", store.notices());
    let aside = fs::read_dir(crashed.path().join("set-aside")).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(aside.into_iter().any(|name| name.to_string_lossy().contains(".journal")));
    say(&store, "a", "1");
    drop(store);
    assert!(open(crashed.path()).notices().is_empty());
}

#[test]
fn a_missing_journal_is_noticed() {
    let (folder, crashed) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(folder.path());
    say(&store, "a", "1");
    store.checkpoint().unwrap();
    say(&store, "b", "2");
    copy(folder.path(), crashed.path());
    fs::remove_dir_all(crashed.path().join("journal")).unwrap();
    let after = open(crashed.path());
    assert!(after.notices()[0].contains("journal is missing"), "{:?}", after.notices());
    assert!(after.epoch() != store.epoch() && after.position() > store.position());
    assert_eq!(words(&after)[0], "a=1");
}

#[test]
fn damage_before_the_checkpoint_does_no_harm() {
    let folder = tempdir().unwrap();
    let mut model = filled(folder.path(), 10);
    let expected = close(&mut model);
    let path = segments::list(&folder.path().join("journal")).unwrap().remove(0).path;
    garble(&path, 1);
    let store = open(folder.path());
    assert_eq!(rows(&store), expected);
}

#[test]
fn a_row_that_cannot_be_read_is_an_error_once_and_a_reason_to_look_at_the_next_start() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    say(&store, "a", "1");
    let numbers: Table<String, u64> = Table::new("words");
    let found: Vec<_> = store.scan(numbers, &()).collect();
    assert!(matches!(found[..], [Err(StoreError::BadRow { table: "words" })]));
    store.core().broken(&crate::store::engine::EngineError("a page is damaged".into()));
    assert!(store.health().is_err());
    drop(store);
    let seen = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&seen);
    let progress = Progress::new(move |_, _, _| flag.store(true, Ordering::SeqCst));
    assert!(folder.path().join("suspect").exists());
    let store = Store::open(Options { progress, ..options(folder.path()) }).unwrap();
    assert!(!folder.path().join("suspect").exists());
    assert_eq!(words(&store), ["a=1"]);
}

fn sweep(store: &Store) -> Result<(), StoreError> {
    let mut write = store.write();
    write.delete(WORDS, &"orphan".to_owned());
    write.commit()?.wait().map(drop)
}

#[test]
fn what_a_job_left_behind_is_swept_at_the_start() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    say(&store, "orphan", "1");
    say(&store, "word", "2");
    drop(store);
    let store = Store::open(Options { sweeps: &[sweep], ..options(folder.path()) }).unwrap();
    assert_eq!(words(&store), ["word=2"]);
}
