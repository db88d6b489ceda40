//! Who is there, across servers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Server, User, network};

/// Waits until somebody is where they are expected, as another one is told.
async fn until(by: &User, of: &User, state: &str) {
    let path = format!("/_matrix/client/v3/presence/{}/status", of.id);
    let looks = async {
        while by.get(&path).await.ok()["presence"] != state {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looks).await.expect("it comes");
}

async fn says(user: &User, state: &str) {
    let path = format!("/_matrix/client/v3/presence/{}/status", user.id);
    user.put(&path, json!({ "presence": state })).await.ok();
}

async fn tell(from: &Server, to: &Server, user: &str, state: &str) {
    let update = json!({ "user_id": user, "presence": state, "last_active_ago": 5 });
    from.tell(to, "m.presence", json!({ "push": [update] })).await;
}

#[tokio::test]
async fn it_reaches_the_servers_in_the_rooms_of_a_user() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    says(&ann, "online").await;
    bob.join_via(&room, &one).await.ok();
    // What came before the join was complete is looked at again.
    two.later(Duration::from_secs(2));
    // Neither of them says anything new, but both see each other for the first time.
    until(&bob, &ann, "online").await;
    says(&bob, "unavailable").await;
    until(&ann, &bob, "unavailable").await;
    says(&ann, "offline").await;
    until(&bob, &ann, "offline").await;
}

#[tokio::test]
async fn a_server_speaks_for_its_own_users_who_are_in_our_rooms() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let cat = one.with_user("cat").await;
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &one).await.ok();
    cat.join(&room).await.ok();
    let since = ann.get("/_matrix/client/v3/sync?set_presence=offline").await.ok();
    tell(&two, &one, cat.id.as_str(), "online").await;
    tell(&two, &one, "@stranger:two", "online").await;
    tell(&two, &one, bob.id.as_str(), "asleep").await;
    // His own server has said that he is online, so that would be no news.
    tell(&two, &one, bob.id.as_str(), "unavailable").await;
    let path = format!("/_matrix/client/v3/sync?set_presence=offline&since={}", since["next_batch"].as_str().unwrap());
    let people = ann.get(&path).await.ok()["presence"]["events"].clone();
    let who: Vec<_> =
        people.as_array().unwrap().iter().map(|event: &Value| event["sender"].as_str().unwrap()).collect();
    assert_eq!(who, [bob.id.as_str()]);
}

#[tokio::test]
async fn one_of_many_that_makes_no_sense_keeps_nobody_back() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &one).await.ok();
    let stranger = json!({ "user_id": ann.id, "presence": "unavailable", "last_active_ago": 5 });
    // When somebody was last active is not always known.
    let good = json!({ "user_id": bob.id, "presence": "unavailable", "status_msg": "at sea" });
    let push = json!([{ "user_id": "nobody" }, 7, stranger, { "user_id": bob.id, "presence": 5 }, good]);
    two.tell(&one, "m.presence", json!({ "push": push })).await;
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    assert_eq!(ann.get(&path).await.ok()["status_msg"], "at sea");
}

#[tokio::test]
async fn it_stays_at_home_where_it_is_told_to() {
    let network = network();
    let one = network.server_with("one", |config| config.presence.over_federation = false).await;
    let two = network.server("two").await;
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &one).await.ok();
    tell(&two, &one, bob.id.as_str(), "online").await;
    let path = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    assert_eq!(ann.get(&path).await.ok()["presence"], "offline");
}

#[tokio::test]
async fn whoever_joins_a_large_room_is_shown_there() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    for n in 0..210 {
        ann.set(&room, "org.example.state", &n.to_string(), json!({})).await.ok();
    }
    says(&bob, "online").await;
    bob.join_via(&room, &one).await.ok();
    until(&ann, &bob, "online").await;
}
