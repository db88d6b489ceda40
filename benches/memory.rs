//! What a server takes in memory whose people are in a room of 10,000 members from elsewhere: after a start with it,
//! when some have synced from the beginning, and after an evening of messages. Prints figures and judges nothing.

use std::{fs, path::Path, sync::Arc, time::Duration};

use ingle::{
    app::{App, Ctx},
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::{canonical, sign::KeyPair},
    remote::transport::Island,
    rooms::{append::NewEvent, create::create},
    store::{Options, Store, Ticket, schema::numbers},
    sync::{
        Reader,
        v3::{self, Request},
    },
};
use ruma::{
    OwnedUserId, UserId,
    api::client::room::create_room::v3::{Request as Create, RoomPreset},
};
use serde_json::json;
use tokio::runtime::Runtime;

const MEMBERS: usize = 10_000;
const PEOPLE: usize = 8;
const MESSAGES: usize = 2_000;

fn main() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let path = folder.path().join("store");
    // In a program of its own, so that what making the room takes is not counted.
    if std::env::args().any(|argument| argument == "--fill") {
        let path = std::env::args().next_back().expect("a folder");
        return fill(&server(Path::new(&path)));
    }
    let program = std::env::current_exe().expect("a program");
    let made = std::process::Command::new(program).arg("--fill").arg(&path).status().expect("a program");
    assert!(made.success(), "the room was not made");

    let ctx = server(&path);
    println!("at the start                 {}", resident());
    let runtime = Runtime::new().expect("a runtime");
    let people: Vec<Reader> = (0..PEOPLE).map(|at| reader(&ctx, at)).collect();
    let mut tokens: Vec<Option<String>> = vec![None; PEOPLE];
    sync(&ctx, &runtime, &people, &mut tokens);
    println!("after first syncs            {}", resident());
    for at in 0..MESSAGES {
        say(&ctx, &people[at % PEOPLE].user);
        if at % 50 == 49 {
            sync(&ctx, &runtime, &people, &mut tokens);
        }
    }
    println!("after {MESSAGES} messages          {}", resident());
}

fn server(folder: &Path) -> Ctx {
    let mut config = Config::for_tests();
    config.cache_memory = Some(ingle::config::Size(64 << 20));
    let mut options = Options::new(folder);
    options.cache = ingle::config::memory::share(&config, ingle::config::memory::Share::Pages);
    let store = Store::open(options).expect("a store");
    let key = KeyPair::from_seed(&[7; 32], "a_hXbU");
    App::new(config, Clock::system(), Chance::system(), store, key, Arc::new(Island)).expect("a server")
}

fn user(ctx: &Ctx, at: usize) -> OwnedUserId {
    UserId::parse(format!("@person{at}:{}", ctx.config.server_name)).expect("a user ID")
}

fn reader(ctx: &Ctx, at: usize) -> Reader {
    let user = user(ctx, at);
    let number = numbers::find_user(&ctx.store, &user).expect("a store").expect("a user");
    Reader { user, number, device: "PHONE".into() }
}

fn fill(ctx: &Ctx) {
    let mut request = Create::new();
    request.preset = Some(RoomPreset::PublicChat);
    let (room, ticket) = create(&ctx.rooms, &user(ctx, 0), request).expect("a room");
    ticket.wait().expect("a store that works");
    let mut last: Option<Ticket> = None;
    for at in 1..MEMBERS {
        let guest = match at < PEOPLE {
            true => user(ctx, at),
            false => UserId::parse(format!("@guest{at}:server{}.test", at % 500)).expect("a user ID"),
        };
        let mut deciding = ctx.rooms.decide(&room);
        deciding.join(&guest, None, Default::default()).expect("a join");
        last = Some(deciding.commit().expect("a commit"));
    }
    last.map(Ticket::wait).expect("a join").expect("a store that works");
}

fn say(ctx: &Ctx, sender: &OwnedUserId) {
    let number = numbers::find_user(&ctx.store, sender).expect("a store").expect("a user");
    let (key, _) =
        ctx.store.scan(ingle::store::schema::rooms::USER_ROOMS, &(number,)).next().expect("a room").expect("a store");
    let room = ctx.rooms.open(key.1).expect("a store").expect("a room");
    let content = json!({ "msgtype": "m.text", "body": "It is getting late, and the fire is still burning" });
    let content = canonical::to_object(&content).expect("content");
    let mut deciding = ctx.rooms.decide(&room);
    deciding.send(NewEvent::message(sender, "m.room.message", content)).expect("a message");
    deciding.commit().expect("a commit").wait().expect("a store that works");
}

fn sync(ctx: &Ctx, runtime: &Runtime, people: &[Reader], tokens: &mut [Option<String>]) {
    for (reader, token) in people.iter().zip(tokens) {
        let since = token.as_deref().and_then(|token| v3::since(token).expect("a token"));
        let request = Request { since, timeout: Duration::ZERO, ..Request::default() };
        let answer = v3::answer(Arc::clone(&ctx.sync), reader.clone(), request);
        let answer = runtime.block_on(answer).expect("an answer");
        // It comes first; reading megabytes of JSON would be counted.
        *token = answer.split('"').nth(3).map(str::to_owned);
    }
}

/// Resident memory now, and the most there was.
fn resident() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map_or_else(|| "?".to_owned(), |kib| format!("{:.1} MiB", kib / 1024.0))
    };
    format!("{} resident (peak {})", mib("VmRSS:"), mib("VmHWM:"))
}
