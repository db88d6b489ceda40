//! Scenes of people who sync.

use std::time::Duration;

use ruma::{api::client::room::create_room::v3::RoomPreset, events::room::member::MembershipState};
use serde_json::{Value, json};

use super::{
    testing::{House, Person, events, keys},
    v3::StateForm,
};
use crate::{
    rooms::{
        history::{self, Direction},
        inviting,
        token::{Cursor, SyncToken},
    },
    store::Position,
};

fn two() -> (House, Person, Person) {
    let house = House::new();
    let (ann, bob) = (house.person("ann"), house.person("bob"));
    (house, ann, bob)
}

fn lazy() -> Value {
    json!({ "room": { "state": { "lazy_load_members": true } } })
}

#[tokio::test]
async fn the_first_sync_tells_of_the_room_and_the_next_of_what_is_new() {
    let (_house, ann, _) = two();
    let room = ann.opens();
    ann.says(&room, "one");
    let first = ann.sync().await;
    assert_eq!(first.messages(&room), ["one"]);
    assert_eq!(first.joined(&room)["timeline"]["limited"], false);
    assert!(first.keys(&room, "state").is_empty());
    assert!(ann.sync().await.is_empty());
    ann.says(&room, "two");
    ann.says(&room, "three");
    assert_eq!(ann.sync().await.messages(&room), ["two", "three"]);
    assert!(ann.sync().await.is_empty());
}

#[tokio::test]
async fn what_is_before_a_short_timeline_is_state_and_pages() {
    let house = House::new();
    let ann = house.person("ann").filtered(json!({ "room": { "timeline": { "limit": 2 } } }));
    let room = ann.opens();
    ann.names(&room, "Kitchen");
    for text in ["one", "two", "three"] {
        ann.says(&room, text);
    }
    let first = ann.sync().await;
    let part = first.joined(&room);
    assert_eq!(first.messages(&room), ["two", "three"]);
    assert_eq!(part["timeline"]["limited"], true);
    let mut state = first.keys(&room, "state");
    state.sort();
    let member = format!("member {}", ann.id());
    let expected = ["create", "guest_access", "history_visibility", "join_rules", &member, "name", "power_levels"];
    assert_eq!(state, expected);
    let cursor = Cursor::parse(part["timeline"]["prev_batch"].as_str().unwrap()).unwrap();
    let page = history::page(house.rooms(), room.number, Direction::Backward, cursor, None, 1, |_| Ok(true)).unwrap();
    assert_eq!(page.events[0].event.content_field::<String>("body").as_deref(), Some("one"));
}

#[tokio::test]
async fn state_that_changed_in_a_gap_is_told_before_the_timeline_or_after_it() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    let short = json!({ "room": { "timeline": { "limit": 2 } } }).to_string();
    ann.set(|asks| asks.filter = short.clone());
    bob.set(|asks| (asks.filter, asks.form) = (short, StateForm::UnstableAfter));
    ann.sync().await;
    bob.sync().await;
    ann.names(&room, "Kitchen");
    ann.says(&room, "in the gap");
    ann.names(&room, "Cellar");
    ann.says(&room, "shown");
    let before = ann.sync().await;
    assert_eq!(before.keys(&room, "timeline"), ["name", "message -"]);
    assert_eq!(before.joined(&room)["state"]["events"][0]["content"]["name"], "Kitchen");
    let after = bob.sync().await;
    let field = &after.joined(&room)["org.matrix.msc4222.state_after"];
    assert_eq!((events(field).len(), &field["events"][0]["content"]["name"]), (1, &json!("Cellar")));
    assert!(after.joined(&room)["state"].is_null());
}

#[tokio::test]
async fn state_after_is_there_even_if_nothing_changed() {
    let (_house, ann, _) = two();
    let room = ann.opens();
    ann.set(|asks| asks.form = StateForm::After).sync().await;
    ann.says(&room, "hello");
    assert_eq!(ann.sync().await.joined(&room)["state_after"], json!({ "events": [] }));
    ann.names(&room, "Kitchen");
    let answer = ann.sync().await;
    assert_eq!(
        (answer.keys(&room, "timeline"), answer.keys(&room, "state_after")),
        (vec!["name".into()], vec!["name".into()])
    );
}

