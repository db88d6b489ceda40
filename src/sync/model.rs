//! Readers who fold what they are told, against rooms in which anything happens: nothing is skipped and
//! nothing is told twice, whatever the filters, with lost answers, restarts, a restored backup, and writers at the
//! same time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    thread,
};

use proptest::prelude::*;
use ruma::{RoomId, events::room::member::MembershipState};
use serde_json::{Value, json};

use super::{
    filter::Filter,
    testing::{Answer, House, Person, events},
    v3::StateForm,
};
use crate::{
    protocol::canonical,
    rooms::{
        Room, Rooms,
        append::NewEvent,
        cache::Known,
        history::{self, Direction},
        token::Cursor,
        view::Viewer,
    },
    store::{
        Options, Store,
        schema::{events::TIMELINE, numbers, rooms::USER_ROOMS},
    },
};

pub const PEOPLE: [&str; 4] = ["ann", "bob", "carol", "dan"];
pub const ROOMS: usize = 3;

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Somebody does something in a room; the last number chooses to whom, if it is to somebody.
    Act(Deed, usize, usize, usize),
    /// A reader syncs, or asks and never gets the answer.
    Sync(usize, bool),
    /// The server is started again.
    Restart,
}

#[derive(Debug, Clone, Copy)]
pub enum Deed {
    Say,
    Name,
    Note,
    Join,
    Leave,
    Invite,
    Ban,
    Unban,
    Hide,
}

pub const DEEDS: [Deed; 14] = {
    use Deed::{Ban, Hide, Invite, Join, Leave, Name, Note, Say, Unban};
    [Say, Say, Say, Say, Say, Name, Note, Join, Join, Leave, Invite, Ban, Unban, Hide]
};

impl Deed {
    /// Does it, if the rules of the room let it happen.
    pub fn act(self, doer: &Person, room: &Room, other: &Person) {
        let (user, whom) = (doer.id(), other.id());
        let content = |value: Value| canonical::to_object(&value).unwrap();
        let hidden = ["shared", "joined", "invited", "world_readable"][usize::from(whom.as_str().len() % 4 == 0)];
        let member = |membership: &str| {
            NewEvent::state(&user, "m.room.member", whom.as_str(), content(json!({ "membership": membership })))
        };
        let done = match self {
            Self::Say => doer.tries(room, |deciding| {
                deciding.send(NewEvent::message(&user, "m.room.message", content(json!({ "body": "." })))).map(drop)
            }),
            Self::Name => {
                let new = NewEvent::state(&user, "m.room.name", "", content(json!({ "name": "x" })));
                doer.tries(room, |deciding| deciding.send(new).map(drop))
            }
            Self::Note => {
                let new = NewEvent::state(&user, "org.example.note", whom.localpart(), content(json!({})));
                doer.tries(room, |deciding| deciding.send(new).map(drop))
            }
            Self::Hide => {
                let new = json!({ "history_visibility": hidden });
                let new = NewEvent::state(&user, "m.room.history_visibility", "", content(new));
                doer.tries(room, |deciding| deciding.send(new).map(drop))
            }
            Self::Join => doer.tries(room, |deciding| deciding.join(&user, None, Default::default()).map(drop)),
            Self::Leave => doer.tries(room, |deciding| deciding.leave(&user, None).map(drop)),
            Self::Invite => doer.tries(room, |deciding| deciding.send(member("invite")).map(drop)),
            Self::Ban => doer.tries(room, |deciding| deciding.ban(&user, &whom, None).map(drop)),
            Self::Unban => doer.tries(room, |deciding| deciding.unban(&user, &whom, None).map(drop)),
        };
        // What is not allowed does not happen; that is as good.
        drop(done);
    }
}

/// Somebody who folds answers.
struct Reader {
    person: Person,
    filter: Filter,
    lazy: bool,
    form: StateForm,
    rooms: BTreeMap<String, Seen>,
}

