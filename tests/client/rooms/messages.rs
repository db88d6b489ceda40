//! Reading the past.

use serde_json::{Value, json};

use crate::harness::{User, bodies, in_room, quoted, server};

async fn talk(ann: &User, room: &str, from: u32, to: u32) -> Vec<String> {
    let mut ids = Vec::new();
    for n in from..to {
        ids.push(ann.say(room, &n.to_string()).await);
    }
    ids
}

fn kinds(events: &Value) -> Vec<&str> {
    events.as_array().into_iter().flatten().filter_map(|event| event["type"].as_str()).collect()
}

#[tokio::test]
async fn pages_follow_each_other_in_both_directions() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().await;
    talk(&ann, &room, 0, 12).await;
    for dir in ["b", "f"] {
        let mut seen = Vec::new();
        let mut from = String::new();
        loop {
            let page = ann.room(&room, &format!("messages?dir={dir}&limit=5{from}")).await.ok();
            seen.extend(bodies(&page["chunk"]));
            let Some(end) = page["end"].as_str() else { break };
            from = format!("&from={end}");
        }
        if dir == "b" {
            seen.reverse();
        }
        assert_eq!(seen, (0..12).map(|n| n.to_string()).collect::<Vec<_>>());
    }
    let middle = ann.room(&room, "messages?dir=b&limit=4").await.ok();
    let (start, end) = (middle["start"].as_str().unwrap(), middle["end"].as_str().unwrap());
    let page = ann.room(&room, &format!("messages?dir=f&from={end}&to={start}")).await.ok();
    assert_eq!(bodies(&page["chunk"]), ["8", "9", "10", "11"]);
}

#[tokio::test]
async fn a_page_holds_what_the_filter_wants() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    ann.say(&room, "ann's").await;
    bob.say(&room, "bob's").await;
    let picture = json!({ "msgtype": "m.image", "body": "picture", "url": "mxc://localhost/a" });
    ann.send(&room, "m.room.message", picture).await;
    let page = async |filter: Value| {
        ann.room(&room, &format!("messages?dir=f&limit=50&filter={}", quoted(&filter.to_string()))).await.ok()
    };
    assert_eq!(bodies(&page(json!({ "senders": [bob.id] })).await["chunk"]), ["bob's"]);
    assert_eq!(bodies(&page(json!({ "not_senders": [bob.id] })).await["chunk"]), ["ann's", "picture"]);
    assert_eq!(bodies(&page(json!({ "contains_url": true })).await["chunk"]), ["picture"]);
    assert_eq!(kinds(&page(json!({ "types": ["m.room.na*", "m.room.create"] })).await["chunk"]), ["m.room.create"]);
    assert!(kinds(&page(json!({ "rooms": [] })).await["chunk"]).is_empty());
    let lazy = page(json!({ "types": ["m.room.message"], "lazy_load_members": true, "senders": [bob.id] })).await;
    assert_eq!(lazy["state"].as_array().map(Vec::len), Some(1));
    assert_eq!(lazy["state"][0]["state_key"], bob.id.as_str());
    ann.room(&room, "messages?dir=f&filter=nonsense").await.is("400 M_BAD_JSON");
}

#[tokio::test]
async fn a_page_needs_a_direction_and_good_tokens() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    ann.room(&room, "messages").await.is("400 M_MISSING_PARAM");
    ann.room(&room, "messages?dir=x").await.is("400 M_INVALID_PARAM");
    ann.room(&room, "messages?dir=b&from=nonsense").await.is("400 M_INVALID_PARAM");
    ann.room(&room, "messages?dir=b&limit=-1").await.is("400 M_INVALID_PARAM");
    bob.room(&room, "messages?dir=b").await.is("403 M_FORBIDDEN");
    ann.room("!nowhere:localhost", "messages?dir=b").await.is("403 M_FORBIDDEN");
    server.get(&in_room(&room, "messages?dir=b")).await.is("401 M_MISSING_TOKEN");
}

#[tokio::test]
async fn the_setting_of_the_room_says_whose_past_is_whose() {
    for (visibility, expected) in [
        ("shared", vec!["early", "invited", "joined"]),
        ("invited", vec!["invited", "joined"]),
        ("joined", vec!["joined"]),
        ("world_readable", vec!["early", "invited", "joined", "left"]),
    ] {
        let (ann, bob) = server().await.with_users("ann", "bob").await;
        let content = json!({ "history_visibility": visibility });
        let state = json!([{ "type": "m.room.history_visibility", "content": content }]);
        let room = ann.create_room().with("initial_state", state).await;
        let early = ann.say(&room, "early").await;
        ann.invite(&room, &bob).await.ok();
        ann.say(&room, "invited").await;
        bob.join(&room).await.ok();
        ann.say(&room, "joined").await;
        bob.leave(&room).await.ok();
        let left = ann.say(&room, "left").await;
        assert_eq!(bob.read(&room).await, expected, "{visibility}");
        let seen = |id: &str| bob.clone().room_event(room.clone(), id.to_owned());
        assert_eq!(seen(&early).await, expected.contains(&"early"), "{visibility}");
        assert_eq!(seen(&left).await, expected.contains(&"left"), "{visibility}");
    }
}

trait Event {
    async fn room_event(self, room: String, id: String) -> bool;
}

impl Event for User {
    async fn room_event(self, room: String, id: String) -> bool {
        let answer = self.room(&room, &format!("event/{id}")).await;
        match answer.summary().as_str() {
            "200" => true,
            "404 M_NOT_FOUND" => false,
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn an_event_is_shown_with_what_surrounds_it() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let ids = talk(&ann, &room, 0, 9).await;
    ann.set(&room, "m.room.name", "", json!({ "name": "late" })).await.ok();
    let path = |query: &str| format!("context/{}{query}", ids[4]);
    let context = ann.room(&room, &path("?limit=4")).await.ok();
    assert_eq!(context["event"]["content"]["body"], "4");
    assert_eq!(bodies(&context["events_before"]), ["3", "2"]);
    assert_eq!(bodies(&context["events_after"]), ["5", "6"]);
    assert!(!kinds(&context["state"]).contains(&"m.room.name"));
    let page = ann.room(&room, &format!("messages?dir=b&limit=2&from={}", context["start"].as_str().unwrap())).await;
    assert_eq!(bodies(&page["chunk"]), ["1", "0"]);
    let page = ann.room(&room, &format!("messages?dir=f&limit=2&from={}", context["end"].as_str().unwrap())).await;
    assert_eq!(bodies(&page["chunk"]), ["7", "8"]);
    let alone = ann.room(&room, &path("?limit=0")).await.ok();
    assert_eq!((&alone["events_before"], &alone["events_after"]), (&json!([]), &json!([])));
    bob.room(&room, &path("")).await.is("404 M_NOT_FOUND");
    ann.room(&room, "context/$nothing").await.is("404 M_NOT_FOUND");
}