#[tokio::test]
async fn who_joins_learns_the_whole_state() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    ann.names(&room, "Kitchen");
    for n in 0..20 {
        ann.says(&room, &n.to_string());
    }
    bob.sync().await;
    bob.joins(&room);
    let answer = bob.sync().await;
    assert!(answer.keys(&room, "state").contains(&"name".to_owned()));
    assert_eq!(answer.joined(&room)["timeline"]["limited"], true);
    assert_eq!(answer.messages(&room).len(), 9);
    let summary = json!({ "m.heroes": null, "m.joined_member_count": 2, "m.invited_member_count": 0 });
    assert_eq!(answer.joined(&room)["summary"]["m.joined_member_count"], summary["m.joined_member_count"]);
    assert!(answer.joined(&room)["summary"]["m.heroes"].is_null());
}

#[tokio::test]
async fn who_comes_back_hears_nothing_twice() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    ann.says(&room, "one");
    assert_eq!(bob.sync().await.messages(&room), ["one"]);
    ann.says(&room, "two");
    bob.leaves(&room);
    ann.says(&room, "three");
    bob.joins(&room);
    ann.says(&room, "four");
    let answer = bob.sync().await;
    assert_eq!(answer.messages(&room), ["two", "three", "four"]);
    assert_eq!(answer.joined(&room)["timeline"]["limited"], true);
    assert!(answer.keys(&room, "state").contains(&"power_levels".to_owned()));
}

#[tokio::test]
async fn who_leaves_hears_how_it_ended_and_no_more() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    bob.sync().await;
    ann.says(&room, "goodbye");
    bob.leaves(&room);
    ann.says(&room, "is he gone?");
    ann.names(&room, "Without Bob");
    let answer = bob.sync().await;
    let left = answer.room("leave", &room);
    assert_eq!(keys(&left["timeline"]), ["message -", &format!("member {}", bob.id())]);
    assert!(answer.joined(&room).is_null());
    ann.says(&room, "yes");
    assert!(bob.sync().await.is_empty());
}

#[tokio::test]
async fn rooms_that_were_left_are_told_of_again_only_on_request() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    ann.says(&room, "before");
    bob.leaves(&room);
    ann.names(&room, "Without Bob");
    assert!(bob.sync().await.room("leave", &room).is_null());
    let bob = bob.filtered(json!({ "room": { "include_leave": true, "timeline": { "limit": 1 } } }));
    bob.set(|asks| asks.since = None);
    let answer = bob.sync().await;
    let left = answer.room("leave", &room);
    assert_eq!(keys(&left["timeline"]), [format!("member {}", bob.id())]);
    let state = keys(&left["state"]);
    assert!(state.contains(&"create".to_owned()) && !state.contains(&"name".to_owned()), "{state:?}");
}

#[tokio::test]
async fn an_invite_shows_what_the_room_is_and_goes_when_it_is_declined() {
    let (house, ann, bob) = two();
    bob.sync().await;
    let room = ann.creates(|request| request.name = Some("Kitchen".into()));
    ann.invites(&room, &bob);
    ann.says(&room, "a secret");
    let answer = bob.sync().await;
    let state = keys(&answer.room("invite", &room)["invite_state"]);
    for key in ["create", "join_rules", "name", &format!("member {}", bob.id()), &format!("member {}", ann.id())] {
        assert!(state.contains(&key.to_owned()), "{key} is not in {state:?}");
    }
    assert!(bob.sync().await.is_empty());
    ann.says(&room, "another secret");
    assert!(bob.sync().await.is_empty());
    bob.leaves(&room);
    let answer = bob.sync().await;
    assert_eq!(keys(&answer.room("leave", &room)["timeline"]), [format!("member {}", bob.id())]);
    assert!(events(&answer.room("leave", &room)["state"]).is_empty());
    assert_eq!(house.rooms().membership(room.number, &bob.reader.user).unwrap(), MembershipState::Leave);
}

