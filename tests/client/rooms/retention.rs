//! How long messages are kept.

use std::time::Duration;

use ingle::rooms::retention;
use serde_json::{Value, json};

use crate::harness::{Server, in_room, quoted, server_with};

const DAY: Duration = Duration::from_secs(86_400);

async fn forgetful() -> Server {
    server_with(|config| {
        config.retention.enabled = true;
        config.retention.default_lifetime = Some(7 * DAY);
        config.retention.longest_lifetime = Some(30 * DAY);
    })
    .await
}

fn purge(server: &Server) -> u64 {
    retention::purge(&server.ctx.rooms).expect("rows that can be removed")
}

#[tokio::test]
async fn what_has_passed_its_time_is_found_nowhere() {
    let server = forgetful().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).with("name", "Kitchen").await;
    bob.join(&room).await.ok();
    let old = ann.say(&room, "old soup").await;
    let edit = json!({
        "msgtype": "m.text", "body": "* old stew", "m.new_content": { "msgtype": "m.text", "body": "old stew" },
        "m.relates_to": { "rel_type": "m.replace", "event_id": old },
    });
    ann.send(&room, "m.room.message", edit).await;
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": old, "key": "+" } });
    bob.send(&room, "m.reaction", reaction).await;
    let reply = json!({ "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": old } });
    ann.send(&room, "m.room.message", reply).await;
    server.later(8 * DAY);
    let new = ann.say(&room, "new soup").await;
    assert_eq!(ann.read(&room).await.len(), 4);
    assert_eq!(purge(&server), 4);
    assert_eq!(ann.read(&room).await, ["new soup"]);
    for rest in [format!("event/{}", quoted(&old)), format!("context/{}", quoted(&old))] {
        bob.room(&room, &rest).await.is("404 M_NOT_FOUND");
    }
    let v1 = format!("/_matrix/client/v1/rooms/{}", quoted(&room));
    bob.get(&format!("{v1}/relations/{}", quoted(&old))).await.is("404 M_NOT_FOUND");
    assert_eq!(bob.get(&format!("{v1}/threads")).await.ok()["chunk"], json!([]));
    let search = |term: &str| {
        let body = json!({ "search_categories": { "room_events": { "search_term": term } } });
        let bob = bob.clone();
        async move {
            let found = bob.post("/_matrix/client/v3/search", body).await.ok();
            found["search_categories"]["room_events"]["count"].clone()
        }
    };
    assert_eq!((search("stew").await, search("soup").await), (json!(0), json!(1)));
    let sync = bob.get("/_matrix/client/v3/sync").await.ok();
    let joined = &sync["rooms"]["join"][&room];
    assert_eq!(joined["unread_notifications"]["notification_count"], 1);
    assert!(!joined.to_string().contains("old") && joined.to_string().contains("Kitchen"));
    let told = bob.get("/_matrix/client/v3/notifications").await.ok();
    assert!(!told.to_string().contains("old") && told.to_string().contains("new soup"));
    let around = bob.room(&room, &format!("context/{}", quoted(&new))).await.ok();
    assert!(!around.to_string().contains("old"));
    // The room goes on, also after a restart, and after the rows are gone.
    assert_eq!(purge(&server), 0);
    let restarted = server.restart();
    let bob = crate::harness::User { server: restarted, ..bob };
    bob.say(&room, "more").await;
    assert_eq!(bob.read(&room).await, ["new soup", "more"]);
}

#[tokio::test]
async fn a_room_may_ask_for_a_time_of_its_own_within_bounds() {
    let server = forgetful().await;
    let ann = server.with_user("ann").await;
    let milliseconds = |days: u64| json!(days * 86_400_000);
    let with = |policy: Value| {
        let policy = json!([{ "type": "m.room.retention", "content": policy }]);
        ann.create_room().with("initial_state", policy)
    };
    let short = with(json!({ "max_lifetime": milliseconds(3) })).await;
    let hasty = with(json!({ "max_lifetime": 1 })).await;
    let long = with(json!({ "max_lifetime": milliseconds(20) })).await;
    let eternal = with(json!({ "max_lifetime": milliseconds(9_999) })).await;
    let careful = with(json!({ "max_lifetime": milliseconds(2), "min_lifetime": milliseconds(10) })).await;
    let silent = with(json!({ "max_lifetime": "soon" })).await;
    let all = [short, hasty, long, eternal, careful, silent];
    for room in &all {
        ann.say(room, "word").await;
        ann.set(room, "org.example", "", json!({})).await.ok();
    }
    let left = || async {
        let mut left = String::new();
        for room in &all {
            left.push(if ann.read(room).await.is_empty() { '-' } else { 'x' });
        }
        left
    };
    for (days, expected) in [(0, "xxxxxx"), (2, "x-xxxx"), (4, "--xxxx"), (8, "--xxx-"), (11, "--xx--"), (31, "------")]
    {
        let start = 1_782_000_000_000;
        let now = server.ctx.clock.now();
        server.later(Duration::from_millis((start + days * 86_400_000 + 60_000u64).saturating_sub(now)));
        purge(&server);
        assert_eq!(left().await, expected, "after {days} days");
    }
}

#[tokio::test]
async fn what_stays_is_what_others_need() {
    let server = forgetful().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    ann.set(&room, "m.room.topic", "", json!({ "topic": "secret" })).await.ok();
    let topic = ann.last(&room).await;
    ann.put(&in_room(&room, &format!("redact/{}/1", quoted(&topic))), json!({ "reason": "oops" })).await.ok();
    let message = ann.say(&room, "one").await;
    ann.put(&in_room(&room, &format!("redact/{}/2", quoted(&message))), json!({})).await.ok();
    ann.say(&room, "the end").await;
    server.later(8 * DAY);
    // The redaction of a state event, which stays, and the end of the room stay.
    assert_eq!(purge(&server), 2);
    let shown = ann.room(&room, &format!("event/{}", quoted(&topic))).await.ok();
    assert_eq!(shown["unsigned"]["redacted_because"]["content"]["reason"], "oops");
    assert_eq!(ann.read(&room).await, ["the end"]);
    let server = server_with(|_| ()).await;
    let bob = server.with_user("bob").await;
    let room = bob.create_room().await;
    bob.say(&room, "kept").await;
    bob.say(&room, "for ever").await;
    server.later(1_000 * DAY);
    assert_eq!((purge(&server), bob.read(&room).await.len()), (0, 2));
}
