//! Scenes with a little push gateway that speaks real TLS.

use std::{sync::Arc, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use ruma::{OwnedUserId, api::client::room::create_room::v3::Request as Create};
use rustls::{ServerConfig, crypto::ring};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc};

use super::follow;
use crate::{
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::{canonical::to_object, event::Event, sign::KeyPair},
    remote::{Remote, discovery::Discovery, https::Https, tls},
    rooms::{
        Room, Rooms,
        append::{Deciding, NewEvent},
        create::create,
        ephemeral::{self, NewReceipt},
    },
    store::{
        Store,
        schema::{
            UserNo, numbers,
            push::{NOTIFIED, PUSHERS, PusherRow},
        },
    },
    users::{
        Users,
        pushers::{self, Key},
    },
};

/// A gateway on this machine.
struct Gateway {
    port: u16,
    heard: mpsc::UnboundedReceiver<Value>,
    /// What it answers: a status and a body.
    answer: Arc<Mutex<(u16, Value)>>,
    root: tempfile::NamedTempFile,
}

impl Gateway {
    async fn start() -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let root = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(root.path(), cert.pem()).expect("a file");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key)
            .expect("a good certificate");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (tell, heard) = mpsc::unbounded_channel();
        let answer = Arc::new(Mutex::new((200, json!({ "rejected": [] }))));
        let answers = Arc::clone(&answer);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let (tell, answers) = (tell.clone(), Arc::clone(&answers));
                let serve = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                    let (tell, answers) = (tell.clone(), Arc::clone(&answers));
                    async move {
                        assert_eq!(request.uri().path(), "/_matrix/push/v1/notify");
                        assert_eq!(request.headers()["content-type"], "application/json");
                        let body = request.into_body().collect().await?.to_bytes();
                        let (status, answer) = answers.lock().clone();
                        let body: Value = serde_json::from_slice(&body).expect("JSON");
                        drop(tell.send(body["notification"].clone()));
                        let answer = http::Response::builder()
                            .status(status)
                            .body(Full::new(bytes::Bytes::from(answer.to_string())));
                        Ok::<_, hyper::Error>(answer.expect("an answer"))
                    }
                });
                let io = TokioIo::new(stream);
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, serve));
            }
        });
        Self { port, heard, answer, root }
    }

    /// The next notification.
    async fn hears(&mut self) -> Value {
        let next = tokio::time::timeout(Duration::from_secs(20), self.heard.recv());
        next.await.expect("a notification comes").expect("the gateway runs")
    }

    /// The next notification, as `body unread`, or only the count if it is of no event.
    async fn hears_of(&mut self) -> String {
        let heard = self.hears().await;
        let body = heard["content"]["body"].as_str().map(|body| format!("{body} ")).unwrap_or_default();
        format!("{body}{}", heard["counts"]["unread"])
    }

    fn answers(&self, status: u16, body: Value) {
        *self.answer.lock() = (status, body);
    }
}

/// A server whose people have pushers.
struct House {
    rooms: Arc<Rooms>,
    follower: tokio::task::JoinHandle<()>,
}

impl House {
    fn new(gateway: &Gateway) -> Self {
        Self::over(Store::in_memory(), Clock::by_hand(1_782_000_000_000), gateway, true)
    }

    /// The server over a store, as if it had just started.
    fn over(store: Store, clock: Clock, gateway: &Gateway, private: bool) -> Self {
        let config = Arc::new(Config::for_tests());
        let tls = tls::client(&[gateway.root.path().to_owned()], &[b"h2", b"http/1.1"]).expect("a root");
        let way = Arc::new(Https::new(Discovery::new(clock.clone(), private, 1 << 20), tls));
        let users = Users::for_tests(&store, &clock, &config);
        let key = Arc::new(KeyPair::from_seed(&[7; 32], "test"));
        let remote = Remote::new(config, clock, Chance::seeded(7), store, key, way).expect("an empty store");
        let rooms = Arc::new(Rooms::new(users, Arc::new(remote), 1 << 22));
        let follows = Arc::clone(&rooms);
        let follower = tokio::spawn(async move { follow::run(follows).await.expect("it follows") });
        Self { rooms, follower }
    }

    fn user(&self, name: &str) -> (OwnedUserId, UserNo) {
        let id = OwnedUserId::try_from(format!("@{name}:{}", self.rooms.config.server_name)).expect("a user");
        let mut write = self.rooms.store.write();
        let number = numbers::user(&mut write, &id).expect("a number");
        drop(write.commit().expect("a write"));
        (id, number)
    }

    async fn pusher(&self, user: &str, gateway: &Gateway, data: Value) {
        let row = PusherRow {
            device: "PHONE".to_owned(),
            app_display_name: "App".to_owned(),
            device_display_name: "Phone".to_owned(),
            profile_tag: None,
            lang: "en".to_owned(),
            url: format!("https://127.0.0.1:{}/_matrix/push/v1/notify", gateway.port),
            data: data.to_string(),
            set_at: 5_000,
        };
        pushers::set(&self.rooms.users, self.user(user).1, key(), row, false).await.expect("a pusher");
    }