/// What a reader believes of a room.
#[derive(Default)]
struct Seen {
    section: &'static str,
    /// Events that were told in timelines.
    told: BTreeSet<String>,
    /// These, and those that were found in pages.
    known: BTreeSet<String>,
    state: BTreeMap<(String, String), String>,
    /// Who was heard since the state is known.
    senders: BTreeSet<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Reader {
    fn new(house: &House, who: usize, device: usize) -> Self {
        let lazy = device == 1;
        let mut timeline = json!({ "limit": 1 + (who + device) % 4 });
        if who % 3 == 2 {
            timeline["types"] = json!(["m.room.m*"]);
        }
        let filter = json!({ "room": { "timeline": timeline, "state": { "lazy_load_members": lazy } } });
        let form = if who.is_multiple_of(2) { StateForm::Before } else { StateForm::After };
        let person = house.on_device(PEOPLE[who], &format!("D{device}")).filtered(filter.clone());
        person.set(|asks| asks.form = form);
        Self { person, filter: Filter::parse(&filter.to_string()).unwrap(), lazy, form, rooms: BTreeMap::new() }
    }

    fn ask(&self) -> Answer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(self.person.sync())
    }

    fn sync(&mut self) -> bool {
        let answer = self.ask();
        for section in ["join", "invite", "knock", "leave"] {
            for (id, part) in answer.0["rooms"][section].as_object().into_iter().flatten() {
                self.fold(section, id, part);
            }
        }
        answer.is_empty()
    }

    /// Asks, and forgets the answer.
    fn lose(&self) {
        let mut since = None;
        self.person.set(|asks| since = asks.since.clone());
        self.ask();
        self.person.set(|asks| asks.since = since);
    }

    fn fold(&mut self, section: &'static str, id: &str, part: &Value) {
        let rooms = Arc::clone(&self.person.sync.rooms);
        let seen = self.rooms.entry(id.to_owned()).or_default();
        if section == "join" && seen.section != "join" {
            seen.state.clear();
            seen.senders.clear();
        }
        // What ended before it began is no part of a conversation.
        let apart = section == "leave" && seen.section != "join" && part["timeline"]["limited"] == false;
        seen.section = section;
        let limited = part["timeline"]["limited"] == true;
        if limited {
            let from = Cursor::parse(part["timeline"]["prev_batch"].as_str().unwrap()).unwrap();
            fill(&rooms, &self.person, &self.filter, id, from, &mut seen.known);
        }
        let put = |seen: &mut Seen, event: &Value| {
            if let Some(key) = event["state_key"].as_str() {
                seen.state.insert((text(&event["type"]), key.to_owned()), text(&event["event_id"]));
            }
        };
        let (name, applies) = match self.form {
            StateForm::Before => ("state", true),
            _ => ("state_after", false),
        };
        events(&part[name]).iter().for_each(|event| put(seen, event));
        for event in events(&part["timeline"]) {
            let event_id = text(&event["event_id"]);
            assert!(seen.told.insert(event_id.clone()), "{event_id} is told twice to {}", self.person.id());
            if !apart {
                seen.known.insert(event_id);
            }
            seen.senders.insert(text(&event["sender"]));
            if applies {
                put(seen, event);
            }
        }
    }

