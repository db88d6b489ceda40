//! Durable commits: how many a second with 1, 8 and 64 waiting writers, and how many of them one
//! fsync serves. Beside it, in the same run, what the disk itself needs: an append of the same
//! length, and `fdatasync`.

#[path = "rows.rs"]
mod rows;

use std::{
    fs::File,
    io::Write as _,
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ingle::store::{
    Options, Store,
    disk::{Faults, Op},
};
use rows::Chance;

/// What the rows of one message take in the journal.
const MESSAGE: usize = 1300;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder")
}

/// The median and the 99th of a hundred.
fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |hundredth: usize| times.get(times.len() * hundredth / 100).copied().unwrap_or_default();
    format!("median {:?}, p99 {:?}", at(50), at(99))
}

fn probe(folder: &Path, count: u64) -> Vec<Duration> {
    let mut file = File::create(folder.join("probe")).expect("a file");
    let bytes = vec![7; MESSAGE];
    let append = |_| {
        let start = Instant::now();
        file.write_all(&bytes).and_then(|()| file.sync_data()).expect("space");
        start.elapsed()
    };
    (0..count).map(append).collect()
}

/// Lets so many threads commit so many messages, and wait for each.
fn commits(store: &Store, writers: u64, each: u64) -> Vec<Duration> {
    let run = |writer: u64| {
        let mut chance = Chance(writer + 1);
        let commit = |_| {
            let start = Instant::now();
            rows::send(store, &mut chance).and_then(ingle::store::Ticket::wait).expect("a store that works");
            start.elapsed()
        };
        (0..each).map(commit).collect::<Vec<_>>()
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..writers).map(|writer| scope.spawn(move || run(writer))).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
    })
}

fn journal(criterion: &mut Criterion) {
    let folder = folder();
    let syncs = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&syncs);
    let mut options = Options::new(folder.path().join("store"));
    options.faults = Faults::new(move |op| {
        counter.fetch_add(u64::from(op == Op::Sync), Ordering::Relaxed);
        Ok(())
    });
    let store = Store::open(options).expect("a store");

    let mut group = criterion.benchmark_group("journal");
    group.throughput(Throughput::Elements(1)).sample_size(10).measurement_time(Duration::from_secs(4));
    group.bench_function("probe: append and fdatasync", |bencher| {
        bencher.iter_custom(|count| probe(folder.path(), count).iter().sum());
    });
    for writers in [1, 8, 64] {
        group.bench_function(format!("{writers} waiting writers"), |bencher| {
            bencher.iter_custom(|count| {
                let each = count.div_ceil(writers);
                let start = Instant::now();
                commits(&store, writers, each);
                start.elapsed().mul_f64(count as f64 / (each * writers) as f64)
            });
        });
    }
    group.finish();

    println!("probe: {}", quantiles(probe(folder.path(), 1000)));
    for writers in [1, 8, 64] {
        let before = syncs.load(Ordering::Relaxed);
        let start = Instant::now();
        let times = commits(&store, writers, 4000 / writers);
        let (count, took) = (times.len() as f64, start.elapsed().as_secs_f64());
        let fsyncs = (syncs.load(Ordering::Relaxed) - before) as f64;
        let rate = count / took;
        println!(
            "{writers} writers: {rate:.0} commits/s, {:.3} fsyncs per commit, {}",
            fsyncs / count,
            quantiles(times)
        );
    }
}

criterion_group!(benches, journal);
criterion_main!(benches);
