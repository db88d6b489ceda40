//! Scenes of clients that slide.

use std::time::Duration;

use ruma::{RoomId, api::client::room::create_room::v3::RoomPreset};
use serde_json::{Value, json};

use super::super::testing::{House, Person};

/// A client on one connection.
pub struct Client {
    pub person: Person,
    pub body: Value,
    pub pos: Option<String>,
}

impl Client {
    pub fn new(person: Person, body: Value) -> Self {
        Self { person, body, pos: None }
    }

    pub async fn slide(&mut self) -> Value {
        let answer = self.person.try_slide(self.pos.as_deref(), &self.body).await.unwrap();
        self.pos = answer["pos"].as_str().map(str::to_owned);
        answer
    }
}

pub fn list(last: usize, limit: usize, required: Value) -> Value {
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
    for (person, text) in [(&ann, "how are you?"), (&bob, "fine")] {
        person.says(&room, text);
        assert!(state(&client.slide().await["rooms"][room.id.as_str()]).is_empty());
    }
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

#[tokio::test]
async fn a_client_that_gave_up_one_request_goes_on_with_the_other() {
    let house = House::new();
    let ann = house.person("ann");
    let room = ann.opens();
    let mut client = Client::new(house.person("ann"), list(9, 5, json!([])));
    client.slide().await;
    let before = client.pos.clone();
    ann.says(&room, "one");
    client.slide().await;
    // The first request is answered after all, to nobody.
    client.person.try_slide(before.as_deref(), &client.body).await.unwrap();
    ann.says(&room, "two");
    assert_eq!(bodies(&client.slide().await["rooms"][room.id.as_str()]), ["two"]);
}

#[tokio::test]
async fn after_a_gap_members_come_as_they_are_now() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let room = ann.opens();
    bob.joins(&room);
    bob.says(&room, "I am Bob");
    let mut client = Client::new(house.person("ann"), list(9, 1, json!([["m.room.member", "$LAZY"]])));
    let member = format!("member {}", bob.id());
    assert_eq!(state(&client.slide().await["rooms"][room.id.as_str()]), [member.as_str()]);
    bob.sets(&room, "m.room.member", bob.id().as_str(), json!({ "membership": "join", "displayname": "Robert" }));
    bob.says(&room, "I have another name");
    let answer = client.slide().await;
    let told = &answer["rooms"][room.id.as_str()];
    assert_eq!((&told["limited"], state(told)), (&json!(true), vec![member]));
    assert_eq!(told["required_state"][0]["content"]["displayname"], "Robert");
}

#[tokio::test]
async fn an_extension_that_is_wanted_later_tells_everything() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let room = ann.opens();
    bob.joins(&room);
    let event = ann.says(&room, "hello");
    bob.reads(&room, &event, "m.read", None);
    bob.types(&room, true);
    ann.keeps(None, "m.direct", json!({}));
    ann.keeps(Some(&room), "m.tag", json!({ "tags": {} }));
    let mut client = Client::new(house.person("ann"), list(9, 1, json!([])));
    client.slide().await;
    let wanted = json!({ "enabled": true, "lists": ["all"] });
    client.body["extensions"] = json!({ "account_data": wanted, "receipts": wanted, "typing": wanted });
    let answer = client.slide().await["extensions"].clone();
    assert_eq!(answer["account_data"]["global"][0]["type"], "m.direct");
    assert_eq!(answer["account_data"]["rooms"][room.id.as_str()][0]["type"], "m.tag");
    for name in ["receipts", "typing"] {
        assert!(answer[name]["rooms"][room.id.as_str()].is_object(), "{name} in {answer}");
    }
    assert_eq!(client.slide().await["extensions"], json!({}));
    // The same for a room in which it was not wanted until now.
    let other = ann.opens();
    ann.keeps(Some(&other), "m.tag", json!({ "tags": {} }));
    client.body["extensions"]["account_data"]["lists"] = json!([]);
    client.slide().await;
    client.body["extensions"]["account_data"]["lists"] = json!(["*"]);
    let answer = client.slide().await["extensions"].clone();
    assert!(answer["account_data"]["rooms"][other.id.as_str()].is_array(), "{answer}");
}

#[tokio::test]
async fn a_room_that_was_left_is_told_to_who_asks_for_it() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let (room, closed) = (ann.opens(), ann.opens());
    bob.joins(&room);
    ann.says(&room, "before");
    bob.leaves(&room);
    ann.says(&room, "after");
    ann.bans(&closed, &bob);
    let wanted = json!({ "timeline_limit": 2, "required_state": [["m.room.create", ""]] });
    let body = json!({ "room_subscriptions": { room.id.as_str(): wanted, closed.id.as_str(): wanted } });
    let mut client = Client::new(house.person("bob"), body);
    let answer = client.slide().await;
    let told = &answer["rooms"][room.id.as_str()];
    assert_eq!((bodies(told), state(told)[0].as_str()), (vec!["before"], "create"));
    assert!(answer["rooms"][closed.id.as_str()].is_null(), "{answer}");
    assert_eq!(client.slide().await["rooms"], json!({}));
}