    /// What the reader believes is what there is.
    fn check(&self, room: &Room) {
        let rooms = &self.person.sync.rooms;
        let (who, nothing) = (self.person.id(), Seen::default());
        let seen = self.rooms.get(room.id.as_str()).unwrap_or(&nothing);
        let user = numbers::find_user(&rooms.store, &who).unwrap().unwrap();
        let row = rooms.store.get(USER_ROOMS, &(user, room.number)).unwrap();
        let Some(row) = row else { return assert_eq!(seen.section, "", "{who} in {}", room.id) };
        let section = match row.membership {
            MembershipState::Join => "join",
            MembershipState::Invite => "invite",
            _ => "leave",
        };
        // Who has left before the first sync need not know.
        assert!(seen.section == section || (section == "leave" && seen.section.is_empty()), "{who}: {}", seen.section);
        if section != "join" {
            return;
        }
        let viewer = Viewer::new(rooms, &who, None).unwrap();
        for row in rooms.store.scan(TIMELINE, &(room.number,)) {
            let known = rooms.known(row.unwrap().1).unwrap();
            if wants(&self.filter, rooms, &viewer, &known) {
                let id = known.event.event_id.as_str();
                assert!(seen.known.contains(id) || seen.told.contains(id), "{who} never heard of {:?}", known.event);
            }
        }
        let mut state = current(rooms, room);
        if self.lazy {
            let member = |user: &String| ("m.room.member".to_owned(), user.clone());
            assert!(seen.senders.iter().all(|sender| seen.state.contains_key(&member(sender))), "{who} lacks a sender");
            state.retain(|key, _| key.0 != "m.room.member" || seen.state.contains_key(key));
        }
        assert_eq!(seen.state, state, "the state for {who}");
    }
}

/// The current state of a room: event IDs by type and state key.
pub fn current(rooms: &Rooms, room: &Room) -> BTreeMap<(String, String), String> {
    let mut state = BTreeMap::new();
    for (_, number) in rooms.current(room.number).unwrap().iter() {
        let event = Arc::clone(&rooms.known(number).unwrap().event);
        let (kind, key) = event.key().unwrap();
        state.insert((kind.to_owned(), key.to_owned()), event.event_id.to_string());
    }
    state
}

pub fn wants(filter: &Filter, rooms: &Rooms, viewer: &Viewer<'_>, known: &Known) -> bool {
    filter.room.timeline.wants(rooms, known).unwrap() && viewer.may_see(known).unwrap()
}

/// Reads pages back from a gap until something known comes.
pub fn fill(
    rooms: &Rooms,
    person: &Person,
    filter: &Filter,
    id: &str,
    from: Cursor,
    known_events: &mut BTreeSet<String>,
) {
    let room = rooms.find(<&RoomId>::try_from(id).unwrap()).unwrap();
    let viewer = Viewer::new(rooms, &person.id(), None).unwrap();
    let mut next = Some(from);
    while let Some(from) = next {
        let wants = |known: &Arc<Known>| Ok(wants(filter, rooms, &viewer, known));
        let page = history::page(rooms, room.number, Direction::Backward, from, None, 3, wants).unwrap();
        for known in &page.events {
            if !known_events.insert(known.event.event_id.to_string()) {
                return;
            }
        }
        next = page.end;
    }
}

/// A server, its rooms and its readers.
struct World {
    house: House,
    rooms: Vec<Arc<Room>>,
    readers: Vec<Reader>,
}

impl World {
    fn new(store: Store) -> Self {
        let house = House::over(store);
        let rooms = (0..ROOMS).map(|_| house.person("ann").opens()).collect();
        let readers = (0..2 * PEOPLE.len()).map(|n| Reader::new(&house, n % PEOPLE.len(), n / PEOPLE.len())).collect();
        Self { house, rooms, readers }
    }