#[tokio::test]
async fn a_banned_stranger_learns_nothing_but_the_ban() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    ann.says(&room, "between us");
    bob.sync().await;
    ann.bans(&room, &bob);
    let answer = bob.sync().await;
    assert_eq!(keys(&answer.room("leave", &room)["timeline"]), [format!("member {}", bob.id())]);
    assert!(events(&answer.room("leave", &room)["state"]).is_empty());
}

#[tokio::test]
async fn members_come_with_what_they_say_and_once() {
    let house = House::new();
    let ann = house.person("ann").filtered(lazy());
    let room = ann.opens();
    ann.names(&room, "Kitchen");
    let others: Vec<_> = (0..12).map(|n| house.person(&format!("guest{n}"))).collect();
    for other in &others {
        other.joins(&room);
    }
    let member = |person: &Person| format!("member {}", person.id());
    for n in 0..10 {
        others[0].says(&room, &n.to_string());
    }
    let first = ann.sync().await;
    let members: Vec<_> = first.keys(&room, "state").into_iter().filter(|key| key.starts_with("member")).collect();
    assert_eq!(members, [member(&ann), member(&others[0])]);
    others[0].says(&room, "again");
    assert!(ann.sync().await.keys(&room, "state").is_empty());
    others[1].says(&room, "me too");
    let since = ann.set(|_| {}).sync().await;
    assert_eq!(since.keys(&room, "state"), [member(&others[1])]);
    others[1].says(&room, "and again");
    assert!(ann.sync().await.keys(&room, "state").is_empty());
}

#[tokio::test]
async fn a_member_is_sent_again_if_the_answer_was_lost() {
    let house = House::new();
    let ann = house.person("ann").filtered(lazy());
    let (room, bob) = (ann.opens(), house.person("bob"));
    bob.joins(&room);
    (0..20).for_each(|_| drop(ann.says(&room, "...")));
    let first = ann.sync().await;
    bob.says(&room, "hello");
    let lost = ann.sync().await.keys(&room, "state");
    ann.set(|asks| asks.since = first.0["next_batch"].as_str().map(str::to_owned));
    assert_eq!(ann.sync().await.keys(&room, "state"), lost);
}

#[tokio::test]
async fn members_who_changed_in_a_gap_come_with_it() {
    let house = House::new();
    let ann = house.person("ann").filtered(json!({ "room": {
        "state": { "lazy_load_members": true }, "timeline": { "limit": 1 },
    } }));
    let (room, bob) = (ann.opens(), house.person("bob"));
    ann.sync().await;
    bob.joins(&room);
    ann.says(&room, "one");
    ann.says(&room, "two");
    assert_eq!(ann.sync().await.keys(&room, "state"), [format!("member {}", bob.id())]);
}

#[tokio::test]
async fn a_room_without_a_name_has_heroes() {
    let (_house, ann, bob) = two();
    let room = ann.creates(|request| request.preset = Some(RoomPreset::TrustedPrivateChat));
    ann.invites(&room, &bob);
    let summary = |answer: &super::testing::Answer| answer.joined(&room)["summary"].clone();
    let expected = json!({ "m.heroes": [bob.id()], "m.joined_member_count": 1, "m.invited_member_count": 1 });
    assert_eq!(summary(&ann.sync().await), expected);
    ann.says(&room, "nothing about people");
    assert_eq!(summary(&ann.sync().await), json!({}));
    bob.joins(&room);
    assert_eq!(summary(&ann.sync().await)["m.joined_member_count"], 2);
}