#[tokio::test]
async fn the_accepted_shape_says_the_same_in_other_words() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let room = ann.opens();
    ann.names(&room, "Kitchen");
    ann.says(&room, "hello");
    let state = json!({ "include": [{ "type": "m.room.name", "state_key": "" }], "lazy_members": true });
    let config = json!({ "timeline_limit": 1, "required_state": state });
    let mut body = json!({ "lists": { "all": config }, "timeout": 0 });
    let first = ann.try_slide_v4(&body).await.unwrap();
    let told = &first["rooms"][room.id.as_str()];
    assert_eq!((bodies(told), &told["name"], &told["initial"]), (vec!["hello"], &json!("Kitchen"), &json!(true)));
    assert_eq!((&told["membership"], &told["lists"]), (&json!("join"), &json!(["all"])));
    assert_eq!(self::state(told), [format!("member {}", ann.id()), "name".to_owned()]);
    assert!(told["notification_count"].is_null() && told["timeline_events"].is_null(), "{told}");
    ann.sets(&room, "m.room.name", "", json!({}));
    bob.invites(&bob.opens(), &ann);
    body["pos"] = first["pos"].clone();
    body["lists"]["all"]["timeline_limit"] = json!(3);
    let next = ann.try_slide_v4(&body).await.unwrap();
    let told = &next["rooms"][room.id.as_str()];
    assert_eq!((&told["name"], &told["expanded_timeline"]), (&json!(null), &json!(true)));
    assert!(told.as_object().unwrap().contains_key("name"), "{told}");
    let rooms = next["rooms"].as_object().unwrap();
    let (theirs, invited) = rooms.iter().find(|(_, room)| room["membership"] == "invite").unwrap();
    assert!(invited["stripped_state"].is_array(), "{invited}");
    let theirs = house.rooms().find(<&RoomId>::try_from(theirs.as_str()).unwrap()).unwrap();
    ann.leaves(&theirs);
    body["pos"] = next["pos"].clone();
    let last = ann.try_slide_v4(&body).await.unwrap();
    let told = &last["rooms"][theirs.id.as_str()];
    assert_eq!((&told["membership"], told["stripped_state"].as_array().unwrap().len()), (&json!("leave"), 1));
    body["room_subscriptions"] =
        (0..101).map(|n| (format!("!{n}:a"), config.clone())).collect::<serde_json::Map<_, _>>().into();
    assert_eq!(ann.try_slide_v4(&body).await.unwrap_err().errcode, "M_INVALID_PARAM");
}

#[tokio::test]
async fn a_room_that_was_filtered_out_for_a_while_catches_up() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let room = ann.opens();
    bob.joins(&room);
    let event = ann.says(&room, "hello");
    let mut body = list(9, 1, json!([]));
    body["lists"]["all"]["filters"] = json!({ "not_tags": ["u.hidden"] });
    body["extensions"] = json!({ "receipts": { "enabled": true } });
    let mut client = Client::new(house.person("ann"), body);
    client.slide().await;
    ann.keeps(Some(&room), "m.tag", json!({ "tags": { "u.hidden": {} } }));
    assert_eq!(client.slide().await["lists"]["all"]["count"], 0);
    bob.reads(&room, &event, "m.read", None);
    assert!(client.slide().await["extensions"]["receipts"].is_null());
    ann.keeps(Some(&room), "m.tag", json!({ "tags": {} }));
    let answer = client.slide().await;
    assert!(answer["extensions"]["receipts"]["rooms"][room.id.as_str()].is_object(), "{answer}");
}

#[tokio::test]
async fn a_request_that_looks_often_is_remembered_once() {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    let (room, other) = (ann.opens(), ann.opens());
    bob.joins(&room);
    let mut body = list(9, 1, json!([]));
    body["lists"]["all"]["filters"] = json!({ "is_encrypted": true });
    let mut client = Client::new(house.person("ann"), body);
    client.slide().await;
    let before = client.pos.clone();
    client.slide().await;
    // Another request of the same client, which it gave up, is woken again and again meanwhile.
    let given_up = house.person("ann");
    given_up.set(|asks| asks.timeout = Duration::from_secs(30));
    let wakes = async {
        for n in 0..10 {
            ann.says(&other, &n.to_string());
            tokio::task::yield_now().await;
        }
        ann.sets(&room, "m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" }));
    };
    let (answer, ()) = tokio::join!(given_up.try_slide(before.as_deref(), &client.body), wakes);
    assert_eq!(answer.unwrap()["lists"]["all"]["count"], 1);
    assert_eq!(client.slide().await["lists"]["all"]["count"], 1);
}
