//! Searching what was said.

use serde_json::{Value, json};

use crate::harness::{User, bodies, server};

async fn search(user: &User, term: &str, more: Value) -> Value {
    let mut criteria = json!({ "search_term": term });
    criteria.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    page(user, &criteria, None).await
}

async fn page(user: &User, criteria: &Value, from: Option<&Value>) -> Value {
    let query = from.map(|from| format!("?next_batch={}", from.as_str().unwrap())).unwrap_or_default();
    let body = json!({ "search_categories": { "room_events": criteria } });
    let answer = user.post(&format!("/_matrix/client/v3/search{query}"), body).await.ok();
    answer["search_categories"]["room_events"].clone()
}

/// The texts of the results, in their order.
fn found(page: &Value) -> Vec<String> {
    let results = page["results"].as_array().unwrap().iter();
    bodies(&Value::Array(results.map(|result| result["result"].clone()).collect()))
}

#[tokio::test]
async fn messages_names_and_topics_are_found_by_their_words() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().with("name", "The café").with("topic", "Dinner plans").await;
    ann.say(&room, "Dinner is ready").await;
    ann.say(&room, "Who brings the CAFE latte, and dinner?").await;
    ann.say(&room, "Nothing of all that").await;
    let both = search(&ann, "dinner", json!({ "keys": ["content.body"] })).await;
    assert_eq!(
        found(&both),
        ["Dinner is ready", "Who brings the CAFE latte, and dinner?"],
        "the shorter text fits better"
    );
    assert_eq!(both["count"], 2);
    assert_eq!(both["highlights"], json!(["dinner"]));
    let recent = search(&ann, "dinner", json!({ "keys": ["content.body"], "order_by": "recent" })).await;
    assert_eq!(found(&recent), ["Who brings the CAFE latte, and dinner?", "Dinner is ready"]);
    assert_eq!(search(&ann, "dinner", json!({})).await["count"], 3, "the topic too");
    let topic = search(&ann, "Dinner", json!({ "keys": ["content.topic"] })).await;
    assert_eq!(topic["results"][0]["result"]["content"]["topic"], "Dinner plans");
    let name = search(&ann, "cafe", json!({ "keys": ["content.name"] })).await;
    assert_eq!(name["results"][0]["result"]["content"]["name"], "The café");
    assert_eq!(name["highlights"], json!(["café"]), "as it is written");
    assert_eq!(found(&search(&ann, "dinner ready", json!({})).await), ["Dinner is ready"], "all of the words");
    assert_eq!(search(&ann, "breakfast", json!({})).await["count"], 0);
    assert_eq!(search(&ann, "!?", json!({})).await["results"], json!([]));
}

#[tokio::test]
async fn an_edited_message_is_found_by_its_newest_text_and_a_redacted_one_not_at_all() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().await;
    let message = ann.say(&room, "buy milk").await;
    let edit = |text: &str| {
        let relation = json!({ "rel_type": "m.replace", "event_id": message });
        let new = json!({ "msgtype": "m.text", "body": text });
        json!({ "msgtype": "m.text", "body": format!("* {text}"), "m.new_content": new, "m.relates_to": relation })
    };
    let edited = ann.send(&room, "m.room.message", edit("buy bread")).await;
    assert_eq!(search(&ann, "milk", json!({})).await["count"], 0);
    let bread = search(&ann, "bread", json!({})).await;
    assert_eq!(bread["count"], 1);
    let result = &bread["results"][0]["result"];
    assert_eq!(result["event_id"], message);
    assert_eq!(result["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"], "buy bread");
    let redact = async |event: &str| {
        let path = format!("/_matrix/client/v3/rooms/{room}/redact/{event}/{}", &event[1..9]);
        ann.put(&path, json!({})).await.ok();
    };
    redact(&edited).await;
    assert_eq!(search(&ann, "bread", json!({})).await["count"], 0);
    assert_eq!(search(&ann, "milk", json!({})).await["count"], 1, "what was said first counts again");
    redact(&message).await;
    assert_eq!(search(&ann, "milk", json!({})).await["count"], 0);
}

#[tokio::test]
async fn what_one_may_not_see_is_not_found_nor_counted() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    ann.set(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await.ok();
    ann.say(&room, "apple before").await;
    bob.join(&room).await.ok();
    ann.say(&room, "apple while").await;
    bob.leave(&room).await.ok();
    ann.say(&room, "apple after").await;
    let other = ann.create_room().await;
    ann.say(&other, "apple elsewhere").await;
    let secret = ann.create_room().await;
    ann.say(&secret, "apple in secret").await;
    ann.set(&secret, "m.room.encryption", "", json!({ "algorithm": "m.megolm.v1.aes-sha2" })).await.ok();
    let mine = search(&bob, "apple", json!({ "order_by": "recent" })).await;
    assert_eq!(found(&mine), ["apple while"]);
    assert_eq!(mine["count"], 1);
    assert_eq!(search(&ann, "apple", json!({})).await["count"], 4, "encrypted rooms are not searched");
    bob.post(&format!("/_matrix/client/v3/rooms/{room}/forget"), json!({})).await.ok();
    assert_eq!(search(&bob, "apple", json!({})).await["count"], 0);
}

