//! Scenes of clients that slide.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use proptest::prelude::*;
use ruma::api::client::room::create_room::v3::RoomPreset;
use serde_json::{Value, json};

use super::super::{
    filter::Filter,
    model::{DEEDS, PEOPLE, ROOMS, current, fill, wants},
    testing::{House, Person},
};
use crate::{
    rooms::{Room, token::Cursor, view::Viewer},
    store::schema::events::TIMELINE,
};

/// A client on one connection.
struct Client {
    person: Person,
    body: Value,
    pos: Option<String>,
}

impl Client {
    fn new(person: Person, body: Value) -> Self {
        Self { person, body, pos: None }
    }

    async fn slide(&mut self) -> Value {
        let answer = self.person.try_slide(self.pos.as_deref(), &self.body).await.unwrap();
        self.pos = answer["pos"].as_str().map(str::to_owned);
        answer
    }
}

fn list(last: usize, limit: usize, required: Value) -> Value {
    json!({ "lists": { "all": { "ranges": [[0, last]], "timeline_limit": limit, "required_state": required } } })
}

fn bodies(room: &Value) -> Vec<&str> {
    let events = room["timeline"].as_array().into_iter().flatten();
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

fn state(room: &Value) -> Vec<String> {
    let events = room["required_state"].as_array().into_iter().flatten();
    let mut keys: Vec<_> = events
        .map(|event| format!("{} {}", event["type"].as_str().unwrap(), event["state_key"].as_str().unwrap()))
        .map(|key| key.trim_start_matches("m.room.").trim_end().to_owned())
        .collect();
    keys.sort();
    keys
}

fn names(answer: &Value) -> Vec<&str> {
    let mut names: Vec<_> =
        answer["rooms"].as_object().unwrap().values().filter_map(|room| room["name"].as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_window_shows_the_rooms_with_the_newest_activity() {
    let house = House::new();
    let ann = house.person("ann");
    let rooms: Vec<_> = ["a", "b", "c"]
        .map(|name| {
            let room = ann.opens();
            ann.names(&room, name);
            room
        })
        .into();
    ann.says(&rooms[0], "hello");
    let mut client = Client::new(house.person("ann"), list(1, 1, json!([["m.room.create", ""]])));
    let first = client.slide().await;
    assert_eq!((names(&first), first["lists"]["all"]["count"].as_u64()), (vec!["a", "c"], Some(3)));
    let room = &first["rooms"][rooms[0].id.as_str()];
    assert_eq!((bodies(room), state(room), &room["initial"]), (vec!["hello"], vec!["create".to_owned()], &json!(true)));
    assert_eq!((&room["joined_count"], &room["limited"], &room["num_live"]), (&json!(1), &json!(true), &json!(0)));
    client.body = list(2, 1, json!([["m.room.create", ""]]));
    assert_eq!(names(&client.slide().await), ["b"]);
    assert_eq!(client.slide().await["rooms"], json!({}));
}

#[tokio::test]
async fn a_message_comes_once_and_alone() {
    let house = House::new();
    let ann = house.person("ann");
    let (room, _other) = (ann.opens(), ann.opens());
    let mut client = Client::new(house.person("ann"), list(9, 5, json!([["m.room.name", ""]])));
    let before = client.slide().await["rooms"][room.id.as_str()]["bump_stamp"].as_u64().unwrap();
    ann.says(&room, "one");
    ann.names(&room, "Kitchen");
    let answer = client.slide().await;
    assert_eq!(answer["rooms"].as_object().unwrap().len(), 1);
    let told = &answer["rooms"][room.id.as_str()];
    assert_eq!((bodies(told), state(told), &told["name"]), (vec!["one"], vec!["name".to_owned()], &json!("Kitchen")));
    assert_eq!((&told["num_live"], &told["initial"], &told["limited"]), (&json!(2), &json!(false), &json!(false)));
    assert!(told["bump_stamp"].as_u64().unwrap() > before);
    assert_eq!(client.slide().await["rooms"], json!({}));
}

#[tokio::test]
async fn an_answer_that_was_lost_is_made_again_and_an_unknown_pos_is_refused() {
    let house = House::new();
    let ann = house.person("ann");
    let room = ann.opens();
    let mut client = Client::new(house.person("ann"), list(9, 5, json!([])));
    client.slide().await;
    let pos = client.pos.clone();
    ann.says(&room, "one");
    client.slide().await;
    client.pos = pos;
    assert_eq!(bodies(&client.slide().await["rooms"][room.id.as_str()]), ["one"]);
    let error = client.person.try_slide(Some("s1.2.3.4~99"), &client.body).await.unwrap_err();
    assert_eq!((error.status.as_u16(), error.errcode.as_ref()), (400, "M_UNKNOWN_POS"));
}

#[tokio::test]
async fn members_come_with_what_they_say() {
    let house = House::new();
    let (ann, bob, carol) = (house.person("ann"), house.person("bob"), house.person("carol"));
    let room = ann.opens();
    bob.joins(&room);
    carol.joins(&room);
    ann.says(&room, "hello");
    let required = json!([["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]);
    let mut client = Client::new(house.person("carol"), list(9, 1, required));
    let member = |person: &Person| format!("member {}", person.id());
    let first = client.slide().await;
    assert_eq!(state(&first["rooms"][room.id.as_str()]), [member(&ann), member(&carol)]);
    bob.says(&room, "hi");
    assert_eq!(state(&client.slide().await["rooms"][room.id.as_str()]), [member(&bob)]);
    ann.says(&room, "how are you?");
    bob.says(&room, "fine");
    assert!(state(&client.slide().await["rooms"][room.id.as_str()]).is_empty());
}

#[tokio::test]
async fn an_invite_becomes_a_room_and_ends_as_one_that_was_left() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let room = ann.creates(|request| request.name = Some("Kitchen".into()));
    let mut client = Client::new(house.person("bob"), list(9, 5, json!([["m.room.name", ""]])));
    assert_eq!(client.slide().await["rooms"], json!({}));
    ann.invites(&room, &bob);
    let invited = client.slide().await;
    let invited = &invited["rooms"][room.id.as_str()];
    let kinds: Vec<_> =
        invited["invite_state"].as_array().unwrap().iter().map(|event| event["type"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"m.room.create") && kinds.contains(&"m.room.member"), "{kinds:?}");
    assert!(invited["timeline"].is_null() && invited["required_state"].is_null());
    bob.joins(&room);
    let joined = client.slide().await;
    let joined = &joined["rooms"][room.id.as_str()];
    assert_eq!((&joined["initial"], &joined["name"]), (&json!(true), &json!("Kitchen")));
    bob.leaves(&room);
    ann.says(&room, "gone");
    let left = client.slide().await;
    let left = &left["rooms"][room.id.as_str()];
    assert!(bodies(left).is_empty());
    assert_eq!(left["required_state"][0]["content"]["membership"], "leave");
    ann.says(&room, "really");
    assert_eq!(client.slide().await["rooms"], json!({}));
    let mut again = Client::new(house.on_device("bob", "OTHER"), client.body.clone());
    assert_eq!(again.slide().await["lists"]["all"]["count"], 0);
}

#[tokio::test]
async fn a_subscription_brings_more_of_a_room() {
    let house = House::new();
    let ann = house.person("ann");
    let room = ann.opens();
    for n in 0..5 {
        ann.says(&room, &n.to_string());
    }
    let mut client = Client::new(house.person("ann"), list(9, 1, json!([])));
    client.slide().await;
    let wanted = json!({ "timeline_limit": 3, "required_state": [["m.room.join_rules", ""]] });
    client.body["room_subscriptions"] = json!({ room.id.as_str(): wanted });
    let answer = client.slide().await;
    let told = &answer["rooms"][room.id.as_str()];
    assert_eq!((bodies(told), state(told)), (vec!["2", "3", "4"], vec!["join_rules".to_owned()]));
    assert_eq!((&told["unstable_expanded_timeline"], &told["num_live"]), (&json!(true), &json!(0)));
    assert_eq!(client.slide().await["rooms"], json!({}));
}

#[tokio::test]
async fn lists_are_filtered() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let chat = ann.creates(|request| request.preset = Some(RoomPreset::TrustedPrivateChat));
    ann.sets(&chat, "m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
    let space = ann.creates(|request| {
        let kind = json!({ "type": "m.space" });
        request.creation_content = Some(serde_json::from_value(kind).unwrap());
    });
    let room = ann.opens();
    ann.sets(&space, "m.space.child", room.id.as_str(), json!({ "via": ["localhost"] }));
    let theirs = bob.opens();
    bob.invites(&theirs, &ann);
    ann.keeps(None, "m.direct", json!({ bob.id().as_str(): [chat.id] }));
    ann.keeps(Some(&room), "m.tag", json!({ "tags": { "m.favourite": {} } }));
    let sees = async |filters: Value| {
        let body = json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1, "filters": filters } } });
        let answer = Client::new(house.person("ann"), body).slide().await;
        let mut seen = Vec::new();
        for (name, place) in [("chat", &chat), ("space", &space), ("room", &room), ("theirs", &theirs)] {
            if !answer["rooms"][place.id.as_str()].is_null() {
                seen.push(name);
            }
        }
        assert_eq!(answer["lists"]["all"]["count"], seen.len());
        seen.join(" ")
    };
    for (filters, expected) in [
        (json!({}), "chat space room theirs"),
        (json!({ "is_dm": true }), "chat"),
        (json!({ "is_encrypted": true }), "chat"),
        (json!({ "is_encrypted": false }), "space room theirs"),
        (json!({ "is_invite": true }), "theirs"),
        (json!({ "is_invite": false, "is_dm": false }), "space room"),
        (json!({ "room_types": ["m.space"] }), "space"),
        (json!({ "not_room_types": ["m.space"] }), "chat room theirs"),
        (json!({ "room_types": [null] }), "chat room theirs"),
        (json!({ "spaces": [space.id] }), "room"),
        (json!({ "tags": ["m.favourite"] }), "room"),
        (json!({ "not_tags": ["m.favourite"] }), "chat space theirs"),
    ] {
        assert_eq!(sees(filters.clone()).await, expected, "{filters}");
    }
}

#[tokio::test]
async fn what_is_besides_rooms_comes_where_it_is_wanted() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let (room, quiet) = (ann.opens(), ann.opens());
    bob.joins(&room);
    let event = ann.says(&room, "hello");
    ann.keeps(None, "m.direct", json!({}));
    ann.keeps(Some(&quiet), "m.tag", json!({ "tags": {} }));
    let mut body = list(1, 1, json!([]));
    body["extensions"] = json!({
        "account_data": { "enabled": true }, "typing": { "enabled": true }, "e2ee": { "enabled": true },
        "receipts": { "enabled": true, "rooms": ["*"] }, "to_device": { "enabled": true },
    });
    let mut client = Client::new(house.person("ann"), body);
    let first = client.slide().await;
    assert_eq!(first["extensions"]["account_data"]["global"][0]["type"], "m.direct");
    assert_eq!(first["extensions"]["account_data"]["rooms"][quiet.id.as_str()][0]["type"], "m.tag");
    assert!(first["extensions"]["to_device"]["next_batch"].is_string());
    let counts = &first["extensions"]["e2ee"]["device_one_time_keys_count"];
    assert_eq!(*counts, json!({ "signed_curve25519": 0 }));
    bob.types(&room, true);
    bob.reads(&room, &event, "m.read", None);
    let next = client.slide().await;
    let typing = &next["extensions"]["typing"]["rooms"][room.id.as_str()];
    assert_eq!(typing["content"]["user_ids"], json!([bob.id()]));
    let receipts = &next["extensions"]["receipts"]["rooms"][room.id.as_str()]["content"];
    assert!(!receipts[event.event_id.as_str()]["m.read"][bob.id().as_str()].is_null());
    assert!(next["extensions"]["account_data"].is_null());
    let last = client.slide().await;
    assert!(last["extensions"]["typing"].is_null() && last["extensions"]["receipts"].is_null());
}

