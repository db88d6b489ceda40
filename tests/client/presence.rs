//! Who is there.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{User, server, server_with};

const MINUTE: Duration = Duration::from_secs(60);

fn status(of: &User) -> String {
    format!("/_matrix/client/v3/presence/{}/status", of.id)
}

/// Where somebody is, as another one is told: the state and the words.
async fn seen(by: &User, of: &User) -> String {
    let found = by.get(&status(of)).await.ok();
    let words = [&found["presence"], &found["status_msg"]].map(|text| text.as_str().unwrap_or_default().to_owned());
    words.join(" ").trim_end().to_owned()
}

/// Asks for news; gives who is where, and the token to go on with.
async fn sync(user: &User, query: &str) -> (Vec<String>, String) {
    let answer = user.get(&format!("/_matrix/client/v3/sync?{query}")).await.ok();
    let events = answer["presence"]["events"].as_array().cloned().unwrap_or_default();
    let tell = |event: &Value| {
        assert_eq!(event["type"], "m.presence");
        let name = event["sender"].as_str().and_then(|id| id[1..].split(':').next()).unwrap_or_default();
        format!("{name} {}", event["content"]["presence"].as_str().unwrap_or_default())
    };
    (events.iter().map(tell).collect(), answer["next_batch"].as_str().expect("a token").to_owned())
}

async fn together() -> (User, User) {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    (ann, bob)
}

#[tokio::test]
async fn those_who_share_a_room_see_who_is_there() {
    let (ann, bob) = together().await;
    let eve = ann.server.with_user("eve").await;
    let before = ann.server.trace();
    ann.put(&status(&ann), json!({ "presence": "online", "status_msg": "at tea" })).await.ok();
    let found = bob.get(&status(&ann)).await.ok();
    let expected =
        json!({ "presence": "online", "status_msg": "at tea", "currently_active": true, "last_active_ago": 0 });
    assert_eq!(found, expected);
    assert_eq!(seen(&ann, &ann).await, "online at tea");
    ann.put(&status(&ann), json!({ "presence": "unavailable" })).await.ok();
    assert_eq!(seen(&bob, &ann).await, "unavailable", "words that are not said again are gone");

    eve.get(&status(&ann)).await.is("403 M_FORBIDDEN");
    let nobody = "/_matrix/client/v3/presence/@nobody:localhost/status";
    eve.get(nobody).await.is("403 M_FORBIDDEN");
    eve.put(&status(&ann), json!({ "presence": "online" })).await.is("403 M_FORBIDDEN");
    ann.put(&status(&ann), json!({ "presence": "asleep" })).await.is("400 M_INVALID_PARAM");
    ann.put(&status(&ann), json!({})).await.is("400 M_BAD_JSON");
    let long = json!({ "presence": "online", "status_msg": "x".repeat(2_000) });
    ann.put(&status(&ann), long).await.is("400 M_INVALID_PARAM");
    assert_eq!(ann.server.trace(), before, "nobody remembers who was there");
}

#[tokio::test]
async fn a_sync_shows_its_device_and_tells_of_others() {
    let (ann, bob) = together().await;
    let (people, since) = sync(&bob, "set_presence=offline").await;
    assert_eq!(people, [] as [&str; 0], "nobody is there");
    let (people, _) = sync(&ann, "").await;
    assert_eq!(people, ["ann online"]);
    let (people, since) = sync(&bob, &format!("set_presence=offline&since={since}")).await;
    assert_eq!(people, ["ann online"]);
    assert_eq!(seen(&ann, &bob).await, "offline");
    sync(&ann, "set_presence=unavailable").await;
    let (people, since) = sync(&bob, &format!("set_presence=offline&since={since}")).await;
    assert_eq!(people, ["ann unavailable"]);
    let (people, _) = sync(&bob, &format!("set_presence=offline&since={since}")).await;
    assert_eq!(people, [] as [&str; 0], "it is told once");
    let (people, _) = sync(&bob, "").await;
    assert_eq!(people, ["ann unavailable", "bob online"]);
    let (people, _) = sync(&bob, "filter=%7B%22presence%22:%7B%22not_types%22:[%22*%22]%7D%7D").await;
    assert_eq!(people, [] as [&str; 0]);
    bob.get("/_matrix/client/v3/sync?set_presence=asleep").await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn a_sync_that_waits_hears_of_it_at_once() {
    let (ann, bob) = together().await;
    let (_, since) = sync(&bob, "").await;
    let query = format!("timeout=30000&since={since}");
    let comes = async {
        tokio::task::yield_now().await;
        ann.put(&status(&ann), json!({ "presence": "online" })).await.ok();
    };
    let ((people, _), ()) = tokio::join!(sync(&bob, &query), comes);
    assert_eq!(people, ["ann online"]);
}

#[tokio::test]
async fn who_does_nothing_becomes_idle_and_who_asks_no_more_is_gone() {
    let (ann, bob) = together().await;
    let room = ann.create_room().await;
    let (_, mut since) = sync(&ann, "").await;
    let mut states = Vec::new();
    for _ in 0..16 {
        ann.server.later(Duration::from_secs(20));
        since = sync(&ann, &format!("since={since}")).await.1;
        let found = bob.get(&status(&ann)).await.ok();
        let active = found["currently_active"].as_bool().map_or("", |active| if active { " active" } else { " quiet" });
        states.push(format!("{}{active}", found["presence"].as_str().unwrap()));
    }
    states.dedup();
    assert_eq!(states, ["online active", "online quiet", "unavailable"]);
    ann.say(&room, "I am back").await;
    assert_eq!(seen(&bob, &ann).await, "online");
    ann.server.later(MINUTE);
    assert_eq!(seen(&bob, &ann).await, "offline");
}

#[tokio::test]
async fn the_device_that_is_most_there_counts() {
    let (ann, bob) = together().await;
    let phone = ann.log_in().await;
    sync(&ann, "set_presence=online").await;
    sync(&phone, "set_presence=unavailable").await;
    assert_eq!(seen(&bob, &ann).await, "online");
    ann.server.later(Duration::from_secs(20));
    sync(&phone, "set_presence=unavailable").await;
    ann.server.later(Duration::from_secs(20));
    assert_eq!(seen(&bob, &ann).await, "unavailable");
}

#[tokio::test]
async fn who_comes_into_a_room_sees_who_is_there_and_is_seen() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    let (_, ann_since) = sync(&ann, "").await;
    let (people, since) = sync(&bob, "").await;
    assert_eq!(people, ["bob online"]);
    bob.join(&room).await.ok();
    assert_eq!(sync(&bob, &format!("since={since}")).await.0, ["ann online", "bob online"]);
    assert_eq!(sync(&ann, &format!("since={ann_since}")).await.0, ["bob online"]);
}

#[tokio::test]
async fn nobody_is_shown_where_presence_is_off() {
    let server = server_with(|config| config.presence.enabled = false).await;
    let ann = server.with_user("ann").await;
    ann.put(&status(&ann), json!({ "presence": "online" })).await.ok();
    assert_eq!(sync(&ann, "").await.0, [] as [&str; 0]);
    ann.get(&status(&ann)).await.is("404 M_NOT_FOUND");
}