    /// The same rows after a restart.
    fn restart(&mut self, store: Store) {
        self.house = House::over(store);
        for reader in &mut self.readers {
            reader.person.sync = Arc::clone(&self.house.sync);
        }
        self.rooms = self.rooms.iter().map(|room| self.house.rooms().find(&room.id).unwrap()).collect();
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Act(deed, who, room, whom) => {
                let (doer, other) = (self.house.person(PEOPLE[who]), self.house.person(PEOPLE[whom]));
                deed.act(&doer, &self.rooms[room], &other);
            }
            Step::Sync(reader, true) => drop(self.readers[reader].sync()),
            Step::Sync(reader, false) => self.readers[reader].lose(),
            Step::Restart => {
                let store = self.house.rooms().store.clone();
                self.restart(store);
            }
        }
    }

    fn check(&mut self) {
        for reader in &mut self.readers {
            reader.sync();
            assert!(reader.sync(), "{} is told again what is known", reader.person.id());
            self.rooms.iter().for_each(|room| reader.check(room));
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let act = (0..DEEDS.len(), 0..PEOPLE.len(), 0..ROOMS, 0..PEOPLE.len());
    let act = act.prop_map(|(deed, who, room, whom)| Step::Act(DEEDS[deed], who, room, whom));
    let sync = (0..2 * PEOPLE.len(), prop::bool::weighted(0.8)).prop_map(|(reader, gets)| Step::Sync(reader, gets));
    prop_oneof![8 => act, 4 => sync, 1 => Just(Step::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_readers_fold_is_what_there_is(steps in prop::collection::vec(step(), 20..160)) {
        let mut world = World::new(Store::in_memory());
        steps.into_iter().for_each(|step| world.step(step));
        world.check();
    }
}

/// A cheap source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % sides
    }
}

#[test]
fn nothing_is_lost_between_writers_and_readers_who_run_at_the_same_time() {
    let folder = tempfile::tempdir().unwrap();
    let mut world = World::new(Store::open(Options::new(folder.path())).unwrap());
    for round in 0..2 {
        thread::scope(|scope| {
            let (house, rooms) = (&world.house, &world.rooms);
            for writer in 0..3 {
                let people: Vec<_> = PEOPLE.iter().map(|name| house.person(name)).collect();
                scope.spawn(move || {
                    let mut dice = Dice(round * 10 + writer);
                    for _ in 0..120 {
                        let deed = DEEDS[dice.roll(DEEDS.len())];
                        let (who, whom) = (dice.roll(PEOPLE.len()), dice.roll(PEOPLE.len()));
                        deed.act(&people[who], &rooms[dice.roll(ROOMS)], &people[whom]);
                    }
                });
            }
            for readers in world.readers.chunks_mut(4) {
                scope.spawn(move || {
                    for _ in 0..40 {
                        for reader in readers.iter_mut() {
                            reader.sync();
                        }
                    }
                });
            }
        });
        world.check();
        let World { readers, rooms, .. } = world;
        let ids: Vec<_> = rooms.iter().map(|room| room.id.clone()).collect();
        drop(rooms);
        // The store closes when nobody holds it any more.
        let kept: Vec<_> = readers.into_iter().map(|reader| (reader.person.take_asks(), reader.rooms)).collect();
        drop(world.house);
        let house = House::over(Store::open(Options::new(folder.path())).unwrap());
        let rooms = ids.iter().map(|id| house.rooms().find(id).unwrap()).collect();
        let readers = kept.into_iter().enumerate().map(|(n, (asks, rooms))| {
            let reader = Reader::new(&house, n % PEOPLE.len(), n / PEOPLE.len());
            reader.person.set(|own| *own = asks);
            Reader { rooms, ..reader }
        });
        world = World { readers: readers.collect(), rooms, house };
    }
    world.check();
}

#[test]
fn after_a_restore_readers_are_told_everything_and_go_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (folder.path().join("old"), folder.path().join("new"));
    let mut world = World::new(Store::open(Options::new(&old)).unwrap());
    let mut dice = Dice(11);
    let mut acts = |world: &mut World| {
        for _ in 0..80 {
            let deed = DEEDS[dice.roll(DEEDS.len())];
            world.step(Step::Act(deed, dice.roll(PEOPLE.len()), dice.roll(ROOMS), dice.roll(PEOPLE.len())));
            world.step(Step::Sync(dice.roll(2 * PEOPLE.len()), true));
        }
    };
    acts(&mut world);
    let archive = world.house.rooms().store.archive().unwrap();
    // What happens now will never have happened, though readers hear of it.
    acts(&mut world);
    Store::restore(&Options::new(&new), &archive).unwrap();
    world.restart(Store::open(Options::new(&new)).unwrap());
    for reader in &mut world.readers {
        reader.rooms.clear();
    }
    world.check();
    acts(&mut world);
    world.check();
}