#[tokio::test]
async fn a_room_that_was_out_of_the_window_catches_up() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let (one, two) = (ann.opens(), ann.opens());
    bob.joins(&one);
    let event = ann.says(&one, "hello");
    let mut body = list(0, 5, json!([]));
    body["extensions"] = json!({ "receipts": { "enabled": true } });
    let mut client = Client::new(house.person("ann"), body);
    client.slide().await;
    ann.says(&two, "now this is in the window");
    client.slide().await;
    bob.reads(&one, &event, "m.read", None);
    assert!(client.slide().await["extensions"]["receipts"].is_null());
    bob.says(&one, "and now the other again");
    let answer = client.slide().await;
    assert_eq!(bodies(&answer["rooms"][one.id.as_str()]), ["and now the other again"]);
    let receipts = &answer["extensions"]["receipts"]["rooms"][one.id.as_str()]["content"];
    assert!(!receipts[event.event_id.as_str()].is_null(), "{answer}");
}

#[tokio::test]
async fn a_long_poll_ends_with_the_news() {
    let house = House::new();
    let ann = house.person("ann");
    let room = ann.opens();
    let mut client = Client::new(house.person("ann"), list(9, 5, json!([])));
    client.slide().await;
    client.person.set(|asks| asks.timeout = Duration::from_secs(30));
    let says = async {
        tokio::task::yield_now().await;
        ann.says(&room, "news");
    };
    let (answer, ()) = tokio::join!(client.slide(), says);
    assert_eq!(bodies(&answer["rooms"][room.id.as_str()]), ["news"]);
}

