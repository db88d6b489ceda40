//! What it costs to be told of nothing, and of one message, in 10 rooms and in 1,000: by `/sync`, and by sliding
//! sync as Element X asks. And what a first answer costs, and the page of a space.
//!
//! The store is in memory. Nothing here may grow with the rooms in which nothing happens.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use ingle::{
    app::{App, Ctx},
    protocol::canonical,
    rooms::{Room, append::NewEvent, create::create, spaces},
    store::schema::{numbers, rooms::ROOMS},
    sync::{Reader, sliding, v3},
};
use ruma::{OwnedUserId, UserId, api::client::room::create_room::v3::Request};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// Somebody with some rooms.
struct Home {
    ctx: Ctx,
    ann: OwnedUserId,
    room: Arc<Room>,
    reader: Reader,
    runtime: Runtime,
}

impl Home {
    fn new(rooms: usize) -> Self {
        let ctx = App::for_tests();
        let ann = UserId::parse(format!("@ann:{}", ctx.config.server_name)).expect("a user ID");
        let mut newest = None;
        for _ in 0..rooms {
            ctx.clock.advance(std::time::Duration::from_millis(1));
            let (room, ticket) = create(&ctx.rooms, &ann, Request::new()).expect("a room");
            drop(ticket);
            newest = Some(room);
        }
        let number = numbers::find_user(&ctx.store, &ann).expect("a store").expect("a user");
        let reader = Reader { user: ann.clone(), number, device: "PHONE".into() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { room: newest.expect("at least one room"), ctx, ann, reader, runtime }
    }

    fn says(&self) {
        let content = canonical::to_object(&json!({ "msgtype": "m.text", "body": "hello" })).expect("content");
        let mut deciding = self.ctx.rooms.decide(&self.room);
        deciding.send(NewEvent::message(&self.ann, "m.room.message", content)).expect("a message");
        self.runtime.block_on(deciding.commit().expect("a commit").published()).expect("published");
    }

    fn sync(&self, since: &str) -> String {
        let request = v3::Request { since: v3::since(since).expect("a token"), ..v3::Request::default() };
        let answer = v3::answer(Arc::clone(&self.ctx.sync), self.reader.clone(), request);
        self.runtime.block_on(answer).expect("an answer")
    }

    fn slide(&self, pos: Option<String>) -> String {
        let request = sliding::Request::unstable(asks().to_string().as_bytes(), pos, 0).expect("a request");
        let answer = sliding::answer(Arc::clone(&self.ctx.sync), self.reader.clone(), request);
        self.runtime.block_on(answer).expect("an answer")
    }
}

/// What Element X asks for once it has seen all rooms.
fn asks() -> Value {
    let state = json!([
        ["m.room.name", ""],
        ["m.room.encryption", ""],
        ["m.room.member", "$LAZY"],
        ["m.room.member", "$ME"],
        ["m.room.topic", ""],
        ["m.room.avatar", ""],
        ["m.room.canonical_alias", ""],
        ["m.room.power_levels", ""],
        ["org.matrix.msc3401.call.member", "*"],
        ["m.room.join_rules", ""],
        ["m.room.tombstone", ""],
        ["m.room.create", ""],
        ["m.room.history_visibility", ""],
        ["io.element.functional_members", ""],
        ["m.space.parent", "*"],
        ["m.space.child", "*"],
    ]);
    json!({
        "conn_id": "room-list",
        "lists": { "all_rooms": { "ranges": [[0, 99_999]], "timeline_limit": 1, "required_state": state, "filters": {} } },
        "extensions": {
            "account_data": { "enabled": true }, "receipts": { "enabled": true, "rooms": ["*"] },
            "typing": { "enabled": true },
        },
    })
}

/// The token in an answer.
fn field(answer: &str, name: &str) -> String {
    let answer: Value = serde_json::from_str(answer).expect("JSON");
    answer[name].as_str().expect("a token").to_owned()
}

fn sync(c: &mut Criterion) {
    for rooms in [10, 100, 1_000] {
        let home = Home::new(rooms);
        let since = field(&home.sync(""), "next_batch");
        c.bench_function(&format!("sync, nothing, {rooms} rooms"), |b| b.iter(|| black_box(home.sync(&since))));
        if rooms == 100 {
            c.bench_function("sync, from the beginning, 100 rooms", |b| b.iter(|| black_box(home.sync(""))));
            c.bench_function("slide, from the beginning, 100 rooms", |b| b.iter(|| black_box(home.slide(None))));
        }
        let mut pos = field(&home.slide(None), "pos");
        c.bench_function(&format!("slide, nothing, {rooms} rooms"), |b| {
            b.iter(|| pos = field(&home.slide(Some(pos.clone())), "pos"));
        });
        home.says();
        c.bench_function(&format!("sync, one message, {rooms} rooms"), |b| b.iter(|| black_box(home.sync(&since))));
        // The same request again, as if each answer had been lost.
        c.bench_function(&format!("slide, one message, {rooms} rooms"), |b| {
            b.iter(|| black_box(home.slide(Some(pos.clone()))));
        });
    }
}

fn hierarchy(c: &mut Criterion) {
    let home = Home::new(100);
    let children: Vec<_> = home.ctx.store.scan(ROOMS, &()).map(|row| row.expect("a room").1.id).collect();
    let mut deciding = home.ctx.rooms.decide(&home.room);
    for child in children.iter().filter(|child| **child != home.room.id) {
        let content = canonical::to_object(&json!({ "via": [home.ctx.config.server_name] })).expect("content");
        deciding.send(NewEvent::state(&home.ann, "m.space.child", child.as_str(), content)).expect("a child");
    }
    home.runtime.block_on(deciding.commit().expect("a commit").published()).expect("published");
    let query = spaces::Query::default();
    c.bench_function("a page of a space, 50 of 100 rooms", |b| {
        b.iter(|| {
            let page = spaces::hierarchy(&home.ctx.rooms, &home.ann, &home.room.id, &query);
            black_box(home.runtime.block_on(page).expect("a page"))
        });
    });
}

criterion_group!(benches, sync, hierarchy);
criterion_main!(benches);
