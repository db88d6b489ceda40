//! The simulated world: servers that each live on a runtime of one thread, whose time stands still until the
//! world lets it pass. Everything happens in one order, which the seed decides.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use ingle::{
    app::App,
    chance::Chance,
    clock::Clock,
    config::Config,
    protocol::sign::KeyPair,
    remote::transport::Failure,
    store::{
        Store,
        schema::federation::{SERVER_KEYS, ServerKeyRow},
    },
    tasks,
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use ruma::OwnedDeviceId;
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinHandle,
};

use super::{
    agree,
    client::Follower,
    deeds, keys,
    network::{self, Journey, Letter, Link, Reply, TICK, Wire},
};
use crate::harness::{Answer, Server, User};

/// One server, alive or not, and what it will remember.
pub struct House {
    pub name: String,
    pub store: Store,
    life: Option<Life>,
    boots: u64,
    /// When it comes back, if it is down.
    back: u64,
}

struct Life {
    // Dropped first: whatever the server is doing breaks off there.
    runtime: Runtime,
    server: Server,
}

/// Somebody with an account on one of the servers.
pub struct Person {
    pub house: usize,
    pub id: ruma::OwnedUserId,
    device: OwnedDeviceId,
    token: String,
    pub follower: Follower,
    busy: Option<(String, JoinHandle<Answer>)>,
}

/// A room that somebody has made.
pub struct Place {
    pub id: String,
    pub house: usize,
}

pub struct World {
    pub seed: u64,
    pub dice: StdRng,
    pub clock: Clock,
    pub houses: Vec<House>,
    pub people: Vec<Person>,
    pub places: Vec<Place>,
    /// What has happened so far.
    pub story: Vec<String>,
    aloud: bool,
    letters_aloud: bool,
    begun: u64,
    numbers: u64,
    letters: Arc<Mutex<Vec<Letter>>>,
    journeys: Vec<Journey>,
    /// Letters whose senders wait in vain.
    silent: Vec<oneshot::Sender<Reply>>,
    links: Vec<Vec<Link>>,
}

/// For how long at most the servers are left to themselves, in milliseconds: while letters are on their way, and
/// while there are none.
const LONGEST_STRIDE: u64 = 100;
const IDLE_STRIDE: u64 = 5_000;