/// A client that folds what it is told.
struct Folding {
    client: Client,
    rooms: BTreeMap<String, Folded>,
}

/// What it believes of a room: state, and events that it knows.
type Folded = (BTreeMap<(String, String), String>, BTreeSet<String>);

impl Folding {
    fn new(house: &House, who: usize) -> Self {
        let client = Client::new(house.on_device(PEOPLE[who], "SLIDING"), list(who % 2, 1 + who, json!([["*", "*"]])));
        Self { client, rooms: BTreeMap::new() }
    }

    fn slide(&mut self) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let answer = runtime.block_on(self.client.slide());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        for (id, room) in answer["rooms"].as_object().unwrap() {
            let (state, known) = self.rooms.entry(id.clone()).or_default();
            if room["initial"] == true {
                state.clear();
            }
            if room["limited"] == true {
                let from = Cursor::parse(room["prev_batch"].as_str().unwrap()).unwrap();
                fill(&self.client.person.sync.rooms, &self.client.person, &Filter::default(), id, from, known);
            }
            known.extend(room["timeline"].as_array().into_iter().flatten().map(|event| text(&event["event_id"])));
            for event in room["required_state"].as_array().into_iter().flatten() {
                state.insert((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"]));
            }
        }
    }

    fn check(&self, room: &Room) {
        let person = &self.client.person;
        let rooms = &person.sync.rooms;
        if rooms.joined(&room.id, &person.id()).is_err() {
            return;
        }
        let (state, known) = self.rooms.get(room.id.as_str()).unwrap();
        assert_eq!(*state, current(rooms, room), "the state for {}", person.id());
        let viewer = Viewer::new(rooms, &person.id(), None).unwrap();
        for row in rooms.store.scan(TIMELINE, &(room.number,)) {
            let event = rooms.known(row.unwrap().1).unwrap();
            if wants(&Filter::default(), rooms, &viewer, &event) {
                assert!(known.contains(event.event.event_id.as_str()), "{} lacks {:?}", person.id(), event.event);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_clients_fold_is_what_there_is(
        steps in prop::collection::vec((0..DEEDS.len() * 2, 0..PEOPLE.len(), 0..ROOMS, 0..PEOPLE.len()), 20..120)
    ) {
        let house = House::new();
        let rooms: Vec<Arc<Room>> = (0..ROOMS).map(|_| house.person("ann").opens()).collect();
        let mut clients: Vec<_> = (0..PEOPLE.len()).map(|who| Folding::new(&house, who)).collect();
        for (deed, who, room, whom) in steps {
            match DEEDS.get(deed) {
                Some(deed) => deed.act(&house.person(PEOPLE[who]), &rooms[room], &house.person(PEOPLE[whom])),
                None => clients[who].slide(),
            }
        }
        for client in &mut clients {
            client.client.body["lists"]["all"]["ranges"] = json!([[0, 9]]);
            client.slide();
            rooms.iter().for_each(|room| client.check(room));
        }
    }
}