#[tokio::test]
async fn results_are_filtered_paged_and_grouped() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let (one, two) = (ann.create_room().invite(&bob).await, ann.create_room().await);
    bob.join(&one).await.ok();
    for n in 0..3 {
        ann.say(&one, &format!("word {n} of ann")).await;
        bob.say(&one, &format!("word {n} of bob")).await;
        ann.say(&two, &format!("word {n} elsewhere")).await;
    }
    let image = json!({ "msgtype": "m.image", "body": "word.png word", "url": "mxc://localhost/a" });
    ann.send(&one, "m.room.message", image).await;
    assert_eq!(search(&ann, "word", json!({ "filter": { "rooms": [two] } })).await["count"], 3);
    assert_eq!(search(&ann, "word", json!({ "filter": { "not_rooms": [two] } })).await["count"], 7);
    assert_eq!(search(&ann, "word", json!({ "filter": { "senders": [bob.id] } })).await["count"], 3);
    assert_eq!(search(&ann, "word", json!({ "filter": { "contains_url": true } })).await["count"], 1);
    let criteria = json!({
        "search_term": "word", "order_by": "recent",
        "filter": { "limit": 4, "contains_url": false },
        "groupings": { "group_by": [{ "key": "room_id" }, { "key": "sender" }] },
    });
    let first = page(&ann, &criteria, None).await;
    assert_eq!(first["count"], 9);
    assert_eq!(found(&first), ["word 2 elsewhere", "word 2 of bob", "word 2 of ann", "word 1 elsewhere"]);
    let groups = &first["groups"];
    assert_eq!(groups["room_id"][&two]["order"], 0);
    assert_eq!(groups["room_id"][&one]["order"], 1);
    assert_eq!(groups["sender"][bob.id.as_str()]["results"], json!([first["results"][1]["result"]["event_id"]]));
    ann.say(&one, "one more word that comes in between").await;
    let second = page(&ann, &criteria, Some(&first["next_batch"])).await;
    assert_eq!(found(&second), ["word 1 of bob", "word 1 of ann", "word 0 elsewhere", "word 0 of bob"]);
    let third = page(&ann, &criteria, Some(&second["next_batch"])).await;
    assert_eq!(found(&third), ["word 0 of ann"]);
    assert!(third["next_batch"].is_null());
    let of_bob = page(&ann, &criteria, Some(&groups["sender"][bob.id.as_str()]["next_batch"])).await;
    assert_eq!(found(&of_bob), ["word 1 of bob", "word 0 of bob"]);
    let wrong = json!({ "search_categories": { "room_events": criteria } });
    ann.post("/_matrix/client/v3/search?next_batch=x", wrong).await.is("400 M_INVALID_PARAM");
    ann.post("/_matrix/client/v3/search", json!({})).await.is("400 M_BAD_JSON");
}

#[tokio::test]
async fn a_result_comes_with_what_happened_around_it() {
    let ann = server().await.with_user("ann").await;
    ann.put(&format!("/_matrix/client/v3/profile/{}/displayname", ann.id), json!({ "displayname": "Ann" })).await.ok();
    let room = ann.create_room().with("name", "Kitchen").await;
    for text in ["a", "b", "needle", "c", "d"] {
        ann.say(&room, text).await;
    }
    assert!(search(&ann, "needle", json!({})).await["results"][0]["context"].is_null(), "only if it is asked for");
    let wish = json!({ "before_limit": 1, "after_limit": 5, "include_profile": true });
    let answer = search(&ann, "needle", json!({ "event_context": wish, "include_state": true })).await;
    let context = &answer["results"][0]["context"];
    assert_eq!(bodies(&context["events_before"]), ["b"]);
    assert_eq!(bodies(&context["events_after"]), ["c", "d"]);
    assert_eq!(context["profile_info"][ann.id.as_str()]["displayname"], "Ann");
    let before = format!("messages?dir=b&limit=1&from={}", context["start"].as_str().unwrap());
    assert_eq!(bodies(&ann.room(&room, &before).await.ok()["chunk"]), ["a"]);
    let state = answer["state"][&room].as_array().unwrap();
    assert!(state.iter().any(|event| event["content"]["name"] == "Kitchen"));
}

#[tokio::test]
async fn many_messages_are_found_in_blocks_after_a_restart_and_edited_there() {
    let server = server().await;
    let ann = server.with_user("ann").await;
    let room = ann.create_room().await;
    let first = ann.say(&room, "alpha 0").await;
    for n in 1..300 {
        ann.say(&room, &format!("alpha {n}")).await;
    }
    let again = User { server: server.restart(), ..ann.clone() };
    for n in 300..600 {
        again.say(&room, &format!("alpha {n}")).await;
    }
    assert_eq!(search(&again, "alpha", json!({})).await["count"], 600);
    assert_eq!(found(&search(&again, "alpha 17", json!({ "order_by": "recent" })).await).last().unwrap(), "alpha 17");
    again.put(&format!("/_matrix/client/v3/rooms/{room}/redact/{first}/r"), json!({})).await.ok();
    assert_eq!(search(&again, "alpha", json!({})).await["count"], 599);
    assert_eq!(search(&again, "0", json!({})).await["count"], 0);
}
