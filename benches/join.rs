//! A large room of other servers is joined: how long until the user may speak, how long until everybody is known,
//! and how much memory that takes; beside it, how long checking the signatures alone takes on all cores. And what a
//! message costs afterwards, in this room and in a small one.
//!
//! The room is generated, signed by the servers of its members; their side of the network is in memory, ours is a
//! store on the disk. `JOIN_MEMBERS` and `JOIN_SERVERS` change the size.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, StatusCode};
use ingle::{
    app::{App, Ctx},
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::{
        auth::auth_types,
        canonical::{self, Object, Value, write_object},
        compose::Draft,
        event::Event,
        sign::{KeyPair, Verdict, sign_json, verify_event},
        version::{Rules, by_name},
    },
    remote::transport::{Answer, Exchange, Failure, Opened, Opening, Outgoing, Transport},
    rooms::{Room, append::NewEvent, completing, create::create, joining},
    store::{Options, Store},
};
use ruma::{OwnedRoomId, UserId, api::client::room::create_room::v3::Request};
use serde_json::json;

const NOW: u64 = 1_782_000_000_000;
/// How many messages are sent for the comparison.
const MESSAGES: u32 = 1_000;

/// The room and its servers.
struct World {
    rules: &'static Rules,
    id: OwnedRoomId,
    servers: usize,
    /// The state, in the order in which it came to be.
    state: Vec<Arc<Event>>,
    at: HashMap<(String, String), usize>,
}

fn server(number: usize) -> String {
    format!("s{number}.example")
}

fn key(number: usize) -> KeyPair {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
    KeyPair::from_seed(&seed, "1")
}

impl World {
    fn generate(members: usize, servers: usize) -> Self {
        let rules = by_name("11").expect("a version");
        let id = OwnedRoomId::try_from("!plaza:s0.example").expect("a room ID");
        let mut world = Self { rules, id, servers, state: Vec::new(), at: HashMap::new() };
        let ann = "@user0:s0.example";
        world.add(0, ann, "m.room.create", "", json!({ "room_version": "11" }));
        world.add(0, ann, "m.room.member", ann, json!({ "membership": "join" }));
        world.add(0, ann, "m.room.power_levels", "", json!({ "users": { ann: 100 } }));
        world.add(0, ann, "m.room.join_rules", "", json!({ "join_rule": "public" }));
        world.add(0, ann, "m.room.history_visibility", "", json!({ "history_visibility": "shared" }));
        world.add(0, ann, "m.room.name", "", json!({ "name": "Plaza" }));
        for number in 1..members {
            let at = number % servers;
            let user = format!("@user{number}:{}", server(at));
            let avatar = format!("mxc://{}/JWEIFJgwEIhweiWJEa", server(at));
            let content =
                json!({ "membership": "join", "displayname": format!("User {number}"), "avatar_url": avatar });
            world.add(at, &user, "m.room.member", &user, content);
        }
        world
    }

    fn add(&mut self, from: usize, sender: &str, kind: &str, state_key: &str, content: serde_json::Value) {
        let content = canonical::to_object(&content).expect("content");
        let mut draft = Draft::new(kind, sender.try_into().expect("a user ID"), content);
        draft.room_id = Some(self.id.clone());
        draft.state_key = Some(state_key.to_owned());
        draft.depth = self.state.len() as u64 + 1;
        draft.origin_server_ts = NOW - 10_000_000_000 + self.state.len() as u64;
        draft.prev_events = self.state.last().map(|event| event.event_id.clone()).into_iter().collect();
        draft.auth_events = self.auth(&draft);
        let name = server(from);
        let event = draft.sign(name.as_str().try_into().expect("a name"), &key(from), self.rules).expect("an event");
        self.at.insert((kind.to_owned(), state_key.to_owned()), self.state.len());
        self.state.push(Arc::new(event));
    }

    fn auth(&self, draft: &Draft) -> Vec<ruma::OwnedEventId> {
        let types = auth_types(&draft.kind, &draft.sender, draft.state_key.as_deref(), &draft.content, self.rules);
        let at = types.into_iter().filter_map(|(kind, key)| self.at.get(&(kind.to_owned(), key)));
        at.map(|at| self.state[*at].event_id.clone()).collect()
    }

