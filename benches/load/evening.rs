//! The evening itself: people gather in rooms, talk all at once, then one at a time, and look back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hmac::{Hmac, KeyInit, Mac};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local};

use crate::Result;
use crate::http::{Connection, LONG_POLL, Server, segment};

/// How many of everything.
pub struct Crowd {
    pub users: usize,
    pub rooms: usize,
    pub senders: usize,
    pub syncers: usize,
    pub messages: usize,
}

/// Somebody with an account; their access token.
pub type Person = String;

/// What a number of sends took: until the answer, and until a waiting client had the message.
#[derive(Default)]
pub struct Sent {
    pub per_second: f64,
    pub send: Vec<Duration>,
    pub delivery: Vec<Duration>,
    pub missed: usize,
}

/// What the tasks of one measurement write into.
struct Record {
    start: Instant,
    sent: RefCell<Sent>,
    arrived: Notify,
}

impl Record {
    fn new() -> Rc<Self> {
        Rc::new(Self { start: Instant::now(), sent: RefCell::default(), arrived: Notify::new() })
    }
}

/// What the server calls itself.
pub async fn software(server: &Server) -> String {
    let answer = server.connection("").get("/_matrix/federation/v1/version").await;
    let answer = answer.ok().and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let word = |name: &str| answer.as_ref().and_then(|answer| answer["server"][name].as_str().map(str::to_owned));
    match (word("name"), word("version")) {
        (Some(name), Some(version)) => format!("{name} {version}"),
        _ => "a homeserver".to_owned(),
    }
}

/// Registers everybody, by the shared secret if there is one.
pub async fn people(server: &Server, crowd: &Crowd, secret: Option<&str>) -> Result<Vec<Person>> {
    let mut connection = server.connection("");
    let mut people = Vec::new();
    for number in 0..crowd.users {
        let name = format!("load-{}-{number}", std::process::id());
        let answer = match secret {
            Some(secret) => register_by_secret(&mut connection, &name, secret).await?,
            None => register(&mut connection, &name).await?,
        };
        people.push(answer["access_token"].as_str().ok_or("no access token")?.to_owned());
    }
    Ok(people)
}

async fn register(connection: &mut Connection, name: &str) -> Result<Value> {
    let request = json!({ "username": name, "password": "load", "auth": { "type": "m.login.dummy" } });
    connection.post("/_matrix/client/v3/register", &request).await
}

async fn register_by_secret(connection: &mut Connection, name: &str, secret: &str) -> Result<Value> {
    let path = "/_synapse/admin/v1/register";
    let nonce: Value = serde_json::from_slice(&connection.get(path).await?)?;
    let nonce = nonce["nonce"].as_str().ok_or("no nonce")?;
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes())?;
    mac.update(format!("{nonce}\0{name}\0load\0notadmin").as_bytes());
    let mac: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let request = json!({ "nonce": nonce, "username": name, "password": "load", "admin": false, "mac": mac });
    connection.post(path, &request).await
}

/// The first person makes public rooms, and everybody joins all of them.
pub async fn rooms(server: &Server, crowd: &Crowd, people: &[Person]) -> Result<Vec<String>> {
    let mut rooms = Vec::new();
    let mut host = server.connection(&people[0]);
    for number in 0..crowd.rooms {
        let request = json!({ "preset": "public_chat", "name": format!("Room {number}") });
        let answer = host.post("/_matrix/client/v3/createRoom", &request).await?;
        rooms.push(answer["room_id"].as_str().ok_or("no room ID")?.to_owned());
    }
    for person in &people[1..] {
        let mut guest = server.connection(person);
        for room in &rooms {
            guest.post(&format!("/_matrix/client/v3/rooms/{}/join", segment(room)), &json!({})).await?;
        }
    }
    Ok(rooms)
}

/// All senders at once, while some clients wait for news.
pub async fn burst(server: &Server, crowd: &Crowd, people: &[Person], rooms: &[String]) -> Result<Sent> {
    let record = Record::new();
    let mut syncers = Vec::new();
    for person in people.iter().take(crowd.syncers) {
        syncers.push(follow(server, person, crowd.messages, &record).await?);
    }

    let begin = Instant::now();
    let next = Rc::new(Cell::new(0));
    let mut senders: Vec<JoinHandle<std::result::Result<(), String>>> = Vec::new();
    for number in 0..crowd.senders {
        let mut connection = server.connection(&people[number % people.len()]);
        let (record, next, rooms, messages) = (record.clone(), next.clone(), rooms.to_vec(), crowd.messages);
        senders.push(spawn_local(async move {
            while next.get() < messages {
                let message = next.replace(next.get() + 1);
                let room = &rooms[message % rooms.len()];
                say(&mut connection, room, &record).await.map_err(|error| error.to_string())?;
            }
            Ok(())
        }));
    }
    for sender in senders {
        sender.await??;
    }
    let took = begin.elapsed();
    let mut missed = 0;
    for syncer in syncers {
        missed += crowd.messages - syncer.await??;
    }
    let sent = record.sent.take();
    Ok(Sent { per_second: crowd.messages as f64 / took.as_secs_f64(), missed, ..sent })
}