    /// A room of two: whoever makes it, and a guest.
    fn room(&self, host: &str, guest: &str) -> Arc<Room> {
        let mut request = Create::new();
        request.name = Some("Kitchen".to_owned());
        request.invite.push(self.user(guest).0);
        let (room, ticket) = create(&self.rooms, &self.user(host).0, request).expect("a room");
        ticket.wait().expect("a room on the disk");
        room
    }

    fn joins(&self, room: &Room, user: &str) {
        let id = self.user(user).0;
        self.decide(room, |deciding| deciding.join(&id, None, Default::default()));
    }

    fn decide<T>(&self, room: &Room, act: impl FnOnce(&mut Deciding<'_>) -> crate::error::Result<T>) -> T {
        let mut deciding = self.rooms.decide(room);
        let result = act(&mut deciding).expect("it is allowed");
        deciding.commit().expect("a commit").wait().expect("a write");
        result
    }

    fn sends(&self, room: &Room, sender: &str, kind: &str, content: Value) -> Arc<Event> {
        let content = to_object(&content).expect("an object");
        let new = NewEvent::message(&self.user(sender).0, kind, content);
        self.decide(room, |deciding| deciding.send(new))
    }

    fn says(&self, room: &Room, sender: &str, body: &str) -> Arc<Event> {
        self.sends(room, sender, "m.room.message", json!({ "msgtype": "m.text", "body": body }))
    }

    fn reads(&self, room: &Room, reader: &str, event: &Event) {
        let (user, _) = self.user(reader);
        let new = NewReceipt { user: &user, kind: "m.read.private", thread: None, event: &event.event_id, ts: 5 };
        drop(ephemeral::receipt(&self.rooms, room, &new).expect("a receipt"));
    }
}

fn key() -> Key {
    Key { app_id: "org.example".to_owned(), pushkey: "KEY".to_owned() }
}

#[tokio::test]
async fn an_event_reaches_the_gateway_with_everything_that_is_known() {
    let mut gateway = Gateway::start().await;
    let house = House::new(&gateway);
    house.pusher("bob", &gateway, json!({ "brand": "x" })).await;
    let room = house.room("ann", "bob");
    let invite = gateway.hears().await;
    assert_eq!([&invite["type"], &invite["user_is_target"]], [&json!("m.room.member"), &json!(true)]);
    assert_eq!([&invite["room_name"], &invite["counts"]["unread"]], [&json!("Kitchen"), &json!(1)]);
    house.joins(&room, "bob");
    assert_eq!(gateway.hears_of().await, "0", "an invite that was accepted is read");
    let event = house.says(&room, "ann", "hello");
    let device = json!({
        "app_id": "org.example",
        "pushkey": "KEY",
        "pushkey_ts": 5,
        "data": { "brand": "x" },
        "tweaks": { "sound": "default" },
    });
    let expected = json!({
        "event_id": event.event_id,
        "room_id": room.id,
        "type": "m.room.message",
        "sender": "@ann:localhost",
        "room_name": "Kitchen",
        "prio": "high",
        "content": { "msgtype": "m.text", "body": "hello" },
        "counts": { "unread": 1 },
        "devices": [device],
    });
    assert_eq!(gateway.hears().await, expected);
    house.sends(&room, "ann", "m.call.invite", json!({}));
    assert_eq!(gateway.hears().await["counts"], json!({ "unread": 2, "missed_calls": 1 }));
}

#[tokio::test]
async fn a_gateway_that_wants_only_the_id_gets_no_more() {
    let mut gateway = Gateway::start().await;
    let house = House::new(&gateway);
    house.pusher("bob", &gateway, json!({ "format": "event_id_only" })).await;
    let room = house.room("ann", "bob");
    let heard = gateway.hears().await;
    let mut fields: Vec<_> = heard.as_object().expect("an object").keys().collect();
    fields.sort();
    assert_eq!(fields, ["counts", "devices", "event_id", "prio", "room_id"]);
    assert_eq!(heard["room_id"], room.id.as_str());
    assert_eq!(heard["devices"][0]["data"], json!({ "format": "event_id_only" }));
}

#[tokio::test]
async fn what_was_read_is_taken_off_the_icon_and_not_told() {
    let mut gateway = Gateway::start().await;
    let house = House::new(&gateway);
    let room = house.room("ann", "bob");
    house.joins(&room, "bob");
    house.pusher("bob", &gateway, json!({})).await;
    let first = house.says(&room, "ann", "one");
    assert_eq!(gateway.hears_of().await, "one 1");
    house.reads(&room, "bob", &first);
    assert_eq!(gateway.hears_of().await, "0");
    gateway.answers(502, json!({}));
    let second = house.says(&room, "ann", "two");
    assert_eq!(gateway.hears_of().await, "two 1");
    house.reads(&room, "bob", &second);
    gateway.answers(200, json!({ "rejected": [] }));
    house.rooms.clock.advance(Duration::from_secs(60));
    house.says(&room, "ann", "three");
    assert_eq!(gateway.hears_of().await, "three 1");
}

#[tokio::test]
async fn what_a_gateway_did_not_take_is_told_again_also_after_a_restart() {
    let mut gateway = Gateway::start().await;
    let house = House::new(&gateway);
    let room = house.room("ann", "bob");
    house.joins(&room, "bob");
    house.pusher("bob", &gateway, json!({})).await;
    house.says(&room, "ann", "zero");
    assert_eq!(gateway.hears_of().await, "zero 1");
    gateway.answers(500, json!({}));
    house.says(&room, "ann", "one");
    assert_eq!(gateway.hears_of().await, "one 2");
    house.follower.abort();
    house.says(&room, "ann", "two");
    gateway.answers(200, json!({ "rejected": [] }));
    let (store, clock) = (house.rooms.store.clone(), house.rooms.clock.clone());
    let _again = House::over(store, clock, &gateway, true);
    assert_eq!([gateway.hears_of().await, gateway.hears_of().await], ["one 3", "two 3"]);
}

#[tokio::test]
async fn a_key_that_the_gateway_has_given_up_is_forgotten() {
    let mut gateway = Gateway::start().await;
    let house = House::new(&gateway);
    let room = house.room("ann", "bob");
    house.joins(&room, "bob");
    house.pusher("bob", &gateway, json!({})).await;
    gateway.answers(200, json!({ "rejected": ["KEY"] }));
    let mut log = house.rooms.store.watch();
    house.says(&room, "ann", "hello");
    gateway.hears().await;
    let bob = house.user("bob").1;
    let gone = async {
        while !pushers::of_user(&house.rooms.store, bob).expect("rows").is_empty() {
            log.changed().await.expect("the store runs");
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it is removed");
}

#[tokio::test]
async fn a_gateway_in_the_home_network_is_not_told_anything() {
    let mut gateway = Gateway::start().await;
    let house = House::over(Store::in_memory(), Clock::by_hand(1_782_000_000_000), &gateway, false);
    let room = house.room("ann", "bob");
    house.joins(&room, "bob");
    house.pusher("bob", &gateway, json!({})).await;
    house.says(&room, "ann", "hello");
    let uri = format!("https://127.0.0.1:{}/_matrix/push/v1/notify", gateway.port).parse().expect("an address");
    let request = crate::remote::transport::WebRequest::post_json(uri, "{}".to_owned(), Duration::from_secs(9), 9);
    let refused = house.rooms.remote.web(request).await.expect_err("it is not allowed");
    assert!(matches!(refused, crate::remote::transport::Failure::Forbidden(_)), "{refused}");
    assert!(gateway.heard.try_recv().is_err());
}

#[tokio::test]
async fn a_pusher_goes_to_whoever_uses_the_device_now() {
    let gateway = Gateway::start().await;
    let house = House::new(&gateway);
    house.pusher("bob", &gateway, json!({})).await;
    house.pusher("cat", &gateway, json!({})).await;
    let owners = || {
        let rows = house.rooms.store.scan(PUSHERS, &());
        rows.map(|row| row.expect("a row").0.0).collect::<Vec<_>>()
    };
    assert_eq!(owners(), [house.user("cat").1]);
}

#[tokio::test]
async fn of_what_a_gateway_did_not_take_for_long_the_newest_is_told() {
    let mut gateway = Gateway::start().await;
    let house = House::new(&gateway);
    let room = house.room("ann", "bob");
    house.joins(&room, "bob");
    house.pusher("bob", &gateway, json!({})).await;
    gateway.answers(500, json!({}));
    house.says(&room, "ann", "0");
    assert_eq!(gateway.hears_of().await, "0 1");
    (1..=25).for_each(|n| drop(house.says(&room, "ann", &n.to_string())));
    gateway.answers(200, json!({ "rejected": [] }));
    house.rooms.clock.advance(Duration::from_secs(3_600));
    house.says(&room, "ann", "26");
    for n in 7..=26 {
        assert_eq!(gateway.hears_of().await, format!("{n} 27"));
    }
}

#[tokio::test]
async fn what_was_read_long_ago_is_not_kept() {
    let gateway = Gateway::start().await;
    let house = House::new(&gateway);
    let room = house.room("ann", "bob");
    house.joins(&room, "bob");
    let read = house.says(&room, "ann", "read");
    house.reads(&room, "bob", &read);
    house.says(&room, "ann", "not read");
    house.rooms.clock.advance(Duration::from_secs(91 * 24 * 3_600));
    house.says(&room, "ann", "new");
    follow::tidy(&house.rooms).expect("it is tidied");
    let kept = house.rooms.store.scan(NOTIFIED, &(room.number,)).map(|row| row.expect("a row").1);
    let kept: Vec<_> = kept.map(|row| house.rooms.known(row.event).expect("an event")).collect();
    let texts: Vec<String> = kept.iter().map(|known| known.event.content_field("body").expect("a text")).collect();
    assert_eq!(texts, ["not read", "new"]);
}
