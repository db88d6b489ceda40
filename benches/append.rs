//! One local message, from its content to the committed `Write`, in a small and in a large room.
//!
//! The store is in memory: this is the work of the append itself. What the disk adds is in `journal`.

use std::{hint::black_box, sync::Arc};

use criterion::{Criterion, criterion_group, criterion_main};
use ingle::{
    app::{App, Ctx},
    protocol::canonical,
    rooms::{Room, append::NewEvent, create::create},
};
use ruma::{
    OwnedUserId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
};

fn user(ctx: &Ctx, name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{}", ctx.config.server_name)).expect("a user ID")
}

/// A public room of `@ann` with this many members, of whom so many have an account here. The others come from
/// many servers.
fn room(ctx: &Ctx, members: usize, locals: usize) -> Arc<Room> {
    let ann = user(ctx, "ann");
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PublicChat);
    let (room, ticket) = create(&ctx.rooms, &ann, request).expect("a room");
    drop(ticket);
    for n in 1..members {
        let guest = match n < locals {
            true => user(ctx, &format!("guest{n}")),
            false => UserId::parse(format!("@guest{n}:server{}.test", n % 500)).expect("a user ID"),
        };
        let mut deciding = ctx.rooms.decide(&room);
        deciding.join(&guest, None, Default::default()).expect("a join");
        drop(deciding.commit().expect("a commit"));
    }
    room
}

fn append(c: &mut Criterion) {
    // With each local member the message is judged once more by push rules: that is what grows.
    for (members, locals) in [(10, 10), (5_000, 10), (1_000, 1_000)] {
        let ctx = App::for_tests();
        let room = room(&ctx, members, locals);
        let ann = user(&ctx, "ann");
        let content = serde_json::json!({ "msgtype": "m.text", "body": "Dinner is ready, come down please" });
        let content = canonical::to_object(&content).expect("content");
        c.bench_function(&format!("append, {members} members, {locals} of them local"), |b| {
            b.iter(|| {
                let mut deciding = ctx.rooms.decide(&room);
                let message = NewEvent::message(&ann, "m.room.message", content.clone());
                black_box(deciding.send(message).expect("a message"));
                drop(deciding.commit().expect("a commit"));
            });
        });
    }
}

criterion_group!(benches, append);
criterion_main!(benches);