#[tokio::test]
async fn typing_is_told_when_it_begins_and_when_it_ends() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    ann.sync().await;
    bob.types(&room, true);
    let typing =
        |answer: &super::testing::Answer| answer.joined(&room)["ephemeral"]["events"][0]["content"]["user_ids"].clone();
    assert_eq!(typing(&ann.sync().await), json!([bob.id()]));
    assert!(ann.sync().await.is_empty());
    bob.types(&room, false);
    assert_eq!(typing(&ann.sync().await), json!([]));
    let (other, _) = (bob.opens(), bob.types(&bob.opens(), true));
    assert!(ann.sync().await.is_empty(), "typing elsewhere in {}", other.id);
}

#[tokio::test]
async fn private_receipts_are_for_their_own_user() {
    let (house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    let event = ann.says(&room, "read me");
    ann.sync().await;
    let phone = house.on_device("bob", "PHONE");
    phone.sync().await;
    bob.reads(&room, &event, "m.read.private", None);
    assert!(ann.sync().await.is_empty());
    let own = phone.sync().await;
    let receipts = &own.joined(&room)["ephemeral"]["events"][0]["content"];
    assert_eq!(receipts[event.event_id.as_str()]["m.read.private"][bob.id().as_str()], json!({ "ts": 5 }));
    bob.reads(&room, &event, "m.read", None);
    bob.reads(&room, &event, "m.read", Some("main"));
    let answer = ann.sync().await;
    let receipts = events(&answer.joined(&room)["ephemeral"]);
    let of_bob = |receipt: &Value| receipt["content"][event.event_id.as_str()]["m.read"][bob.id().as_str()].clone();
    assert_eq!(
        receipts.iter().map(of_bob).collect::<Vec<_>>(),
        [json!({ "ts": 5 }), json!({ "ts": 5, "thread_id": "main" })]
    );
}

#[tokio::test]
async fn account_data_comes_once_for_the_account_and_with_the_room() {
    let (_house, ann, _) = two();
    let room = ann.opens();
    ann.keeps(None, "m.direct", json!({ "a": 1 }));
    ann.keeps(Some(&room), "m.tag", json!({ "tags": {} }));
    let first = ann.sync().await;
    assert_eq!(first.0["account_data"]["events"], json!([{ "type": "m.direct", "content": { "a": 1 } }]));
    assert_eq!(keys(&first.joined(&room)["account_data"]), ["m.tag -"]);
    assert!(ann.sync().await.is_empty());
    ann.keeps(None, "m.direct", json!({ "a": 2 }));
    ann.keeps(Some(&room), "m.tag", json!({ "tags": { "u.x": {} } }));
    let next = ann.sync().await;
    assert_eq!(next.0["account_data"]["events"], json!([{ "type": "m.direct", "content": { "a": 2 } }]));
    assert_eq!(keys(&next.joined(&room)["account_data"]), ["m.tag -"]);
    assert!(next.messages(&room).is_empty());
}

#[tokio::test]
async fn ignored_people_are_not_heard_but_change_the_room_as_everybody() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    ann.keeps(None, "m.ignored_user_list", json!({ "ignored_users": { bob.id().as_str(): {} } }));
    ann.sync().await;
    bob.says(&room, "listen!");
    assert!(ann.sync().await.is_empty());
    bob.leaves(&room);
    assert_eq!(ann.sync().await.keys(&room, "timeline"), [format!("member {}", bob.id())]);
    let other = bob.opens();
    bob.invites(&other, &ann);
    assert!(ann.sync().await.is_empty());
}

