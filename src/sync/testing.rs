//! A house with people who sync, for the tests of this module.

use std::{cell::RefCell, sync::Arc, time::Duration};

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::client::room::create_room::v3::{Request as Create, RoomPreset},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Reader, Sync,
    filter::Filter,
    sliding,
    v3::{self, Request, StateForm},
};
use crate::{
    chance::Chance,
    clock::Clock,
    config::Config,
    error::Result,
    protocol::{canonical, event::Event, sign::KeyPair},
    remote::{Remote, transport::Island},
    rooms::{
        Room, Rooms,
        append::{Deciding, NewEvent},
        create::create,
        ephemeral::{self, NewReceipt},
    },
    store::{Store, schema::numbers},
    users::{Users, account_data},
};

/// A server with nothing but rooms.
pub struct House {
    pub sync: Arc<Sync>,
}

impl House {
    pub fn new() -> Self {
        Self::over(Store::in_memory())
    }

    /// The server over a store, as if it had just started.
    pub fn over(store: Store) -> Self {
        let clock = Clock::by_hand(1_000_000);
        let config = Arc::new(Config::for_tests());
        let users = Users::for_tests(&store, &clock, &config);
        let key = Arc::new(KeyPair::from_seed(&[7; 32], "test"));
        let remote = Remote::new(config, clock, Chance::seeded(7), store, key, Arc::new(Island)).unwrap();
        let rooms = Rooms::new(users, Arc::new(remote), 1 << 22);
        Self { sync: Arc::new(Sync::new(Arc::new(rooms), CancellationToken::new())) }
    }

    pub fn rooms(&self) -> &Rooms {
        &self.sync.rooms
    }

    pub fn person(&self, name: &str) -> Person {
        self.on_device(name, "DEVICE")
    }

    pub fn on_device(&self, name: &str, device: &str) -> Person {
        let user = UserId::parse(format!("@{name}:{}", self.rooms().config.server_name)).unwrap();
        let mut write = self.rooms().store.write();
        let number = numbers::user(&mut write, &user).unwrap();
        drop(write.commit().unwrap());
        let reader = Reader { user, number, device: OwnedDeviceId::from(device) };
        Person { sync: Arc::clone(&self.sync), reader, asks: RefCell::default() }
    }
}

/// How somebody syncs.
#[derive(Default)]
pub struct Asks {
    pub since: Option<String>,
    pub filter: String,
    pub form: StateForm,
    pub full_state: bool,
    pub timeout: Duration,
}

/// Somebody on a device.
pub struct Person {
    pub sync: Arc<Sync>,
    pub reader: Reader,
    asks: RefCell<Asks>,
}

impl Person {
    pub fn id(&self) -> OwnedUserId {
        self.reader.user.clone()
    }

    /// Changes how this person syncs from now on.
    pub fn set(&self, change: impl FnOnce(&mut Asks)) -> &Self {
        change(&mut self.asks.borrow_mut());
        self
    }

    /// How this person synced, to go on elsewhere.
    pub fn take_asks(self) -> Asks {
        self.asks.into_inner()
    }

    pub fn filtered(self, filter: Value) -> Self {
        self.set(|asks| asks.filter = filter.to_string());
        self
    }

    fn request(&self) -> Result<Request> {
        let asks = self.asks.borrow();
        let filter = if asks.filter.is_empty() { Filter::default() } else { Filter::parse(&asks.filter)? };
        let since = v3::since(asks.since.as_deref().unwrap_or_default())?;
        Ok(Request { since, filter, full_state: asks.full_state, form: asks.form, timeout: asks.timeout })
    }

    pub async fn try_sync(&self) -> Result<Answer> {
        let request = self.request()?;
        let text = v3::answer(Arc::clone(&self.sync), self.reader.clone(), request).await?;
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        self.asks.borrow_mut().since = answer["next_batch"].as_str().map(str::to_owned);
        Ok(Answer(answer))
    }

    /// Syncs from where this person was.
    pub async fn sync(&self) -> Answer {
        self.try_sync().await.unwrap()
    }

