//! Clients that slide and fold what they are told, against rooms in which anything happens: whatever they ask
//! for, however often an answer is lost, the server starts again or they change their minds, they believe in
//! the end what is true.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    super::{
        filter::Filter,
        model::{DEEDS, Deed, PEOPLE, ROOMS, current, fill, wants},
        testing::House,
    },
    tests::{Client, list},
};
use crate::{
    rooms::{Room, token::Cursor, view::Viewer},
    store::{Store, schema::events::TIMELINE},
};

/// A client that folds what it is told.
struct Folding {
    client: Client,
    lazy: bool,
    rooms: BTreeMap<String, Folded>,
}

/// What it believes of a room.
#[derive(Default)]
struct Folded {
    /// Events by type and state key.
    state: BTreeMap<(String, String), String>,
    /// Events that it knows.
    known: BTreeSet<String>,
    /// Who was heard since there was no gap any more.
    senders: BTreeSet<String>,
}

/// Something that happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Somebody does something in a room, maybe to somebody.
    Act(Deed, usize, usize, usize),
    /// A client slides, or asks and never gets the answer.
    Slide(usize, bool),
    /// A client wants so many rooms, and so many events of each.
    Change(usize, usize, usize),
    /// A client looks at one room, and not at another any more.
    Subscribe(usize, usize),
    /// The server is started again.
    Restart,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Folding {
    fn new(house: &House, who: usize) -> Self {
        let lazy = who % 2 == 1;
        let all = json!([["*", "*"]]);
        let required = if lazy { json!([["*", "*"], ["m.room.member", "$LAZY"]]) } else { all };
        let client = Client::new(house.on_device(PEOPLE[who], "SLIDING"), list(who % 2, 1 + who, required));
        Self { client, lazy, rooms: BTreeMap::new() }
    }

    fn slide(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = match runtime.block_on(self.client.person.try_slide(self.client.pos.as_deref(), &self.client.body))
        {
            Ok(answer) => answer,
            Err(error) => {
                assert_eq!(error.errcode, "M_UNKNOWN_POS");
                self.client.pos = None;
                return self.slide();
            }
        };
        self.client.pos = answer["pos"].as_str().map(str::to_owned);
        for (id, room) in answer["rooms"].as_object().unwrap() {
            let folded = self.rooms.entry(id.clone()).or_default();
            if room["initial"] == true {
                // The client begins anew: what it knows from before need not go back to the beginning.
                folded.state.clear();
                folded.known.clear();
            }
            if room["limited"] == true {
                // What members were is not known any more.
                folded.senders.clear();
                folded.state.retain(|key, _| !(self.lazy && key.0 == "m.room.member"));
                let from = Cursor::parse(room["prev_batch"].as_str().unwrap()).unwrap();
                let person = &self.client.person;
                fill(&person.sync.rooms, person, &Filter::default(), id, from, &mut folded.known);
            }
            for event in room["timeline"].as_array().into_iter().flatten() {
                folded.known.insert(text(&event["event_id"]));
                folded.senders.insert(text(&event["sender"]));
            }
            for event in room["required_state"].as_array().into_iter().flatten() {
                folded.state.insert((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"]));
            }
        }
    }

    /// Asks, and forgets the answer.
    fn lose(&self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        drop(runtime.block_on(self.client.person.try_slide(self.client.pos.as_deref(), &self.client.body)));
    }

    fn check(&self, room: &Room) {
        let person = &self.client.person;
        let rooms = &person.sync.rooms;
        if rooms.joined(&room.id, &person.id()).is_err() {
            return;
        }
        let folded = self.rooms.get(room.id.as_str()).unwrap();
        let mut expected = current(rooms, room);
        if self.lazy {
            let member = |user: &String| ("m.room.member".to_owned(), user.clone());
            assert!(folded.senders.iter().all(|sender| folded.state.contains_key(&member(sender))), "a sender lacks");
            expected.retain(|key, _| key.0 != "m.room.member" || folded.state.contains_key(key));
        }
        assert_eq!(folded.state, expected, "the state for {}", person.id());
        let viewer = Viewer::new(rooms, &person.id(), None).unwrap();
        for row in rooms.store.scan(TIMELINE, &(room.number,)) {
            let event = rooms.known(row.unwrap().1).unwrap();
            if wants(&Filter::default(), rooms, &viewer, &event) {
                let id = event.event.event_id.as_str();
                assert!(folded.known.contains(id), "{} lacks {:?}", person.id(), event.event);
            }
        }
    }
}

fn step() -> impl Strategy<Value = Step> {
    let act = (0..DEEDS.len(), 0..PEOPLE.len(), 0..ROOMS, 0..PEOPLE.len());
    let act = act.prop_map(|(deed, who, room, whom)| Step::Act(DEEDS[deed], who, room, whom));
    let slide = (0..PEOPLE.len(), prop::bool::weighted(0.8)).prop_map(|(who, gets)| Step::Slide(who, gets));
    let change = (0..PEOPLE.len(), 0..ROOMS, 1..8usize).prop_map(|(who, last, limit)| Step::Change(who, last, limit));
    let subscribe = (0..PEOPLE.len(), 0..ROOMS).prop_map(|(who, room)| Step::Subscribe(who, room));
    prop_oneof![16 => act, 12 => slide, 2 => change, 2 => subscribe, 1 => Just(Step::Restart)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_clients_fold_is_what_there_is(steps in prop::collection::vec(step(), 20..140)) {
        let mut house = House::over(Store::in_memory());
        let mut rooms: Vec<Arc<Room>> = (0..ROOMS).map(|_| house.person("ann").opens()).collect();
        let mut clients: Vec<_> = (0..PEOPLE.len()).map(|who| Folding::new(&house, who)).collect();
        for step in steps {
            match step {
                Step::Act(deed, who, room, whom) => {
                    deed.act(&house.person(PEOPLE[who]), &rooms[room], &house.person(PEOPLE[whom]));
                }
                Step::Slide(who, true) => clients[who].slide(),
                Step::Slide(who, false) => clients[who].lose(),
                Step::Change(who, last, limit) => {
                    let list = &mut clients[who].client.body["lists"]["all"];
                    (list["ranges"], list["timeline_limit"]) = (json!([[0, last]]), json!(limit));
                }
                Step::Subscribe(who, room) => {
                    let body = &mut clients[who].client.body;
                    let wanted = json!({ "timeline_limit": 5, "required_state": body["lists"]["all"]["required_state"] });
                    body["room_subscriptions"] = json!({ rooms[room].id.as_str(): wanted });
                }
                Step::Restart => {
                    house = House::over(house.rooms().store.clone());
                    for client in &mut clients {
                        client.client.person.sync = Arc::clone(&house.sync);
                    }
                    rooms = rooms.iter().map(|room| house.rooms().find(&room.id).unwrap()).collect();
                }
            }
        }
        for client in &mut clients {
            client.client.body["lists"]["all"]["ranges"] = json!([[0, 9]]);
            client.slide();
            rooms.iter().for_each(|room| client.check(room));
        }
    }
}
