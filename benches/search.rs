//! Searching 100,000 messages in 20 rooms: a rare word, words that occur everywhere, and one that is not there.
//!
//! The store is in memory: this is the work of the search itself.

use std::{hint::black_box, time::Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use ingle::{
    app::App,
    protocol::canonical,
    rooms::{
        append::NewEvent,
        create::create,
        filter::EventFilter,
        search::{self, Query},
        view::Viewer,
    },
    store::schema::search::Field,
};
use ruma::{UserId, api::client::room::create_room::v3::Request};

const ROOMS: usize = 20;
const MESSAGES: usize = 100_000;
const SYLLABLES: &[&str] = &["ka", "to", "mi", "re", "lun", "dor", "shi", "bel", "qua", "zen", "ova", "pin"];

/// The word of this rank: those that come early come often.
fn word(mut rank: usize) -> String {
    let mut word = String::new();
    loop {
        word.push_str(SYLLABLES[rank % SYLLABLES.len()]);
        rank /= SYLLABLES.len();
        if rank == 0 {
            return word;
        }
    }
}

fn search(c: &mut Criterion) {
    let ctx = App::for_tests();
    let ann = UserId::parse(format!("@ann:{}", ctx.config.server_name)).expect("a user ID");
    let begun = Instant::now();
    let mut seed = 7_u64;
    let mut next = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    for nth in 0..ROOMS {
        ctx.clock.advance(std::time::Duration::from_millis(1));
        let (room, ticket) = create(&ctx.rooms, &ann, Request::new()).expect("a room");
        drop(ticket);
        for n in 0..MESSAGES / ROOMS {
            // Ten words, of which a few are frequent.
            let mut words: Vec<String> = (0..10).map(|_| word((next() % 4_000) * (next() % 100) / 100)).collect();
            if nth == 3 && n == 77 {
                words.push("needle".to_owned());
            }
            let content = serde_json::json!({ "msgtype": "m.text", "body": words.join(" ") });
            let content = canonical::to_object(&content).expect("content");
            let mut deciding = ctx.rooms.decide(&room);
            deciding.send(NewEvent::message(&ann, "m.room.message", content)).expect("a message");
            drop(deciding.commit().expect("a commit"));
        }
    }
    eprintln!("{MESSAGES} messages were sent in {:?}", begun.elapsed());
    for (name, term) in [("rare", "needle"), ("frequent", "ka"), ("two frequent", "kato mika"), ("absent", "nothing")] {
        for recent in [false, true] {
            let query = Query {
                term: term.to_owned(),
                fields: vec![Field::Body],
                filter: EventFilter { limit: Some(10), ..EventFilter::default() },
                recent,
                ..Query::default()
            };
            c.bench_function(&format!("search, {name} word, {}", if recent { "recent" } else { "rank" }), |b| {
                b.iter(|| {
                    let viewer = Viewer::new(&ctx.rooms, &ann, None).expect("a viewer");
                    black_box(search::search(&ctx.rooms, &viewer, &query).expect("a page"))
                });
            });
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20);
    targets = search
}
criterion_main!(benches);