    fn template(&self, user: &str) -> String {
        let content = canonical::to_object(&json!({ "membership": "join" })).expect("content");
        let mut draft = Draft::new("m.room.member", user.try_into().expect("a user ID"), content);
        draft.room_id = Some(self.id.clone());
        draft.state_key = Some(user.to_owned());
        draft.depth = self.state.len() as u64 + 1;
        draft.prev_events = self.state.last().map(|event| event.event_id.clone()).into_iter().collect();
        draft.auth_events = self.auth(&draft);
        let event = write_object(&draft.into_pdu(self.rules));
        format!(r#"{{"room_version":"11","event":{event}}}"#)
    }

    /// The pieces of an answer with these events, as they would come over the network.
    fn list<'a>(&self, events: impl Iterator<Item = &'a Arc<Event>>, out: &mut Vec<Bytes>) {
        let mut piece = String::new();
        for (at, event) in events.enumerate() {
            piece.push_str(if at > 0 { "," } else { "" });
            piece.push_str(event.json());
            if piece.len() > 16_000 {
                out.push(std::mem::take(&mut piece).into());
            }
        }
        out.push(piece.into());
    }

    fn answer(&self, path: &str, to: &str) -> Vec<Bytes> {
        let core = || self.state.iter().filter(|event| event.kind != "m.room.member");
        let mut out = Vec::new();
        match path {
            path if path.contains("/make_join/") => out.push(self.template("@bob:home.example").into()),
            path if path.contains("/send_join/") => {
                let servers: Vec<String> = (0..self.servers).map(server).collect();
                out.push(format!(r#"{{"members_omitted":true,"servers_in_room":{},"state":["#, json!(servers)).into());
                self.list(core(), &mut out);
                out.push(r#"],"auth_chain":["#.into());
                self.list(self.state[1..2].iter(), &mut out);
                out.push("]}".into());
            }
            path if path.contains("/state_ids/") => {
                let ids: Vec<_> = self.state.iter().map(|event| &event.event_id).collect();
                out.push(json!({ "pdu_ids": ids, "auth_chain_ids": [] }).to_string().into());
            }
            path if path.contains("/state/") => {
                out.push(r#"{"pdus":["#.into());
                self.list(self.state.iter(), &mut out);
                out.push(r#"],"auth_chain":[]}"#.into());
            }
            path if path.contains("/key/v2/server") => {
                let number = to[1..].split('.').next().and_then(|number| number.parse().ok()).expect("a server");
                let key = key(number);
                let own = Object::from([("key".to_owned(), key.public().to_base64().into())]);
                let mut object = Object::from([
                    ("server_name".to_owned(), to.into()),
                    ("valid_until_ts".to_owned(), Value::Int((NOW + 86_400_000) as i64)),
                    ("verify_keys".to_owned(), Value::Object(Object::from([(key.id(), Value::Object(own))]))),
                ]);
                sign_json(&mut object, to, &key);
                out.push(write_object(&object).into());
            }
            _ => out.push("{}".into()),
        }
        out
    }
}

struct Net(Arc<World>);

impl Transport for Net {
    fn send(&self, request: Outgoing) -> Exchange<'_> {
        let body = self.0.answer(&request.uri, request.destination.as_str()).concat();
        Box::pin(async { Ok(Answer { status: StatusCode::OK, headers: HeaderMap::new(), body: body.into() }) })
    }

    fn open(&self, request: Outgoing) -> Opening<'_> {
        let pieces = self.0.answer(&request.uri, request.destination.as_str()).into_iter().map(Ok::<_, Failure>);
        let body = Box::pin(stream::iter(pieces));
        Box::pin(async { Ok(Opened { status: StatusCode::OK, headers: HeaderMap::new(), body }) })
    }
}

/// The signatures of all events, checked on all cores.
fn signatures(world: &World) -> Duration {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let parse = |event: &Arc<Event>| canonical::parse_object(event.json().as_bytes(), world.rules.numbers);
    let objects: Vec<Object> = world.state.iter().map(|event| parse(event).expect("an event")).collect();
    let keys: HashMap<String, _> = (0..world.servers).map(|number| (server(number), key(number).public())).collect();
    let (keys, rules) = (&keys, world.rules);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for some in objects.chunks(objects.len().div_ceil(cores)) {
            scope.spawn(move || {
                for object in some {
                    let verdict = verify_event(object, rules, |server, _| keys.get(server.as_str()).cloned());
                    assert_eq!(verdict, Verdict::Valid);
                }
            });
        }
    });
    start.elapsed()
}

/// The time that the program has spent on all cores. On a busy machine it says more than the clock.
fn work() -> Duration {
    const TICK: Duration = Duration::from_millis(10);
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |field: usize| fields.get(field).and_then(|ticks| ticks.parse::<u32>().ok()).unwrap_or(0);
    TICK * (ticks(11) + ticks(12))
}

/// What `/proc/self/status` says in kB.
fn memory(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

async fn say(ctx: &Ctx, room: &Room, bob: &UserId) {
    let content = canonical::to_object(&json!({ "msgtype": "m.text", "body": "Good evening" })).expect("content");
    let ticket = {
        let mut deciding = ctx.rooms.decide(room);
        deciding.send(NewEvent::message(bob, "m.room.message", content)).expect("a message");
        deciding.commit().expect("a commit")
    };
    ticket.published().await.expect("a message on the disk");
}

/// The wall time of one message among many.
async fn conversation(ctx: &Ctx, room: &Room, bob: &UserId) -> Duration {
    let start = Instant::now();
    for _ in 0..MESSAGES {
        say(ctx, room, bob).await;
    }
    start.elapsed() / MESSAGES
}

#[tokio::main]
async fn main() {
    let number = |name: &str, usual| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual);
    let (members, servers) = (number("JOIN_MEMBERS", 20_000), number("JOIN_SERVERS", 500));
    println!("a room of {members} members from {servers} servers");
    let world = Arc::new(World::generate(members, servers));
    let bytes: usize = world.state.iter().map(|event| event.json().len()).sum();
    let begun = work();
    let alone = signatures(&world);
    let work_alone = work() - begun;
    println!("{:.1} MB of events; their signatures alone: {alone:.2?}", bytes as f64 / 1e6);

    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(Options::new(folder.path())).expect("a store");
    let mut config = Config::for_tests();
    config.server_name = "home.example".try_into().expect("a name");
    let net = Arc::new(Net(Arc::clone(&world)));
    let home = KeyPair::from_seed(&[7; 32], "home");
    let ctx = App::new(config, Clock::by_hand(NOW), Chance::seeded(7), store, home, net).expect("a server");
    let bob = UserId::parse("@bob:home.example").expect("a user ID");
    let (small, ticket) = create(&ctx.rooms, &bob, Request::new()).expect("a room");
    ticket.published().await.expect("a room on the disk");

    std::fs::write("/proc/self/clear_refs", "5").ok();
    let before = memory("VmRSS");
    let (start, begun) = (Instant::now(), work());
    let via = vec![server(0).as_str().try_into().expect("a name")];
    let room = joining::join(&ctx.rooms, &world.id, &bob, via, Object::new()).await.expect("a join");
    say(&ctx, &room, &bob).await;
    let until_sent = start.elapsed();
    let working = tokio::spawn(completing::run(Arc::clone(&ctx.rooms)));
    ingle::rooms::partial::whole(&ctx.rooms, &room).await.expect("all members");
    let (complete, whole_work) = (start.elapsed(), work() - begun);
    let peak = memory("VmHWM");
    working.abort();
    let ratio = |time: Duration| time.as_secs_f64() / alone.as_secs_f64();
    println!("until the user may speak: {until_sent:.2?} ({:.2} x the signatures)", ratio(until_sent));
    println!("until everybody is known: {complete:.2?} ({:.2} x the signatures)", ratio(complete));
    let times = whole_work.as_secs_f64() / work_alone.as_secs_f64();
    println!("work on all cores: {whole_work:.2?} ({times:.2} x that on the signatures, {work_alone:.2?})");
    println!("{:.0} events/s", world.state.len() as f64 / complete.as_secs_f64());
    println!(
        "peak memory: {} MB, of which {} MB more than before the join",
        peak >> 10,
        peak.saturating_sub(before) >> 10
    );
    let here = ctx.rooms.current(room.number).expect("a state").len();
    assert_eq!(here, world.state.len() + 1, "the state is whole");
    for (name, room) in
        [("the small room", &small), ("this room", &room), ("the small room", &small), ("this room", &room)]
    {
        println!("a message in {name}: {:.0?}", conversation(&ctx, room, &bob).await);
    }
}
