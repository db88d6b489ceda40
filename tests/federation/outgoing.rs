//! What waits for a server that is away, and what it gets when it is back.

use serde_json::json;

use crate::harness::{User, bodies, network, quoted};

/// Waits until somebody has read all of these messages, whatever else was said.
async fn reads(user: &User, room: &str, expected: &[String], limit: usize) {
    let mut log = user.server.ctx.store.watch();
    let comes = async {
        loop {
            let page = user.room(room, &format!("messages?dir=b&limit={limit}")).await.ok();
            let said = bodies(&page["chunk"]);
            if expected.iter().all(|text| said.contains(text)) {
                return;
            }
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), comes).await.expect("everything arrives");
}

/// Waits until a message has arrived.
async fn hears(user: &User, room: &str, text: &str) {
    reads(user, room, &[text.to_owned()], 1).await;
}

#[tokio::test]
async fn a_restart_loses_nothing_of_what_waits() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    network.away(&b);
    ann.say(&room, "before the restart").await;
    let a = network.restart(&a).await;
    let ann = User { server: a.clone(), ..ann };
    ann.say(&room, "after the restart").await;
    network.back(&b);
    // Whoever says something is there.
    bob.say(&room, "I am back").await;
    reads(&bob, &room, &["before the restart".to_owned(), "after the restart".to_owned()], 100).await;
}

#[tokio::test]
async fn after_a_long_outage_the_newest_is_sent_and_the_rest_is_found() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    let since = bob.get("/_matrix/client/v3/sync").await.ok()["next_batch"].as_str().expect("a token").to_owned();
    network.away(&b);
    let said: Vec<String> = (0..230).map(|n| format!("message {n}")).collect();
    for text in &said {
        ann.say(&room, text).await;
    }
    network.back(&b);
    bob.say(&room, "I am back").await;
    hears(&bob, &room, &said[229]).await;
    // A client that follows what arrives is told that it has missed something.
    let filter = "{\"room\":{\"timeline\":{\"limit\":500}}}";
    let news = bob.get(&format!("/_matrix/client/v3/sync?since={since}&filter={}", quoted(filter))).await.ok();
    let timeline = &news["rooms"]["join"][&room]["timeline"];
    assert_eq!(timeline["limited"], json!(true), "{timeline}");
    let heard = bodies(&timeline["events"]);
    let before = timeline["prev_batch"].as_str().expect("a token");
    let page = bob.room(&room, &format!("messages?dir=b&limit=500&from={before}")).await.ok();
    let mut all = bodies(&page["chunk"]);
    all.reverse();
    all.extend(heard);
    for text in &said {
        assert!(all.contains(text), "{text} is missing among {all:?}");
    }
}

#[tokio::test]
async fn what_has_arrived_is_forgotten() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    for text in ["one", "two", "three"] {
        ann.say(&room, text).await;
    }
    a.is_heard().await;
}

#[tokio::test]
async fn a_server_that_was_started_gets_what_waits_for_it() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    network.away(&b);
    ann.say(&room, "is anybody there?").await;
    let mut log = a.ctx.store.watch();
    let name = &b.ctx.config.server_name;
    while a.ctx.remote.back_off.until(name, a.ctx.clock.now()).is_none() {
        log.changed().await.expect("the server runs");
    }
    // Nobody there says a word, and no time passes: that the server is there again is enough.
    network.reachable(&b);
    let b = network.restart(&b).await;
    let bob = User { server: b, ..bob };
    hears(&bob, &room, "is anybody there?").await;
}

#[tokio::test]
async fn whoever_is_invited_is_handed_the_invite_once() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().await;
    ann.invite(&room, &bob).await.ok();
    a.is_heard().await;
    let asked = network.asked(&b);
    let (invites, transactions): (Vec<_>, Vec<_>) = asked.iter().partition(|path| path.contains("/invite/"));
    assert_eq!(
        (invites.len(), transactions.iter().filter(|path| path.contains("/send/")).count()),
        (1, 0),
        "{asked:?}"
    );
    // That it is taken back is told.
    ann.kick(&room, &bob).await.ok();
    a.is_heard().await;
    assert!(network.asked(&b).iter().any(|path| path.contains("/send/")));
}