fn key(house: usize) -> KeyPair {
    KeyPair::from_seed(&[u8::try_from(house).expect("few servers") + 1; 32], "sim")
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut dice = StdRng::seed_from_u64(seed);
        let clock = Clock::by_hand(1_782_000_000_000);
        let count = [2, 2, 3, 3, 3, 4, 5, 7][dice.random_range(0..8)];
        let house = |at: usize| House {
            name: format!("{}.example", char::from(b'a' + u8::try_from(at).expect("few"))),
            store: Store::in_memory(),
            life: None,
            boots: 0,
            back: 0,
        };
        let mut world = Self {
            seed,
            dice,
            begun: clock.now(),
            numbers: 0,
            clock,
            houses: (0..count).map(house).collect(),
            people: Vec::new(),
            places: Vec::new(),
            story: Vec::new(),
            aloud: std::env::var_os("INGLE_STORY").is_some(),
            letters_aloud: std::env::var("INGLE_STORY").is_ok_and(|story| story == "letters"),
            letters: Arc::default(),
            journeys: Vec::new(),
            silent: Vec::new(),
            links: vec![vec![Link { delay: 30, ..Link::default() }; count]; count],
        };
        for at in 0..count {
            world.introduce(at);
            world.boot(at);
        }
        for (at, name) in ["ann", "bob", "cem", "dan", "eva", "fay", "gil", "hal", "ida"].into_iter().enumerate() {
            if at < 3.max(count + 2) {
                let house = at % count;
                let life = world.houses[house].life.as_ref().expect("it was just started");
                let user = life.runtime.block_on(life.server.with_user(name));
                let User { id, device, token, .. } = user;
                world.people.push(Person { house, id, device, token, follower: Follower::default(), busy: None });
            }
        }
        world
    }

    /// Everything, from the first deed to the agreement.
    pub fn play(&mut self) {
        let deeds = self.dice.random_range(15..60);
        for _ in 0..deeds {
            self.weather();
            deeds::random(self);
            let pause = [0, 20, 100, 500, 2_000][self.dice.random_range(0..5)];
            self.pass(pause);
        }
        self.heal();
        self.settle();
        agree::check(self);
    }

    /// A world in which everybody has a device with keys.
    pub fn with_keys(seed: u64) -> Self {
        let mut world = Self::new(seed);
        keys::begin(&mut world);
        world
    }

    /// The same with deeds that concern devices; returns how many lists of devices are kept in the end.
    pub fn play_with_keys(&mut self) -> usize {
        for _ in 0..self.dice.random_range(30..80) {
            self.weather();
            match self.one_of(2) {
                0 => deeds::random(self),
                _ => keys::random(self),
            }
            let pause = [0, 20, 100, 500, 2_000][self.dice.random_range(0..5)];
            self.pass(pause);
        }
        self.heal();
        self.settle();
        keys::check(self)
    }

    /// One line of the story.
    pub fn tell(&mut self, line: String) {
        let line = format!("{:>8} {line}", self.clock.now() - self.begun);
        if self.aloud {
            eprintln!("{line}");
        }
        self.story.push(line);
    }

    /// One of so many.
    pub fn one_of(&mut self, count: usize) -> usize {
        self.dice.random_range(0..count)
    }

    /// The name of one of the servers.
    pub fn one_of_houses(&mut self) -> String {
        let house = self.one_of(self.houses.len());
        self.houses[house].name.clone()
    }

    /// A number that has not occurred yet.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The running server of a house.
    pub fn server(&self, house: usize) -> Option<&Server> {
        self.houses[house].life.as_ref().map(|life| &life.server)
    }

    /// Somebody as the harness knows them, if their server runs.
    pub fn user(&self, person: usize) -> Option<User> {
        let Person { house, id, device, token, .. } = &self.people[person];
        let server = self.server(*house)?.clone();
        Some(User { server, id: id.clone(), device: device.clone(), token: token.clone() })
    }

    /// Whether somebody waits for an answer.
    pub fn is_busy(&self, person: usize) -> bool {
        self.people[person].busy.is_some()
    }

    /// Somebody begins to do something; the answer is noted when it comes.
    pub fn begin(&mut self, person: usize, what: String, deed: impl Future<Output = Answer> + Send + 'static) {
        let Some(life) = &self.houses[self.people[person].house].life else { return };
        let task = life.runtime.spawn(deed);
        self.people[person].busy = Some((what, task));
    }

    /// Does something to the end on a server, while the others stand still.
    pub fn at_once<T>(&self, house: usize, deed: impl Future<Output = T>) -> T {
        self.houses[house].life.as_ref().expect("the server runs").runtime.block_on(deed)
    }

    /// A server knows everybody's key from the start: what a server does whose key nobody can get is not the
    /// question here.
    fn introduce(&mut self, at: usize) {
        let mut write = self.houses[at].store.write();
        for other in (0..self.houses.len()).filter(|other| *other != at) {
            let key = key(other);
            let row = ServerKeyRow {
                key: key.public().to_base64(),
                valid_until: self.clock.now() + 7 * 86_400_000,
                old: false,
            };
            write.put(SERVER_KEYS, &(self.houses[other].name.clone(), key.id()), &row);
        }
        drop(write.commit().expect("a commit"));
    }

    fn boot(&mut self, at: usize) {
        let house = &mut self.houses[at];
        house.boots += 1;
        if house.boots > 1 {
            house.store = house.store.restarted();
        }
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        let mut config = Config::for_tests();
        config.server_name = house.name.as_str().try_into().expect("a server name");
        let chance = Chance::seeded(self.seed * 1_000_003 + (at as u64) * 1_009 + house.boots);
        let wire = Wire { from: at, letters: Arc::clone(&self.letters) };
        let app = App::new(config, self.clock.clone(), chance, house.store.clone(), key(at), Arc::new(wire));
        let server = Server::new(app.expect("the rows are good"));
        let inside = runtime.enter();
        tasks::start(&server.ctx);
        drop(inside);
        house.life = Some(Life { runtime, server });
    }

    fn kill(&mut self, at: usize, back: u64) {
        self.tell(format!("{} dies", self.houses[at].name));
        self.houses[at].life = None;
        self.houses[at].back = self.clock.now() + back;
        for person in self.people.iter_mut().filter(|person| person.house == at) {
            person.busy = None;
        }
    }

    /// The network changes, now and then.
    fn weather(&mut self) {
        let count = self.houses.len();
        match self.one_of(24) {
            0 | 1 => {
                let cut_off: Vec<bool> = (0..count).map(|_| self.one_of(2) == 0).collect();
                for from in 0..count {
                    for to in 0..count {
                        self.links[from][to].cut = cut_off[from] != cut_off[to];
                    }
                }
                self.tell(format!("the network falls apart: {cut_off:?}"));
            }
            2 => {
                let (from, to) = (self.one_of(count), self.one_of(count));
                self.links[from][to].cut = true;
                self.tell(format!("{from} no longer reaches {to}"));
            }
            3 | 4 => {
                let (loss, delay) = ([0, 5, 20, 50][self.one_of(4)], [10, 200, 2_000, 20_000][self.one_of(4)]);
                let (from, to) = (self.one_of(count), self.one_of(count));
                self.links[from][to] = Link { cut: false, loss, delay };
                self.tell(format!("from {from} to {to}: {loss} % are lost, {delay} ms"));
            }
            5 => self.heal(),
            6 => {
                let (at, back) = (self.one_of(count), [0, 0, 1_000, 20_000, 90_000][self.one_of(5)]);
                if self.houses[at].life.is_some() {
                    self.kill(at, back);
                }
            }
            _ => {}
        }
    }

    fn heal(&mut self) {
        self.tell("the network is whole".to_owned());
        for link in self.links.iter_mut().flatten() {
            *link = Link { delay: 30, ..Link::default() };
        }
        self.silent.clear();
    }

    /// Lets so many milliseconds pass.
    pub fn pass(&mut self, time: u64) {
        let until = self.clock.now() + time;
        loop {
            let left = until.saturating_sub(self.clock.now());
            self.step(Duration::from_millis(left.min(self.stride())));
            if left == 0 {
                return;
            }
        }
    }

    /// For how long nobody has to be looked after: a server that works on something is looked at in the next tick, and
    /// otherwise whatever arrives first.
    fn stride(&self) -> u64 {
        let now = self.clock.now();
        let tick = u64::try_from(TICK.as_millis()).expect("short");
        let next = self.journeys.iter().map(|journey| match journey {
            Journey::Out { due, .. } | Journey::Back { due, .. } => due.saturating_sub(now),
            Journey::There { .. } => 0,
        });
        match next.min() {
            Some(next) => next.clamp(tick, LONGEST_STRIDE),
            None if self.people.iter().any(|person| person.busy.is_some()) => tick,
            None => IDLE_STRIDE,
        }
    }

    /// Lets time pass until nothing is on its way any more, or for as long as it takes at most.
    fn until_quiet(&mut self, most: u64) {
        let until = self.clock.now() + most;
        let mut quiet_since = self.clock.now();
        while self.clock.now() < until && self.clock.now() - quiet_since < 2_000 {
            self.pass(u64::try_from(TICK.as_millis()).expect("short"));
            if !self.journeys.is_empty() || self.people.iter().any(|person| person.busy.is_some()) {
                quiet_since = self.clock.now();
            } else {
                self.pass(500);
            }
        }
    }

    fn step(&mut self, time: Duration) {
        let now = self.clock.now();
        for at in 0..self.houses.len() {
            if self.houses[at].life.is_none() && self.houses[at].back <= now {
                self.tell(format!("{} is back", self.houses[at].name));
                self.boot(at);
            }
        }
        self.carry();
        for house in &self.houses {
            if let Some(life) = &house.life {
                // The time of a runtime passes when nothing is left to do in it.
                life.runtime.block_on(async { tokio::time::sleep(time).await });
            }
        }
        self.clock.advance(time);
        self.collect();
        self.hear();
    }

    /// New letters set out.
    fn collect(&mut self) {
        let letters = std::mem::take(&mut *self.letters.lock());
        for letter in letters {
            let due = self.clock.now();
            self.journeys.push(Journey::Out { due, letter });
            let Some(to) = self.addressee(self.journeys.last()) else { continue };
            let Some(Journey::Out { due, letter }) = self.journeys.last_mut() else { continue };
            let link = self.links[letter.from][to];
            *due += self.dice.random_range(0..=link.delay);
        }
    }

    fn addressee(&self, journey: Option<&Journey>) -> Option<usize> {
        let Some(Journey::Out { letter, .. }) = journey else { return None };
        self.houses.iter().position(|house| house.name == letter.request.destination.as_str())
    }

    /// Letters and answers whose time has come arrive.
    fn carry(&mut self) {
        let now = self.clock.now();
        for journey in std::mem::take(&mut self.journeys) {
            match journey {
                Journey::Out { due, letter } if due <= now => self.deliver(letter),
                Journey::There { from, to, work, limit, reply } if work.is_finished() => {
                    let answer = match work.now_or_never() {
                        Some(Ok(response)) => network::answer(response, limit),
                        _ => Err(Failure::Unreachable("the server broke off".to_owned())),
                    };
                    let link = self.links[to][from];
                    let due = now + self.dice.random_range(0..=link.delay);
                    match link.cut || self.dice.random_range(0..100) < link.loss {
                        true => self.lose(reply),
                        false => self.journeys.push(Journey::Back { due, answer, reply }),
                    }
                }
                Journey::Back { due, answer, reply } if due <= now => {
                    // Whoever asked may be gone.
                    drop(reply.send(answer));
                }
                journey => self.journeys.push(journey),
            }
        }
    }

    fn deliver(&mut self, letter: Letter) {
        let Letter { from, request, reply } = letter;
        let to = self.houses.iter().position(|house| house.name == request.destination.as_str());
        let Some(to) = to else { return drop(network::lost(reply, true)) };
        let link = self.links[from][to];
        if link.cut || self.dice.random_range(0..100) < link.loss {
            return self.lose(reply);
        }
        let Some(life) = &self.houses[to].life else { return drop(network::lost(reply, true)) };
        let mut call = http::Request::new(request.body);
        *call.method_mut() = request.method;
        *call.uri_mut() = request.uri.parse().expect("a path");
        *call.headers_mut() = request.headers;
        let server = life.server.clone();
        let told = self.letters_aloud.then(|| (from, to, request.uri.clone()));
        let work = life.runtime.spawn(async move {
            let answer = server.call(call).await;
            if let Some((from, to, uri)) = told {
                let body = String::from_utf8_lossy(answer.body());
                eprintln!("         {from} asks {to} {uri}: {} {body:.300}", answer.status());
            }
            answer
        });
        self.journeys.push(Journey::There { from, to, work, limit: request.limit, reply });
    }

    /// The sender learns at once that a letter is lost, or waits in vain.
    fn lose(&mut self, reply: oneshot::Sender<Reply>) {
        let told = self.one_of(3) > 0;
        self.silent.extend(network::lost(reply, told));
    }

    /// People hear what came of what they did.
    fn hear(&mut self) {
        for at in 0..self.people.len() {
            let Some((what, task)) = self.people[at].busy.take() else { continue };
            if !task.is_finished() {
                self.people[at].busy = Some((what, task));
                continue;
            }
            let answer = match task.now_or_never() {
                Some(Ok(answer)) => answer,
                _ => {
                    self.tell(format!("{what}: nobody knows"));
                    continue;
                }
            };
            let place = answer.json["room_id"].as_str().or(answer.json["replacement_room"].as_str());
            self.tell(format!("{what}: {} {}", answer.summary(), answer.json["event_id"].as_str().unwrap_or_default()));
            assert!(
                !answer.status.is_server_error() || [502, 504].contains(&answer.status.as_u16()),
                "{what}: {} {}",
                answer.status,
                answer.json
            );
            if let Some(id) = place
                && !self.places.iter().any(|place| place.id == id)
            {
                self.places.push(Place { id: id.to_owned(), house: self.people[at].house });
            }
        }
    }

    /// Everybody is back, everything arrives, and in every room somebody of each server speaks, in turn.
    fn settle(&mut self) {
        for house in &mut self.houses {
            house.back = 0;
        }
        self.until_quiet(1_200_000);
        self.pass(700_000);
        self.until_quiet(600_000);
        for round in 0..2 {
            for house in 0..self.houses.len() {
                for place in 0..self.places.len() {
                    deeds::speak(self, house, place, round);
                }
                self.until_quiet(100_000);
            }
        }
        self.until_quiet(600_000);
    }
}