#[tokio::test]
async fn a_filter_leaves_out_rooms_types_senders_and_sections() {
    let (house, ann, bob) = two();
    let (room, other) = (ann.opens(), ann.opens());
    bob.joins(&room);
    ann.says(&room, "mine");
    bob.says(&room, "his");
    ann.says(&other, "elsewhere");
    ann.sets(&room, "org.example.note", "", json!({ "url": "mxc://a/b" }));
    let sees = async |filter: Value| {
        let ann = house.person("ann").filtered(filter);
        let answer = ann.sync().await;
        (keys(&answer.joined(&room)["timeline"]), answer.joined(&other).is_null())
    };
    let messages = vec!["message -".to_owned(), "message -".to_owned()];
    let types = json!({ "types": ["m.room.mess*"] });
    assert_eq!(sees(json!({ "room": { "timeline": types } })).await, (messages, false));
    let his = json!({ "types": ["m.room.message"], "senders": [bob.id()] });
    assert_eq!(sees(json!({ "room": { "timeline": his } })).await.0.len(), 1);
    let urls = json!({ "contains_url": true });
    assert_eq!(sees(json!({ "room": { "timeline": urls } })).await.0, ["org.example.note"]);
    assert!(sees(json!({ "room": { "not_rooms": [other.id] } })).await.1);
    assert!(sees(json!({ "room": { "rooms": [room.id] } })).await.1);
    let nowhere = json!({ "not_rooms": [room.id] });
    assert_eq!(sees(json!({ "room": { "timeline": nowhere } })).await.0, Vec::<String>::new());
    let answer = house.person("ann").filtered(json!({ "event_fields": ["type"] })).sync().await;
    assert_eq!(answer.joined(&room)["timeline"]["events"][0].as_object().unwrap().len(), 1);
}

#[tokio::test]
async fn full_state_tells_all_state_and_only_the_new_timeline() {
    let (_house, ann, _) = two();
    let room = ann.opens();
    ann.sync().await;
    ann.says(&room, "new");
    let answer = ann.set(|asks| asks.full_state = true).sync().await;
    assert_eq!(answer.messages(&room), ["new"]);
    assert!(answer.keys(&room, "state").contains(&"create".to_owned()));
}

#[tokio::test]
async fn a_token_from_elsewhere_begins_again_and_nonsense_is_refused() {
    let (house, ann, _) = two();
    let room = ann.opens();
    ann.says(&room, "hello");
    let now = SyncToken::now(&house.rooms().store);
    let foreign = SyncToken { epoch: now.epoch + 1, ..now };
    let future = SyncToken { position: Position(now.position.0 + 5), ..now };
    for token in [foreign, future] {
        ann.set(|asks| asks.since = Some(token.to_string()));
        assert_eq!(ann.sync().await.messages(&room), ["hello"], "{token}");
    }
    ann.set(|asks| asks.since = Some("s72594_4483_1934".to_owned()));
    let error = ann.try_sync().await.unwrap_err();
    assert_eq!((error.status.as_u16(), error.errcode.as_ref()), (400, "M_INVALID_PARAM"));
}

#[tokio::test]
async fn after_a_restart_nobody_is_typing_and_nothing_else_is_told_again() {
    let (house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    ann.says(&room, "hello");
    bob.types(&room, true);
    let before = ann.sync().await;
    let mut token = SyncToken::parse(before.0["next_batch"].as_str().unwrap()).unwrap();
    token.boot += 1;
    bob.types(&room, false);
    ann.set(|asks| asks.since = Some(token.to_string()));
    let answer = ann.sync().await;
    assert!(answer.messages(&room).is_empty() && answer.keys(&room, "state").is_empty());
    assert_eq!(answer.joined(&room)["ephemeral"]["events"][0]["content"], json!({ "user_ids": [] }));
    assert!(ann.sync().await.is_empty(), "{:?}", house.rooms().store.position());
}

#[tokio::test]
async fn a_long_poll_ends_with_the_news() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    ann.set(|asks| asks.timeout = Duration::from_secs(30)).sync().await;
    let says = async {
        tokio::task::yield_now().await;
        bob.says(&room, "news");
    };
    let (answer, ()) = tokio::join!(ann.sync(), says);
    assert_eq!(answer.messages(&room), ["news"]);
}

#[tokio::test(start_paused = true)]
async fn a_long_poll_without_news_ends_when_its_time_is_over() {
    let (_house, ann, bob) = two();
    ann.opens();
    let elsewhere = bob.opens();
    ann.set(|asks| asks.timeout = Duration::from_secs(30)).sync().await;
    let says = async {
        tokio::task::yield_now().await;
        bob.says(&elsewhere, "not for Ann");
    };
    let begin = tokio::time::Instant::now();
    let (answer, ()) = tokio::join!(ann.sync(), says);
    assert!(answer.is_empty());
    assert_eq!(begin.elapsed().as_secs(), 30);
}

