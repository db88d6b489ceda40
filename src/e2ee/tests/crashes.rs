//! One-time keys on a machine that stops at any moment, in the crash model of the store.

use std::{
    collections::{BTreeSet, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::*;
use crate::store::tests::{
    Chance,
    crashes::{Machine, power_cut, seeds},
    open,
};

/// How many people claim and upload at the same time.
const PEOPLE: u64 = 4;

/// What people were told, in the order in which they were.
#[derive(Default)]
struct Told {
    /// Keys whose upload was acknowledged.
    uploaded: Mutex<BTreeSet<String>>,
    /// Keys that somebody got.
    issued: Mutex<Vec<String>>,
    /// Nobody goes on while somebody looks through the remains of a crash.
    pause: RwLock<()>,
}

fn over(store: Store) -> E2ee {
    E2ee::new("test".try_into().unwrap(), Clock::by_hand(1_000_000), store)
}

/// One of the people: uploads keys of the phone, some of them for the second time, and claims others.
async fn live(e2ee: E2ee, ann: Phone, told: Arc<Told>, stop: Arc<AtomicBool>, mut chance: Chance, name: u64) {
    let mut made = 0;
    while !stop.load(Ordering::Relaxed) {
        let _going = told.pause.read().await;
        if chance.below(3) == 0 {
            let first = if chance.below(4) == 0 { 0 } else { made };
            let ids: Vec<String> = (first..made + 3).map(|at| format!("{name}-{at}")).collect();
            made += 3;
            ann.upload(&e2ee, &ids.iter().map(String::as_str).collect::<Vec<_>>()).await.unwrap();
            told.uploaded.lock().extend(ids);
        } else {
            let key = ann.claim(&e2ee).await;
            if !key.is_empty() {
                told.issued.lock().push(key);
            }
        }
        if chance.below(8) == 0 {
            // A claim whose client is gone before the answer.
            drop(one_time_keys::claim(&e2ee, ann.wanted()).now_or_never());
        }
    }
}

/// What was found behind a power cut, beside what people had been told before it.
struct Crash {
    uploaded: BTreeSet<String>,
    issued: HashSet<String>,
    left: Vec<String>,
}

/// Lets the machine stop now, starts it again, and claims all keys that it still has, after the phone
/// has uploaded everything once more, as one does that never got an answer.
async fn crash(machine: &Machine, store: &Store, ann: &Phone, told: &Told, chance: &mut Chance) -> Crash {
    let issued = told.issued.lock().iter().cloned().collect();
    let uploaded = told.uploaded.lock().clone();
    let (folder, applied) = machine.crash(store);
    let _pause = told.pause.write().await;
    power_cut(folder.path(), applied, chance);
    let store = open(folder.path());
    one_time_keys::sweep(&store).unwrap();
    let e2ee = over(store);
    let counts = one_time_keys::counts(&e2ee.store, ann.number, &ann.id).unwrap();
    let there = e2ee.store.scan(ONE_TIME_KEYS, &ann.number).count() as u64;
    assert_eq!(counts["signed_curve25519"], there, "the count that clients are told");
    for key in &uploaded {
        let name = format!("signed_curve25519:{key}");
        let row = e2ee.store.get(ONE_TIME_KEY_IDS, &(ann.number, ann.id.clone(), name)).unwrap();
        let row = row.unwrap_or_else(|| panic!("{key} is lost"));
        let place = (ann.number, ann.id.clone(), "signed_curve25519".to_owned(), row.number);
        assert!(row.issued || e2ee.store.contains(ONE_TIME_KEYS, &place).unwrap(), "{key} is lost");
    }
    let again: Vec<&str> = uploaded.iter().map(String::as_str).collect();
    for ids in again.chunks(100) {
        ann.upload(&e2ee, ids).await.unwrap();
    }
    let mut left = Vec::new();
    loop {
        match ann.claim(&e2ee).await {
            key if key.is_empty() => return Crash { uploaded, issued, left },
            key => left.push(key),
        }
    }
}

fn check(seed: u64, moments: u64) {
    let machine = Machine::new();
    let e2ee = over(machine.start());
    one_time_keys::sweep(&e2ee.store).unwrap();
    let ann = phone(&e2ee, "ann", "A");
    let (told, stop, mut chance) = (Arc::new(Told::default()), Arc::new(AtomicBool::new(false)), Chance::new(seed));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    let crashes = runtime.block_on(async {
        ann.upload(&e2ee, &[]).await.unwrap();
        let people: Vec<_> = (0..PEOPLE)
            .map(|name| {
                let chance = Chance::new(seed * PEOPLE + name + 1);
                tokio::spawn(live(e2ee.clone(), ann.clone(), told.clone(), stop.clone(), chance, name))
            })
            .collect();
        let mut crashes = Vec::new();
        for _ in 0..moments {
            let goal = told.issued.lock().len() + usize::try_from(chance.below(30)).unwrap();
            while told.issued.lock().len() < goal {
                tokio::task::yield_now().await;
            }
            crashes.push(crash(&machine, &e2ee.store, &ann, &told, &mut chance).await);
        }
        stop.store(true, Ordering::Relaxed);
        for person in people {
            person.await.unwrap();
        }
        crashes
    });
    let issued = told.issued.lock();
    let ever: HashSet<_> = issued.iter().collect();
    assert_eq!(ever.len(), issued.len(), "seed {seed}: a key was issued twice");
    for (moment, Crash { uploaded, issued, left }) in crashes.iter().enumerate() {
        let what = format!("seed {seed}, crash {moment}");
        println!("{what}: {} uploaded, {} issued, {} left", uploaded.len(), issued.len(), left.len());
        let once: HashSet<_> = left.iter().collect();
        assert_eq!(once.len(), left.len(), "{what}: a key was issued twice afterwards");
        let again: Vec<_> = left.iter().filter(|key| issued.contains(*key)).collect();
        assert!(again.is_empty(), "{what}: {again:?} were issued before and afterwards");
    }
}

#[test]
fn no_key_is_issued_twice_when_the_machine_stops_at_any_moment() {
    for seed in 0..seeds(2) {
        check(seed, 5);
    }
}