/// One message after the other, each seen by one waiting client before the next is sent.
pub async fn alone(server: &Server, people: &[Person], rooms: &[String]) -> Result<Sent> {
    let record = Record::new();
    let count = 200;
    let reader = people.last().ok_or("nobody")?;
    let syncer = follow(server, reader, count, &record).await?;
    let mut connection = server.connection(&people[0]);
    for _ in 0..count {
        let arrived = record.arrived.notified();
        say(&mut connection, &rooms[0], &record).await?;
        tokio::time::timeout(2 * LONG_POLL, arrived).await?;
    }
    syncer.await??;
    Ok(record.sent.take())
}

/// Sends a message that carries the time of its departure.
async fn say(connection: &mut Connection, room: &str, record: &Record) -> Result<()> {
    thread_local!(static TRANSACTION: Cell<u64> = const { Cell::new(0) });
    let transaction = TRANSACTION.replace(TRANSACTION.get() + 1);
    let room = segment(room);
    let path = format!("/_matrix/client/v3/rooms/{room}/send/m.room.message/load{transaction}");
    let text = format!("It is getting late, and the fire is still burning: {transaction}");
    let left = record.start.elapsed();
    let body = json!({ "msgtype": "m.text", "body": text, "left": left.as_micros() as u64 });
    connection.put(&path, body.to_string()).await?;
    record.sent.borrow_mut().send.push(record.start.elapsed() - left);
    Ok(())
}

#[derive(Deserialize)]
struct Sync {
    next_batch: String,
    #[serde(default)]
    rooms: Rooms,
}

#[derive(Deserialize, Default)]
struct Rooms {
    #[serde(default)]
    join: HashMap<String, Joined>,
}

#[derive(Deserialize)]
struct Joined {
    #[serde(default)]
    timeline: Timeline,
}

#[derive(Deserialize, Default)]
struct Timeline {
    #[serde(default)]
    events: Vec<Event>,
}

#[derive(Deserialize)]
struct Event {
    content: Content,
}

#[derive(Deserialize)]
struct Content {
    left: Option<u64>,
}

/// A client that waits for news until it has seen the wanted number of messages, or none come any
/// more; it gives the number that it saw.
async fn follow(
    server: &Server,
    person: &Person,
    wanted: usize,
    record: &Rc<Record>,
) -> Result<JoinHandle<std::result::Result<usize, String>>> {
    let mut connection = server.connection(person);
    let filter = segment(r#"{"room":{"timeline":{"limit":1000}},"presence":{"not_types":["*"]}}"#);
    let mut since = since(&mut connection).await?;
    let record = record.clone();
    Ok(spawn_local(async move {
        let mut seen = 0;
        while seen < wanted {
            let timeout = LONG_POLL.as_millis();
            let path = format!("/_matrix/client/v3/sync?filter={filter}&timeout={timeout}&since={since}");
            let asked = Instant::now();
            let body = connection.get(&path).await.map_err(|error| error.to_string())?;
            let now = record.start.elapsed();
            let sync: Sync = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
            let events = sync.rooms.join.into_values().flat_map(|room| room.timeline.events);
            let before = seen;
            for left in events.filter_map(|event| event.content.left) {
                seen += 1;
                record.sent.borrow_mut().delivery.push(now.saturating_sub(Duration::from_micros(left)));
                record.arrived.notify_one();
            }
            if seen == before && asked.elapsed() >= LONG_POLL {
                break;
            }
            since = segment(&sync.next_batch);
        }
        Ok(seen)
    }))
}

async fn since(connection: &mut Connection) -> Result<String> {
    let body = connection.get("/_matrix/client/v3/sync?timeout=0").await?;
    Ok(segment(&serde_json::from_slice::<Sync>(&body)?.next_batch))
}

/// A question that is asked many times, one after the other.
pub struct Question {
    person: Person,
    path: String,
    times: usize,
    from_now: bool,
}

/// What is asked at the end of the evening.
pub fn questions(people: &[Person], rooms: &[String]) -> Vec<(&'static str, Question)> {
    let ask = |path: String, times, from_now| Question { person: people[0].clone(), path, times, from_now };
    let room = segment(&rooms[0]);
    vec![
        ("empty incremental sync", ask("/_matrix/client/v3/sync?timeout=0&since=".to_owned(), 2000, true)),
        ("page of 100 messages", ask(format!("/_matrix/client/v3/rooms/{room}/messages?dir=b&limit=100"), 300, false)),
        ("initial sync", ask("/_matrix/client/v3/sync?timeout=0".to_owned(), 50, false)),
    ]
}

pub async fn repeat(server: &Server, question: &Question) -> Result<Vec<Duration>> {
    let mut connection = server.connection(&question.person);
    let mut path = question.path.clone();
    if question.from_now {
        path += &since(&mut connection).await?;
    }
    let mut times = Vec::with_capacity(question.times);
    for _ in 0..question.times {
        let start = Instant::now();
        let (status, body) = connection.ask(Method::GET, &path, "".into()).await?;
        times.push(start.elapsed());
        if !status.is_success() {
            return Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&body)).into());
        }
    }
    Ok(times)
}