#[tokio::test]
async fn unread_counts_come_with_the_room() {
    let (_house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    let root = bob.says(&room, "root");
    let relation = json!({ "rel_type": "m.thread", "event_id": root.event_id });
    bob.sends_json(&room, "m.room.message", json!({ "msgtype": "m.text", "body": "re", "m.relates_to": relation }));
    let answer = ann.sync().await;
    let count = |notify: u64| json!({ "highlight_count": 0, "notification_count": notify });
    let before = answer.joined(&room)["unread_notifications"]["notification_count"].as_u64().unwrap();
    assert!(before >= 2);
    let ann = ann.filtered(json!({ "room": { "timeline": { "unread_thread_notifications": true } } }));
    ann.set(|asks| asks.since = None);
    let answer = ann.sync().await;
    assert_eq!(answer.joined(&room)["unread_notifications"], count(before - 1));
    assert_eq!(answer.joined(&room)["unread_thread_notifications"], json!({ root.event_id.as_str(): count(1) }));
}

#[tokio::test]
async fn a_change_that_may_not_be_seen_is_not_covered_by_an_older_one() {
    let (house, ann, bob) = two();
    let room = ann.opens();
    ann.names(&room, "Kitchen");
    ann.sets(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" }));
    ann.names(&room, "Secret");
    bob.joins(&room);
    let answer =
        bob.set(|asks| asks.filter = json!({ "room": { "timeline": { "limit": 50 } } }).to_string()).sync().await;
    let name = |part: &str| {
        let events = events(&answer.joined(&room)[part]);
        events.iter().filter_map(|event| event["content"]["name"].as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        (name("state").as_str(), name("timeline").as_str()),
        ("Secret", ""),
        "{:?}",
        house.rooms().store.position()
    );
}

#[tokio::test]
async fn an_invite_into_a_room_elsewhere_comes_and_goes() {
    let (elsewhere, ann, guest) = two();
    let house = House::new();
    let bob = house.person("bob");
    bob.sync().await;
    let mut slides = json!({ "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 1 } } });
    let pos = bob.try_slide(None, &slides).await.unwrap()["pos"].as_str().unwrap().to_owned();
    let room = ann.creates(|_| {});
    ann.invites(&room, &guest);
    let invite = elsewhere.rooms().current(room.number).unwrap();
    let invite = elsewhere.rooms().in_state(&invite, "m.room.member", guest.id().as_str()).unwrap().unwrap();
    let name = json!({ "type": "m.room.name", "state_key": "", "sender": ann.id(), "content": { "name": "Far away" } });
    inviting::note_outside(house.rooms(), &room.id, room.rules, &invite.event, vec![name.to_string()])
        .unwrap()
        .wait()
        .unwrap();
    let answer = bob.sync().await;
    let state = keys(&answer.room("invite", &room)["invite_state"]);
    assert_eq!(state, ["name".to_owned(), format!("member {}", bob.id())]);
    let answer = bob.try_slide(Some(&pos), &slides).await.unwrap();
    assert_eq!(answer["rooms"][room.id.as_str()]["invite_state"].as_array().unwrap().len(), 2);
    inviting::forget_outside(house.rooms(), &room.id, &bob.id()).unwrap().wait().unwrap();
    assert!(bob.sync().await.room("leave", &room).is_object());
    slides["txn_id"] = json!("last");
    let answer = bob.try_slide(answer["pos"].as_str(), &slides).await.unwrap();
    let own = &answer["rooms"][room.id.as_str()]["required_state"][0];
    assert_eq!((&own["content"]["membership"], &answer["txn_id"]), (&json!("leave"), &json!("last")));
}

#[tokio::test]
async fn a_timeline_of_no_events_shows_where_they_are() {
    let (house, ann, _) = two();
    let room = ann.opens();
    ann.says(&room, "one");
    let ann = ann.filtered(json!({ "room": { "timeline": { "limit": 0 } } }));
    let first = ann.sync().await;
    let timeline = &first.joined(&room)["timeline"];
    assert_eq!((&timeline["events"], &timeline["limited"]), (&json!([]), &json!(true)));
    let cursor = Cursor::parse(timeline["prev_batch"].as_str().unwrap()).unwrap();
    let page = history::page(house.rooms(), room.number, Direction::Backward, cursor, None, 1, |_| Ok(true)).unwrap();
    assert_eq!(page.events[0].event.content_field::<String>("body").as_deref(), Some("one"));
    assert!(first.keys(&room, "state").contains(&"create".to_owned()));
    assert!(ann.sync().await.is_empty());
    ann.names(&room, "Kitchen");
    let next = ann.sync().await;
    assert_eq!((next.keys(&room, "timeline"), next.keys(&room, "state")), (vec![], vec!["name".to_owned()]));
}

#[tokio::test]
async fn who_knocks_sees_that_they_did_and_what_came_of_it() {
    let (_house, ann, bob) = two();
    let room = ann.creates(|request| request.name = Some("Kitchen".into()));
    ann.sets(&room, "m.room.join_rules", "", json!({ "join_rule": "knock" }));
    bob.sync().await;
    bob.sets(&room, "m.room.member", bob.id().as_str(), json!({ "membership": "knock", "reason": "It rains" }));
    let answer = bob.sync().await;
    let state = keys(&answer.room("knock", &room)["knock_state"]);
    for key in ["create", "join_rules", "name", &format!("member {}", bob.id())] {
        assert!(state.contains(&key.to_owned()), "{key} is not in {state:?}");
    }
    assert!(answer.joined(&room).is_null() && answer.room("invite", &room).is_null());
    assert!(bob.sync().await.is_empty());
    ann.sets(&room, "m.room.member", bob.id().as_str(), json!({ "membership": "leave" }));
    let answer = bob.sync().await;
    assert_eq!(keys(&answer.room("leave", &room)["timeline"]), [format!("member {}", bob.id())]);
    assert!(events(&answer.room("leave", &room)["state"]).is_empty());
}

#[tokio::test]
async fn only_what_somebody_answered_is_shown_on_request() {
    let (house, ann, bob) = two();
    let room = ann.opens();
    bob.joins(&room);
    let (root, other) = (ann.says(&room, "root"), ann.says(&room, "other"));
    for (person, kind, event) in [(&bob, "m.thread", &root), (&ann, "m.reference", &other)] {
        let relation = json!({ "rel_type": kind, "event_id": event.event_id });
        person.sends_json(
            &room,
            "m.room.message",
            json!({ "msgtype": "m.text", "body": "re", "m.relates_to": relation }),
        );
    }
    let sees = async |filter: Value| {
        let ann = house.person("ann").filtered(json!({ "room": { "timeline": filter } }));
        ann.sync().await.messages(&room).join(" ")
    };
    assert_eq!(sees(json!({ "related_by_rel_types": ["m.thread"] })).await, "root");
    assert_eq!(sees(json!({ "related_by_senders": [ann.id()] })).await, "other");
    let both = json!({ "related_by_senders": [ann.id()], "related_by_rel_types": ["m.thread"] });
    assert_eq!(sees(both).await, "");
}

#[tokio::test]
async fn what_one_keeps_about_a_room_is_filtered_by_room() {
    let (_house, ann, bob) = two();
    let (room, left) = (ann.opens(), ann.opens());
    bob.joins(&room);
    bob.joins(&left);
    let bob = bob.filtered(json!({ "room": { "account_data": { "not_rooms": [room.id, left.id] } } }));
    bob.sync().await;
    for place in [&room, &left] {
        bob.keeps(Some(place), "m.tag", json!({ "tags": {} }));
    }
    bob.leaves(&left);
    let answer = bob.sync().await;
    assert!(answer.joined(&room).is_null());
    assert_eq!(answer.room("leave", &left)["account_data"]["events"], json!([]));
}
