//! What a household's rooms take on the disk: the store after some thousand messages, table by table; then its
//! archive, its compact copy, and the journal that is kept.
//!
//! Half of the messages are encrypted, a tenth are reactions, the rest is text, and people read what they get.
//! `cargo bench --bench disk -- 50000` sends as many. It prints figures and judges nothing.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ingle::{
    app::{App, Ctx},
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::sign::KeyPair,
    remote::transport::Island,
    rooms::{
        Room,
        create::create,
        receipts,
        send::{NewMessage, Sender, message},
    },
    store::{
        Options, Store, Ticket,
        schema::{events::EVENTS, numbers},
    },
};
use ruma::{
    DeviceId, OwnedEventId, OwnedUserId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
};
use serde_json::{Value, json};

const PEOPLE: usize = 5;
const ROOMS: usize = 10;
/// After so many messages of a room everybody has read it.
const UNREAD: usize = 12;

fn main() {
    let messages = std::env::args().filter_map(|argument| argument.parse().ok()).next().unwrap_or(20_000);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let ctx = server(&folder.path().join("store"));
    let start = Instant::now();
    talk(&ctx, messages);
    let (events, json) = held(&ctx.store);
    println!("{events} events of {} of JSON in {:.1} s", megabytes(json), start.elapsed().as_secs_f64());
    let mut rows: Vec<_> = ctx.store.tables().into_iter().collect();
    rows.sort_by_key(|(_, table)| std::cmp::Reverse(table.bytes));
    println!("{:24} {:>9} {:>12} {:>12} {:>9}", "table", "rows", "bytes", "per event", "of JSON");
    for (name, table) in rows {
        let share = table.bytes as f64 / json as f64;
        let each = table.bytes as f64 / events as f64;
        println!("{name:24} {:>9} {:>12} {each:>12.1} {share:>9.3}", table.rows, table.bytes);
    }
    ctx.store.checkpoint().expect("a checkpoint");
    show(&ctx.store, "as it was written", json);
    for (what, run) in [
        ("after an archive", (|store| store.archive().map(drop)) as fn(&Store) -> Result<(), ingle::store::StoreError>),
        ("after a compact copy", Store::compact),
    ] {
        let start = Instant::now();
        run(&ctx.store).expect("it works");
        show(&ctx.store, &format!("{what} ({:.1} s)", start.elapsed().as_secs_f64()), json);
    }
}

fn server(folder: &Path) -> Ctx {
    let store = Store::open(Options::new(folder)).expect("a store");
    let key = KeyPair::from_seed(&[7; 32], "a_hXbU");
    let clock = Clock::by_hand(1_782_000_000_000);
    let mut config = Config::for_tests();
    config.server_name = "household.example.org".try_into().expect("a server name");
    App::new(config, clock, Chance::seeded(7), store, key, Arc::new(Island)).expect("a server")
}

/// Events, and the bytes of their JSON.
fn held(store: &Store) -> (u64, u64) {
    let rows = store.scan(EVENTS, &()).map(|row| row.expect("a row").1.json.len() as u64);
    rows.fold((0, 0), |(count, bytes), length| (count + 1, bytes + length))
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

fn show(store: &Store, what: &str, json: u64) {
    let usage = store.usage().expect("a folder");
    let words = |bytes: u64| format!("{} ({:.2})", megabytes(bytes), bytes as f64 / json as f64);
    let [bytes, engine, journal, archives] = [usage.bytes, usage.engine, usage.journal, usage.archives].map(words);
    println!("{what}: rows {bytes}, engine {engine}, journal {journal}, archives {archives}");
}

/// A source of chance that is the same each time.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap_or(0)
    }

    fn base64(&mut self, length: usize) -> String {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        (0..length).map(|_| char::from(alphabet[self.below(64)])).collect()
    }

    /// Some words, of which a few are said often and most seldom.
    fn words(&mut self) -> String {
        let count = 1 + self.below(16);
        let word = |dice: &mut Self| {
            let most = 1 + dice.below(4000);
            let rank = dice.below(most);
            let mut letters = Dice(0x9E37_79B9 * (rank as u64 + 1));
            let length = 2 + letters.below(7);
            (0..length).map(|_| char::from(b"etaoinshrdlucmfwygpb"[letters.below(20)])).collect::<String>()
        };
        (0..count).map(|_| word(self)).collect::<Vec<_>>().join(" ")
    }
}

