//! The disk fails: what is answered then, and what is there afterwards.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tempfile::tempdir;

use super::*;
use crate::store::{
    StoreError,
    disk::{Faults, Op},
};

/// Refuses a step as often as `count` says.
fn refusing(op: Op, count: &Arc<AtomicU64>) -> Faults {
    let count = Arc::clone(count);
    Faults::new(move |step| {
        let left = || count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if step == op && left().is_ok() { Err(io::Error::other("the disk is on fire")) } else { Ok(()) }
    })
}

fn faulty(folder: &Path, op: Op) -> (Store, Arc<AtomicU64>) {
    let count = Arc::new(AtomicU64::new(0));
    let store = Store::open(Options { faults: refusing(op, &count), ..options(folder) }).unwrap();
    (store, count)
}

#[test]
fn after_a_failed_append_or_fsync_nothing_is_accepted_until_a_restart() {
    for op in [Op::Append, Op::Sync] {
        let folder = tempdir().unwrap();
        let (store, count) = faulty(folder.path(), op);
        say(&store, "a", "1");
        count.store(1, Ordering::SeqCst);
        let mut write = store.write();
        write.put(WORDS, &"b".to_owned(), &"2".to_owned());
        let error = write.commit().unwrap().wait().unwrap_err();
        assert!(matches!(&error, StoreError::Engine(why) if why.contains("on fire") && why.contains("unknown")));
        let error = store.write().commit().map(drop).unwrap_err();
        assert!(matches!(&error, StoreError::ReadOnly(why) if why.contains("restart")), "{error}");
        assert!(store.health().is_err());
        assert_eq!(words(&store), ["a=1"]);
        assert_eq!(store.write().get(WORDS, &"b".to_owned()).unwrap(), None);
        drop(store);
        let store = open(folder.path());
        let found = words(&store);
        assert!(found == ["a=1"] || found == ["a=1", "b=2"], "{found:?}");
        say(&store, "c", "3");
    }
}

#[test]
fn a_failed_apply_is_made_good_without_a_restart() {
    let folder = tempdir().unwrap();
    let (store, count) = faulty(folder.path(), Op::Apply);
    say(&store, "a", "1");
    store.checkpoint().unwrap();
    say(&store, "b", "2");
    count.store(2, Ordering::SeqCst);
    let mut write = store.write();
    write.put(WORDS, &"c".to_owned(), &"3".to_owned());
    let error = write.commit().unwrap().wait().unwrap_err();
    assert!(matches!(&error, StoreError::ReadOnly(why) if why.contains("it is saved")), "{error}");
    // As soon as it is shown, writing goes on.
    let mut position = store.watch();
    while store.health().is_err() || position.borrow_and_update().0 < 3 {
        std::thread::yield_now();
    }
    say(&store, "d", "4");
    assert_eq!(words(&store), ["a=1", "b=2", "c=3", "d=4"]);
    assert_eq!(digests(&store)[0], digests(&store)[1]);
    drop(store);
    assert_eq!(words(&open(folder.path())), ["a=1", "b=2", "c=3", "d=4"]);
}

#[test]
fn while_the_disk_is_full_reading_goes_on_and_writing_answers_why() {
    let folder = tempdir().unwrap();
    let (store, count) = faulty(folder.path(), Op::Space);
    say(&store, "a", "1");
    count.store(u64::MAX, Ordering::SeqCst);
    store.keeper().unwrap().look_at_space();
    let error = store.write().commit().map(drop).unwrap_err();
    assert!(matches!(&error, StoreError::ReadOnly(why) if why.contains("free some space")), "{error}");
    assert_eq!(words(&store), ["a=1"]);
    count.store(0, Ordering::SeqCst);
    store.keeper().unwrap().look_at_space();
    say(&store, "b", "2");
    assert!(store.health().is_ok());
}

#[test]
fn a_failed_checkpoint_loses_nothing() {
    for op in [Op::Checkpoint, Op::Manifest] {
        let folder = tempdir().unwrap();
        let (store, count) = faulty(folder.path(), op);
        say(&store, "a", "1");
        count.store(1, Ordering::SeqCst);
        assert!(store.checkpoint().is_err());
        say(&store, "b", "2");
        drop(store);
        assert_eq!(words(&open(folder.path())), ["a=1", "b=2"]);
    }
}

#[test]
fn whatever_fails_what_was_acknowledged_is_there_and_nothing_by_half() {
    for seed in 0..24 {
        let folder = tempdir().unwrap();
        let op = [Op::Append, Op::Sync, Op::Apply, Op::Checkpoint, Op::Manifest][usize::try_from(seed % 5).unwrap()];
        let (store, count) = faulty(folder.path(), op);
        let mut model = Model::new(store, seed);
        let fatal = 5 + model.chance.below(40);
        for step in 0..60 {
            if step == fatal {
                count.store(1, Ordering::SeqCst);
            }
            if !model.write() {
                break;
            }
            match model.chance.below(6) {
                0 if !model.wait() => break,
                1 => drop(model.store.checkpoint()),
                _ => {}
            }
        }
        model.wait();
        let (acknowledged, committed) = (model.acknowledged, model.states.len() - 1);
        let closed = std::mem::replace(&mut model.store, Store::in_memory());
        drop(closed);
        let store = open(folder.path());
        model.check(acknowledged, committed, &store, &format!("seed {seed}, {op:?}"));
    }
}
