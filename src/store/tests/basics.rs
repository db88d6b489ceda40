//! Reading, writing, stopping and starting.

use tempfile::tempdir;

use super::*;
use crate::store::{Position, StoreError};

#[test]
fn what_was_saved_is_there_after_a_restart() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    say(&store, "a", "1");
    say(&store, "b", "2");
    let (position, epoch, boot) = (store.position(), store.epoch(), store.boot());
    drop(store);
    let store = open(folder.path());
    assert_eq!(words(&store), ["a=1", "b=2"]);
    assert_eq!((store.position(), store.epoch()), (position, epoch));
    assert_ne!(store.boot(), boot);
    say(&store, "c", "3");
    assert_eq!(store.position(), Position(position.0 + 1));
}

#[test]
fn what_was_saved_is_there_after_a_crash() {
    let (folder, crashed) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(folder.path());
    let mut write = store.write();
    let number = write.number();
    write.put(WORDS, &"a".to_owned(), &number.to_string());
    write.commit().unwrap().wait().unwrap();
    copy(folder.path(), crashed.path());
    let after = open(crashed.path());
    assert_eq!(words(&after), [format!("a={number}")]);
    assert!(after.write().number() > number);
}

#[test]
fn a_write_sees_what_is_queued_and_readers_do_not() {
    let folder = tempdir().unwrap();
    let held = std::sync::Arc::new(parking_lot::Mutex::new(()));
    let mut options = Options::new(folder.path());
    let gate = std::sync::Arc::clone(&held);
    options.faults = crate::store::disk::Faults::new(move |op| {
        if op == crate::store::disk::Op::Sync {
            drop(gate.lock());
        }
        Ok(())
    });
    let store = Store::open(options).unwrap();
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3")] {
        say(&store, key, value);
    }
    let guard = held.lock();
    let mut first = store.write();
    first.put(WORDS, &"b".to_owned(), &"new".to_owned());
    first.delete(WORDS, &"c".to_owned());
    let ticket = first.commit().unwrap();
    let mut second = store.write();
    second.put(WORDS, &"d".to_owned(), &"4".to_owned());
    let rows = second.scan(WORDS, &()).unwrap();
    assert_eq!(rows.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>(), ["a=1", "b=new", "d=4"]);
    assert_eq!(second.get(WORDS, &"c".to_owned()).unwrap(), None);
    assert_eq!(words(&store), ["a=1", "b=2", "c=3"]);
    drop(guard);
    ticket.wait().unwrap();
    assert_eq!(words(&store), ["a=1", "b=new"]);
}

#[test]
fn who_comes_upon_a_name_at_the_same_time_gets_the_same_number() {
    let numbers: Table<String, u64> = Table::new("numbers");
    let (folder, name) = (tempdir().unwrap(), "@ann:example.org".to_owned());
    for store in [Store::in_memory(), open(folder.path())] {
        let [mut given_up, mut first, mut second] = [(); 3].map(|()| store.write());
        let (number, new) = given_up.number_of(numbers, &name, |number| number).unwrap();
        assert!(new);
        assert_eq!(first.number_of(numbers, &name, |number| number).unwrap(), (number, true));
        drop(given_up);
        let ticket = first.commit().unwrap();
        assert_eq!(second.number_of(numbers, &name, |number| number).unwrap(), (number, false));
        ticket.wait().unwrap();
        assert_eq!(store.get(numbers, &name).unwrap(), Some(number));
        let mut other = store.write();
        assert!(other.number_of(numbers, &"@bob:example.org".to_owned(), |number| number).unwrap().0 > number);
        drop((second, other));
        assert!(store.core().claims.lock().is_empty());
    }
}

#[test]
fn no_number_is_given_twice_even_if_nothing_came_of_it() {
    let (folder, crashed) = (tempdir().unwrap(), tempdir().unwrap());
    let store = open(folder.path());
    say(&store, "a", "1");
    let number = store.write().number();
    copy(folder.path(), crashed.path());
    drop(store);
    for folder in [folder, crashed] {
        assert!(open(folder.path()).write().number() > number);
    }
}

#[test]
fn positions_are_given_in_the_order_of_the_commits() {
    let store = Store::in_memory();
    let mut write = store.write();
    let (one, two) = (write.slot(), write.slot());
    write.put_at(PAIRS, two, |position| ((2, "x".into()), position.0));
    write.put_at(PAIRS, one, |position| ((1, "x".into()), position.0));
    let ticket = write.commit().unwrap();
    assert_eq!((ticket.position(one), ticket.position(two)), (Position(1), Position(2)));
    assert_eq!(store.scan(PAIRS, &()).map(|row| row.unwrap().1).collect::<Vec<_>>(), [1, 2]);
    let ticket = store.write().commit().unwrap();
    assert_eq!(ticket.last(), Position(3));
}

#[test]
fn a_range_is_walked_from_both_ends() {
    let folder = tempdir().unwrap();
    for store in [Store::in_memory(), open(folder.path())] {
        let mut write = store.write();
        for room in 1..4 {
            for key in ["a", "b", "c"] {
                write.put(PAIRS, &(room, key.to_owned()), &room);
            }
        }
        write.commit().unwrap().wait().unwrap();
        let keys = |scan: &mut dyn Iterator<Item = super::super::Row<(u64, String), u64>>| {
            scan.map(|row| row.unwrap().0).map(|(room, key)| format!("{room}{key}")).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(keys(&mut store.scan(PAIRS, &2u64)), "2a 2b 2c");
        assert_eq!(keys(&mut store.scan(PAIRS, &2u64).rev()), "2c 2b 2a");
        assert_eq!(keys(&mut store.range(PAIRS, &(1u64, "b".to_owned()), &3u64)), "1b 1c 2a 2b 2c");
        assert_eq!(keys(&mut store.range(PAIRS, &3u64, &1u64)), "");
        let mut both = store.scan(PAIRS, &3u64);
        let ends = [both.next(), both.next_back(), both.next(), both.next_back(), both.next()];
        assert_eq!(keys(&mut ends.into_iter().flatten()), "3a 3c 3b");
    }
}

#[test]
fn a_row_that_is_too_large_is_refused_and_leaves_no_trace() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    let mut write = store.write();
    write.put(WORDS, &"a".to_owned(), &"1".to_owned());
    write.put(WORDS, &"b".to_owned(), &"x".repeat(200_000));
    assert!(matches!(write.commit(), Err(StoreError::TooLarge { table: "words" })));
    assert_eq!(store.position(), Position(0));
    say(&store, "c", "3");
    assert_eq!(words(&store), ["c=3"]);
}

#[test]
fn a_folder_is_used_by_one_program_at_a_time() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    let error = Store::open(Options::new(folder.path())).err().unwrap().to_string();
    assert!(error.contains("another program is using") && error.contains(folder.path().to_str().unwrap()), "{error}");
    drop(store);
    open(folder.path());
}

#[tokio::test]
async fn who_is_named_is_woken_when_it_is_published() {
    let folder = tempdir().unwrap();
    let store = open(folder.path());
    let user = crate::store::schema::UserNo(7);
    let news = store.wakers().listen(user);
    let mut write = store.write();
    write.put(WORDS, &"a".to_owned(), &"1".to_owned());
    write.wake(user);
    let ticket = write.commit().unwrap();
    news.await;
    assert_eq!(words(&store), ["a=1"]);
    assert_eq!(store.wakers().newest(user), ticket.published().await.unwrap());
}