struct Person {
    id: OwnedUserId,
    device: String,
    /// What their device writes into what it encrypts, per room.
    sessions: Vec<String>,
}

fn people(ctx: &Ctx, dice: &mut Dice) -> Vec<Person> {
    let names = ["ann", "bob", "charlotte", "dave", "grandma"];
    let person = |name: &&str| Person {
        id: UserId::parse(format!("@{name}:{}", ctx.config.server_name)).expect("a user ID"),
        device: dice.base64(10).to_uppercase(),
        sessions: (0..ROOMS).map(|_| dice.base64(43)).collect(),
    };
    names[..PEOPLE].iter().map(person).collect()
}

fn room(ctx: &Ctx, people: &[Person], name: String) -> Arc<Room> {
    let mut request = Request::new();
    request.preset = Some(RoomPreset::PublicChat);
    request.name = Some(name);
    let (room, ticket) = create(&ctx.rooms, &people[0].id, request).expect("a room");
    ticket.wait().expect("a store that works");
    for guest in &people[1..] {
        let mut deciding = ctx.rooms.decide(&room);
        deciding.join(&guest.id, None, Default::default()).expect("a join");
        deciding.commit().expect("a commit").wait().expect("a store that works");
    }
    room
}

fn talk(ctx: &Ctx, messages: usize) {
    let mut dice = Dice(7);
    let people = people(ctx, &mut dice);
    let rooms: Vec<_> = (0..ROOMS).map(|at| room(ctx, &people, format!("Room {at}"))).collect();
    let mut last: BTreeMap<usize, OwnedEventId> = BTreeMap::new();
    let mut waiting = Vec::new();
    for at in 0..messages {
        let (here, who) = (dice.below(ROOMS), dice.below(PEOPLE));
        let (room, person) = (&rooms[here], &people[who]);
        let (kind, content) = said(&mut dice, person, here, last.get(&here));
        let number = numbers::find_user(&ctx.store, &person.id).expect("a row").expect("a number");
        let sender = Sender { user: &person.id, number, device: <&DeviceId>::from(&*person.device) };
        let (content, transaction) = (content.to_string(), format!("m{}.{at}", 1_782_000_000_000u64 + at as u64));
        let new = NewMessage { kind, content: &content, redacts: None, transaction: &transaction, timestamp: None };
        let (id, ticket) = message(&ctx.rooms, sender, &room.id, &new).expect("a message");
        waiting.push(ticket);
        last.insert(here, id.clone());
        ctx.clock.advance(Duration::from_secs(dice.next() % 900));
        if dice.below(UNREAD) == 0 {
            wait(&mut waiting);
            for person in &people {
                let read = receipts::mark(&ctx.rooms, &person.id, room, "m.read", None, &id).expect("a receipt");
                waiting.extend(read);
            }
        }
    }
    wait(&mut waiting);
}

fn wait(tickets: &mut Vec<Ticket>) {
    for ticket in tickets.drain(..) {
        ticket.wait().expect("a store that works");
    }
}

fn said(dice: &mut Dice, person: &Person, room: usize, last: Option<&OwnedEventId>) -> (&'static str, Value) {
    match (dice.below(10), last) {
        (0, Some(last)) => {
            let key = ["👍️", "❤️", "😂"][dice.below(3)];
            let relation = json!({ "event_id": last, "key": key, "rel_type": "m.annotation" });
            ("m.reaction", json!({ "m.relates_to": relation }))
        }
        (1..6, _) => {
            let length = 200 + dice.below(200);
            let content = json!({
                "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": format!("AwgA{}", dice.base64(length)),
                "device_id": person.device, "sender_key": person.sessions[0], "session_id": person.sessions[room],
            });
            ("m.room.encrypted", content)
        }
        _ => ("m.room.message", json!({ "body": dice.words(), "m.mentions": {}, "msgtype": "m.text" })),
    }
}