    fn decide<T>(&self, room: &Room, act: impl FnOnce(&mut Deciding<'_>) -> Result<T>) -> T {
        self.tries(room, act).unwrap()
    }

    /// Asks sliding sync, in its unstable shape.
    pub async fn try_slide(&self, pos: Option<&str>, body: &Value) -> Result<Value> {
        let timeout = u64::try_from(self.asks.borrow().timeout.as_millis()).unwrap();
        let request = sliding::Request::unstable(body.to_string().as_bytes(), pos.map(str::to_owned), timeout)?;
        let text = sliding::answer(Arc::clone(&self.sync), self.reader.clone(), request).await?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// The same in the shape that was accepted.
    pub async fn try_slide_v4(&self, body: &Value) -> Result<Value> {
        let request = sliding::Request::v4(body.to_string().as_bytes())?;
        let text = sliding::answer(Arc::clone(&self.sync), self.reader.clone(), request).await?;
        Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// Does something in a room, if that is allowed, and waits until it is published.
    pub fn tries<T>(&self, room: &Room, act: impl FnOnce(&mut Deciding<'_>) -> Result<T>) -> Result<T> {
        let mut deciding = self.sync.rooms.decide(room);
        let result = act(&mut deciding)?;
        deciding.commit()?.wait()?;
        Ok(result)
    }

    pub fn creates(&self, change: impl FnOnce(&mut Create)) -> Arc<Room> {
        let mut request = Create::new();
        change(&mut request);
        let (room, ticket) = create(&self.sync.rooms, &self.reader.user, request).unwrap();
        ticket.wait().unwrap();
        room
    }

    /// Makes a room into which everybody may come.
    pub fn opens(&self) -> Arc<Room> {
        self.creates(|request| request.preset = Some(RoomPreset::PublicChat))
    }

    pub fn sends(&self, room: &Room, new: NewEvent) -> Arc<Event> {
        self.decide(room, |deciding| deciding.send(new))
    }

    pub fn says(&self, room: &Room, text: &str) -> Arc<Event> {
        self.sends_json(room, "m.room.message", json!({ "msgtype": "m.text", "body": text }))
    }

    pub fn sends_json(&self, room: &Room, kind: &str, content: Value) -> Arc<Event> {
        let content = canonical::to_object(&content).unwrap();
        self.sends(room, NewEvent::message(&self.reader.user, kind, content))
    }

    pub fn sets(&self, room: &Room, kind: &str, key: &str, content: Value) -> Arc<Event> {
        let content = canonical::to_object(&content).unwrap();
        self.sends(room, NewEvent::state(&self.reader.user, kind, key, content))
    }

    pub fn names(&self, room: &Room, name: &str) -> Arc<Event> {
        self.sets(room, "m.room.name", "", json!({ "name": name }))
    }

    pub fn joins(&self, room: &Room) {
        self.decide(room, |deciding| deciding.join(&self.reader.user, None, Default::default()));
    }

    pub fn leaves(&self, room: &Room) {
        self.decide(room, |deciding| deciding.leave(&self.reader.user, None));
    }

    pub fn invites(&self, room: &Room, guest: &Person) {
        let content = canonical::to_object(&json!({ "membership": "invite" })).unwrap();
        self.sends(room, NewEvent::state(&self.reader.user, "m.room.member", guest.id(), content));
    }

    pub fn bans(&self, room: &Room, guest: &Person) {
        self.decide(room, |deciding| deciding.ban(&self.reader.user, &guest.reader.user, None));
    }

    pub fn types(&self, room: &Room, yes: bool) {
        ephemeral::typing(&self.sync.rooms, room.number, &self.reader.user, yes.then_some(30_000)).unwrap();
    }

    pub fn reads(&self, room: &Room, event: &Event, kind: &str, thread: Option<&str>) {
        let new = NewReceipt { user: &self.reader.user, kind, thread, event: &event.event_id, ts: 5 };
        drop(ephemeral::receipt(&self.sync.rooms, room, &new).unwrap());
    }

    pub fn keeps(&self, room: Option<&Room>, kind: &str, content: Value) {
        let users = &self.sync.rooms.users;
        let room = room.map(|room| room.number);
        let mut write = users.store.write();
        account_data::put(&mut write, self.reader.number, room, kind, content.to_string()).unwrap();
        drop(write.commit().unwrap());
    }
}

/// The answer to a sync.
#[derive(Debug)]
pub struct Answer(pub Value);

impl Answer {
    /// Whether it tells nothing.
    pub fn is_empty(&self) -> bool {
        self.0.as_object().unwrap().keys().all(|key| key == "next_batch" || key.starts_with("device_"))
    }

    /// What is told of a room in a section.
    pub fn room(&self, section: &str, room: &Room) -> &Value {
        &self.0["rooms"][section][room.id.as_str()]
    }

    pub fn joined(&self, room: &Room) -> &Value {
        self.room("join", room)
    }

    /// The bodies of the messages in a joined room's timeline.
    pub fn messages(&self, room: &Room) -> Vec<&str> {
        events(&self.joined(room)["timeline"]).iter().filter_map(|event| event["content"]["body"].as_str()).collect()
    }

    /// `type state_key` of the events in a part of a joined room, in order.
    pub fn keys(&self, room: &Room, part: &str) -> Vec<String> {
        keys(&self.joined(room)[part])
    }
}

pub fn events(part: &Value) -> &[Value] {
    part["events"].as_array().map(Vec::as_slice).unwrap_or_default()
}

pub fn keys(part: &Value) -> Vec<String> {
    let key = |event: &Value| {
        let kind = event["type"].as_str().unwrap_or_default().trim_start_matches("m.room.");
        format!("{kind} {}", event["state_key"].as_str().unwrap_or("-")).trim_end().to_owned()
    };
    events(part).iter().map(key).collect()
}
