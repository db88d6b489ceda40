//! What people are told of: the list, the counts, and whose push rules decide.

use serde_json::{Value, json};

use crate::harness::{User, in_room, server};

const LIST: &str = "/_matrix/client/v3/notifications";

async fn together() -> (User, User, String) {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    (ann, bob, room)
}

/// The notifications of a page: the text, or the type, and whether it was read.
fn texts(page: &Value) -> Vec<String> {
    let page = page["notifications"].as_array().expect("a list");
    let tell = |notification: &Value| {
        let event = &notification["event"];
        let text = event["content"]["body"].as_str().or(event["content"]["membership"].as_str()).unwrap_or_default();
        format!("{text}{}", if notification["read"] == true { " (read)" } else { "" })
    };
    page.iter().map(tell).collect()
}

/// How much is unread in a room: what notifies, and what is highlighted.
async fn unread(user: &User, room: &str) -> (u64, u64) {
    let answer = user.get("/_matrix/client/v3/sync?set_presence=offline").await.ok();
    let count = &answer["rooms"]["join"][room]["unread_notifications"];
    (count["notification_count"].as_u64().expect("a count"), count["highlight_count"].as_u64().expect("a count"))
}

#[tokio::test]
async fn they_are_listed_in_pages_the_newest_first() {
    let (ann, bob, room) = together().await;
    let one = ann.say(&room, "one").await;
    let mention = json!({ "msgtype": "m.text", "body": "bob!", "m.mentions": { "user_ids": [bob.id] } });
    ann.send(&room, "m.room.message", mention).await;
    ann.send(&room, "m.reaction", json!({})).await;
    bob.post(&in_room(&room, &format!("receipt/m.read/{one}")), json!({})).await.ok();
    let page = bob.get(LIST).await.ok();
    assert_eq!(texts(&page), ["bob!", "one (read)", "invite (read)"]);
    assert_eq!(page["next_token"], Value::Null);
    let newest = &page["notifications"][0];
    assert_eq!([&newest["room_id"], &newest["event"]["sender"]], [&json!(room), &json!(ann.id)]);
    let highlight = json!(["notify", { "set_tweak": "sound", "value": "default" }, { "set_tweak": "highlight" }]);
    assert_eq!(newest["actions"], highlight);
    assert_eq!(newest["ts"], 1_782_000_000_000_u64);

    let page = bob.get(&format!("{LIST}?limit=2")).await.ok();
    assert_eq!(texts(&page), ["bob!", "one (read)"]);
    let next = page["next_token"].as_str().expect("there are more");
    let page = bob.get(&format!("{LIST}?limit=2&from={next}")).await.ok();
    assert_eq!(texts(&page), ["invite (read)"]);
    assert_eq!(page["next_token"], Value::Null);
    assert_eq!(texts(&bob.get(&format!("{LIST}?only=highlight")).await.ok()), ["bob!"]);
    bob.get(&format!("{LIST}?from=nonsense")).await.is("400 M_INVALID_PARAM");
    assert_eq!(texts(&ann.get(LIST).await.ok()), [] as [&str; 0], "nobody is told of what they do themselves");
}

#[tokio::test]
async fn whoever_talks_has_read_and_whoever_is_ignored_is_not_counted() {
    let (ann, bob, room) = together().await;
    ann.say(&room, "one").await;
    assert_eq!(unread(&bob, &room).await, (1, 0));
    bob.say(&room, "two").await;
    assert_eq!(unread(&bob, &room).await, (0, 0));
    let list = format!("/_matrix/client/v3/user/{}/account_data/m.ignored_user_list", bob.id);
    bob.put(&list, json!({ "ignored_users": { ann.id.as_str(): {} } })).await.ok();
    ann.say(&room, "three").await;
    assert_eq!(unread(&bob, &room).await, (0, 0));
}

#[tokio::test]
async fn what_is_said_in_a_thread_is_counted_there_also_in_reply_to_a_part_of_it() {
    let (ann, bob, room) = together().await;
    let root = bob.say(&room, "root").await;
    let thread = |relation: Value| json!({ "msgtype": "m.text", "body": "x", "m.relates_to": relation });
    let in_thread = thread(json!({ "rel_type": "m.thread", "event_id": root }));
    let reply = ann.send(&room, "m.room.message", in_thread.clone()).await;
    ann.send(&room, "m.room.message", thread(json!({ "rel_type": "m.reference", "event_id": reply }))).await;
    ann.say(&room, "beside").await;
    let count = async || {
        let filter = "%7B%22room%22:%7B%22timeline%22:%7B%22unread_thread_notifications%22:true%7D%7D%7D";
        let answer = bob.get(&format!("/_matrix/client/v3/sync?set_presence=offline&filter={filter}")).await.ok();
        let joined = answer["rooms"]["join"][&room].clone();
        let main = joined["unread_notifications"]["notification_count"].as_u64().unwrap();
        let threads = joined["unread_thread_notifications"][&root]["notification_count"].as_u64().unwrap_or(0);
        (main, threads)
    };
    assert_eq!(count().await, (1, 2));
    bob.send(&room, "m.room.message", in_thread).await;
    assert_eq!(count().await, (1, 0), "whoever talks in a thread has not read what was said beside it");
    ann.send(&room, "m.room.message", thread(json!({ "rel_type": "m.thread", "event_id": root }))).await;
    bob.say(&room, "me too").await;
    assert_eq!(count().await, (0, 1));
}

#[tokio::test]
async fn rules_may_ask_for_the_name_in_the_room_and_for_the_level_of_the_sender() {
    let (ann, bob, room) = together().await;
    let profile = format!("/_matrix/client/v3/profile/{}/displayname", bob.id);
    bob.put(&profile, json!({ "displayname": "Bobby T" })).await.ok();
    let rule =
        |condition: Value| json!({ "conditions": [condition], "actions": ["notify", { "set_tweak": "highlight" }] });
    let path = |id: &str| format!("/_matrix/client/v3/pushrules/global/override/{id}");
    bob.put(&path("name"), rule(json!({ "kind": "contains_display_name" }))).await.ok();
    ann.say(&room, "where is bobby t?").await;
    assert_eq!(unread(&bob, &room).await, (1, 1));
    bob.delete(&path("name"), json!({})).await.ok();
    bob.put(&path("level"), rule(json!({ "kind": "sender_notification_permission", "key": "room" }))).await.ok();
    ann.say(&room, "everybody").await;
    assert_eq!(unread(&bob, &room).await, (2, 2));
}

#[tokio::test]
async fn an_invite_that_was_declined_is_no_longer_unread() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    assert_eq!(texts(&bob.get(LIST).await.ok()), ["invite"]);
    bob.leave(&room).await.ok();
    assert_eq!(texts(&bob.get(LIST).await.ok()), ["invite (read)"]);
    ann.invite(&room, &bob).await.ok();
    bob.join(&room).await.ok();
    ann.say(&room, "hello").await;
    ann.kick(&room, &bob).await.ok();
    assert_eq!(texts(&bob.get(LIST).await.ok()), ["hello (read)", "invite (read)", "invite (read)"]);
}
