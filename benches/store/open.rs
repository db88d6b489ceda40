//! Opening a folder with the rows of 100,000 messages: after a clean stop, and after a crash that left
//! a full journal to replay. Prints what the store takes on the disk, and what an archive and a compact
//! copy cost.

#[path = "rows.rs"]
// The other benchmark sends as well.
#[allow(dead_code)]
mod rows;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use ingle::store::{Options, Store};
use rows::Chance;

const EVENTS: u64 = 100_000;

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").map(|entry| entry.expect("an entry")) {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    (text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096) >> 20
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Fills a store; gives back the bytes of JSON in it.
fn fill(store: &Store, events: u64, chance: &mut Chance) -> u64 {
    let mut json = 0;
    for _ in 0..events / 100 {
        let mut write = store.write();
        json += (0..100).map(|_| rows::message(&mut write, chance) as u64).sum::<u64>();
        write.commit().and_then(ingle::store::Ticket::wait).expect("a store that works");
    }
    json
}

fn open(criterion: &mut Criterion) {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let (path, crashed) = (folder.path().join("store"), folder.path().join("crashed"));
    let options = Options::new(&path);
    let mut chance = Chance(1);
    println!("at the start: {} MB resident", resident());
    let store = Store::open(options.clone()).expect("a store");
    println!("with an empty store: {} MB resident", resident());
    let start = Instant::now();
    let json = fill(&store, EVENTS, &mut chance);
    println!("{EVENTS} messages in {:?}, {} of JSON, {} MB resident", start.elapsed(), megabytes(json), resident());
    store.checkpoint().expect("a checkpoint");
    let show = |store: &Store, what: &str| {
        let usage = store.usage().expect("a folder");
        let [bytes, engine, journal, archives] =
            [usage.bytes, usage.engine, usage.journal, usage.archives].map(megabytes);
        println!("{what}: {} rows of {bytes}, engine {engine}, journal {journal}, archives {archives}", usage.rows);
    };
    show(&store, "filled");
    for (what, run) in [
        ("archive", (|store| store.archive().map(drop)) as fn(&Store) -> Result<(), ingle::store::StoreError>),
        ("compact copy", Store::compact),
    ] {
        let start = Instant::now();
        run(&store).expect("it works");
        println!("{what} in {:?}", start.elapsed());
        show(&store, what);
    }
    // As many messages more as fit between two checkpoints, then a crash.
    fill(&store, 4000, &mut chance);
    copy(&path, &crashed);
    let start = Instant::now();
    drop(store);
    println!("closed in {:?}", start.elapsed());
    let start = Instant::now();
    drop(Store::open(options.clone()).expect("a store"));
    println!("opened for the first time after that, and closed, in {:?}", start.elapsed());

    let mut group = criterion.benchmark_group("open");
    group.sample_size(10).measurement_time(Duration::from_secs(5));
    let timed = |path: &Path| {
        let start = Instant::now();
        let store = Store::open(Options::new(path)).expect("a store");
        let took = start.elapsed();
        drop(store);
        took
    };
    group.bench_function("after a clean stop", |bencher| {
        bencher.iter_custom(|count| (0..count).map(|_| timed(&path)).sum());
    });
    group.bench_function("after a crash", |bencher| {
        bencher.iter_custom(|count| {
            let once = |_| {
                let copied = folder.path().join("copy");
                copy(&crashed, &copied);
                let took = timed(&copied);
                fs::remove_dir_all(copied).expect("a folder");
                took
            };
            (0..count).map(once).sum()
        });
    });
    group.finish();
}

criterion_group!(benches, open);
criterion_main!(benches);
