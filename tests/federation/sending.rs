//! How one server sends to others, which exist in name only: a wire notes all that they are sent.

use std::{collections::HashMap, future::pending, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use ingle::{
    app::App,
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::sign::KeyPair,
    remote::transport::{Answer, Exchange, Failure, Outgoing, Transport},
    store::{
        Store,
        schema::{numbers, rooms::ROOM_SERVERS},
    },
    tasks,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{sync::Notify, task::yield_now};

use crate::harness::{Server, User, in_room, quoted};

/// What becomes of a transaction.
#[derive(Clone, Copy)]
enum Fate {
    Arrives,
    Refused(StatusCode),
    /// There is too much of it, for so many seconds.
    TooMuch(&'static str),
    /// Nobody is there.
    Lost,
    /// Nobody answers, and nobody says so.
    Silence,
}

type Fates = Box<dyn Fn(&str, &Value) -> Fate + Send + Sync>;

/// A wire to servers that exist in name only.
#[derive(Clone)]
struct Wire(Arc<Inner>);

struct Inner {
    fates: Mutex<Fates>,
    /// Whom something was sent, and what, whatever became of it.
    sent: Mutex<Vec<(String, Value)>>,
    more: Notify,
    /// How many transactions are under way to each server, and how many to all of them were at most.
    under_way: Mutex<(HashMap<String, usize>, usize)>,
}

fn wire(fates: impl Fn(&str, &Value) -> Fate + Send + Sync + 'static) -> Wire {
    let inner = Inner {
        fates: Mutex::new(Box::new(fates)),
        sent: Mutex::default(),
        more: Notify::new(),
        under_way: Mutex::default(),
    };
    Wire(Arc::new(inner))
}

impl Wire {
    fn becomes(&self, fates: impl Fn(&str, &Value) -> Fate + Send + Sync + 'static) {
        self.0.sent.lock().clear();
        *self.0.fates.lock() = Box::new(fates);
    }

    /// What a server was sent, oldest first.
    fn to(&self, server: &str) -> Vec<Value> {
        self.0.sent.lock().iter().filter(|(to, _)| to == server).map(|(_, body)| body.clone()).collect()
    }

    /// Waits until something was sent.
    async fn until(&self, what: impl Fn(&Self) -> bool) {
        let looks = async {
            while !what(self) {
                self.0.more.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looks).await.expect("it is sent");
    }

    async fn carry(&self, request: Outgoing) -> Result<Answer, Failure> {
        let server = request.destination.to_string();
        if !request.uri.starts_with("/_matrix/federation/v1/send/") {
            return Err(Failure::Unreachable("nobody is there".to_owned()));
        }
        {
            let mut under_way = self.0.under_way.lock();
            let here = under_way.0.entry(server.clone()).or_default();
            *here += 1;
            assert_eq!(*here, 1, "{server} is sent one transaction after the other");
            let all = under_way.0.values().sum();
            under_way.1 = under_way.1.max(all);
        }
        for _ in 0..20 {
            yield_now().await;
        }
        let body: Value = serde_json::from_slice(&request.body).expect("JSON");
        let fate = (self.0.fates.lock())(&server, &body);
        self.0.sent.lock().push((server.clone(), body));
        self.0.more.notify_one();
        let answer = |status: StatusCode| {
            Ok(Answer { status, headers: HeaderMap::new(), body: json!({ "pdus": {} }).to_string().into() })
        };
        let answer = match fate {
            Fate::Arrives => answer(StatusCode::OK),
            Fate::Refused(status) => answer(status),
            Fate::TooMuch(seconds) => answer(StatusCode::TOO_MANY_REQUESTS).map(|mut answer| {
                answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
                answer
            }),
            Fate::Lost => Err(Failure::Unreachable("nobody is there".to_owned())),
            Fate::Silence => pending().await,
        };
        self.0.under_way.lock().0.remove(&server);
        answer
    }
}

impl Transport for Wire {
    fn send(&self, request: Outgoing) -> Exchange<'_> {
        Box::pin(self.carry(request))
    }
}

fn server_on(wire: &Wire, store: Store, clock: Clock) -> Server {
    let key = KeyPair::from_seed(&[7; 32], "test");
    let app = App::new(Config::for_tests(), clock, Chance::seeded(1), store, key, Arc::new(wire.clone()));
    let server = Server::new(app.expect("the rows are good"));
    tasks::start(&server.ctx);
    server
}

fn server(wire: &Wire) -> Server {
    server_on(wire, Store::in_memory(), Clock::by_hand(1_782_000_000_000))
}

/// A room in which these servers are, too.
async fn room_with(ann: &User, servers: impl IntoIterator<Item = String>) -> String {
    let room = ann.create_room().await;
    let store = &ann.server.ctx.store;
    let number = numbers::find_room(store, (&*room).try_into().expect("a room ID")).expect("rows").expect("the room");
    let mut write = store.write();
    for server in servers {
        write.put(ROOM_SERVERS, &(number, server), &1);
    }
    write.commit().expect("a commit").published().await.expect("on the disk");
    room
}

const FRIEND: &str = "friend.example";

fn said(transactions: &[Value]) -> Vec<&str> {
    let pdus = transactions.iter().flat_map(|sent| sent["pdus"].as_array().into_iter().flatten());
    pdus.filter_map(|pdu| pdu["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn a_crowd_is_told_by_and_by() {
    let wire = wire(|_, _| Fate::Arrives);
    let ann = server(&wire).with_user("ann").await;
    let room = room_with(&ann, (0..300).map(|n| format!("s{n}.example"))).await;
    let last = ann.last(&room).await;
    // How far she has read, and that she is typing, is worth no transaction to each of them.
    ann.post(&in_room(&room, &format!("receipt/m.read/{}", quoted(&last))), json!({})).await.ok();
    ann.put(&in_room(&room, &format!("typing/{}", ann.id)), json!({ "typing": true })).await.ok();
    ann.server.is_heard().await;
    ann.say(&room, "hello all").await;
    ann.server.is_heard().await;
    for n in 0..300 {
        let sent = wire.to(&format!("s{n}.example"));
        assert_eq!((said(&sent), sent.len()), (vec!["hello all"], 1));
        let edus: Vec<_> = sent[0]["edus"].as_array().into_iter().flatten().map(|edu| &edu["edu_type"]).collect();
        assert_eq!(edus, ["m.receipt"]);
    }
    let most = wire.0.under_way.lock().1;
    assert!((2..=50).contains(&most), "{most} at the same time");
}

#[tokio::test]
async fn nobody_in_a_small_room_waits_behind_a_crowd() {
    let wire = wire(|server, _| if server == FRIEND { Fate::Arrives } else { Fate::Silence });
    let ann = server(&wire).with_user("ann").await;
    let everybody = (0..200).map(|n| format!("s{n}.example")).chain([FRIEND.to_owned()]);
    let crowd = room_with(&ann, everybody).await;
    ann.say(&crowd, "hello all").await;
    wire.until(|wire| wire.0.sent.lock().len() >= 50).await;
    let room = room_with(&ann, [FRIEND.to_owned()]).await;
    ann.say(&room, "hello you").await;
    wire.until(|wire| said(&wire.to(FRIEND)).contains(&"hello you")).await;
}

#[tokio::test]
async fn after_a_start_what_waits_is_the_greeting() {
    let wire = wire(|_, _| Fate::Lost);
    let ann = server(&wire).with_user("ann").await;
    let room = room_with(&ann, [FRIEND.to_owned(), "other.example".to_owned()]).await;
    wire.becomes(|server, _| if server == FRIEND { Fate::Lost } else { Fate::Arrives });
    ann.say(&room, "hello").await;
    wire.until(|wire| !wire.to(FRIEND).is_empty() && !wire.to("other.example").is_empty()).await;
    let ctx = &ann.server.ctx;
    ctx.stop.cancel();
    ctx.clock.advance(Duration::from_secs(86_400));
    let second = self::wire(|_, _| Fate::Arrives);
    let server = server_on(&second, ctx.store.clone(), ctx.clock.clone());
    second.until(|wire| !wire.to(FRIEND).is_empty() && !wire.to("other.example").is_empty()).await;
    server.is_heard().await;
    assert_eq!(second.to(FRIEND).len(), 1, "{:?}", second.to(FRIEND));
    assert_eq!(said(&second.to(FRIEND)), ["hello"]);
}

#[tokio::test]
async fn who_was_away_does_not_hear_who_was_typing_then() {
    let wire = wire(|_, _| Fate::Lost);
    let ann = server(&wire).with_user("ann").await;
    let room = room_with(&ann, [FRIEND.to_owned()]).await;
    ann.put(&in_room(&room, &format!("typing/{}", ann.id)), json!({ "typing": true, "timeout": 30_000 })).await.ok();
    wire.until(|wire| !wire.to(FRIEND).is_empty()).await;
    ann.say(&room, "hello").await;
    wire.becomes(|_, _| Fate::Arrives);
    // Nothing but time tells when the attempt has been noted; whoever shows themselves before that is asked again.
    let back_off = &ann.server.ctx.remote.back_off;
    let friend = FRIEND.try_into().expect("a name");
    wire.until_shown(|| back_off.answered(friend).expect("rows"), |wire| !said(&wire.to(FRIEND)).is_empty()).await;
    let edus: Vec<_> = wire.to(FRIEND).into_iter().filter(|sent| sent.get("edus").is_some()).collect();
    assert_eq!(edus, [] as [Value; 0]);
}

impl Wire {
    /// The same as [`Wire::until`], while somebody does something again and again.
    async fn until_shown(&self, show: impl Fn(), what: impl Fn(&Self) -> bool) {
        let looks = async {
            while !what(self) {
                show();
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), looks).await.expect("it is sent");
    }
}

#[tokio::test]
async fn what_is_too_much_at_once_is_sent_in_parts() {
    let wire = wire(|_, _| Fate::Lost);
    let ann = server(&wire).with_user("ann").await;
    let room = room_with(&ann, [FRIEND.to_owned()]).await;
    ann.say(&room, "one").await;
    wire.until(|wire| !wire.to(FRIEND).is_empty()).await;
    for text in ["two", "three", "four"] {
        ann.say(&room, text).await;
    }
    wire.becomes(|_, body| match body["pdus"].as_array().map_or(0, Vec::len) {
        0 | 1 => Fate::Arrives,
        _ => Fate::Refused(StatusCode::PAYLOAD_TOO_LARGE),
    });
    let back_off = &ann.server.ctx.remote.back_off;
    let friend = FRIEND.try_into().expect("a name");
    wire.until_shown(|| back_off.answered(friend).expect("rows"), |wire| !said(&wire.to(FRIEND)).is_empty()).await;
    ann.server.is_heard().await;
    let arrived: Vec<_> = wire.to(FRIEND).into_iter().filter(|sent| sent["pdus"][1].is_null()).collect();
    assert_eq!(said(&arrived), ["one", "two", "three", "four"]);
}

#[tokio::test]
async fn a_server_is_left_alone_as_long_as_it_wants() {
    let wire = wire(|_, _| Fate::TooMuch("120"));
    let ann = server(&wire).with_user("ann").await;
    let room = room_with(&ann, [FRIEND.to_owned()]).await;
    ann.say(&room, "hello").await;
    let ctx = &ann.server.ctx;
    let friend = FRIEND.try_into().expect("a name");
    let mut log = ctx.store.watch();
    let looks = async {
        while ctx.remote.back_off.until(friend, ctx.clock.now()).is_none() {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looks).await.expect("it is left alone");
    assert_eq!(ctx.remote.back_off.until(friend, ctx.clock.now()), Some(ctx.clock.now() + 120_000));
}

#[tokio::test]
async fn what_is_worth_sending_only_at_once_holds_up_nothing_when_it_is_refused() {
    let wire = wire(|_, body| match body.get("edus") {
        Some(_) => Fate::Refused(StatusCode::FORBIDDEN),
        None => Fate::Arrives,
    });
    let ann = server(&wire).with_user("ann").await;
    let room = room_with(&ann, [FRIEND.to_owned()]).await;
    ann.put(&in_room(&room, &format!("typing/{}", ann.id)), json!({ "typing": true, "timeout": 30_000 })).await.ok();
    wire.until(|wire| !wire.to(FRIEND).is_empty()).await;
    ann.say(&room, "hello").await;
    wire.until(|wire| said(&wire.to(FRIEND)) == ["hello"]).await;
}
