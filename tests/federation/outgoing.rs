//! What waits for a server that is away, and what it gets when it is back.

use crate::harness::{Server, User, bodies, network};

/// Waits until somebody has read all of these messages, whatever else was said.
async fn reads(user: &User, room: &str, expected: &[String]) {
    let mut log = user.server.ctx.store.watch();
    let comes = async {
        loop {
            let page = user.room(room, "messages?dir=b&limit=500").await.ok();
            let said = bodies(&page["chunk"]);
            if expected.iter().all(|text| said.contains(text)) {
                return;
            }
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), comes).await.expect("everything arrives");
}

/// How many rows wait for other servers, and for how many servers something waits.
fn waiting(server: &Server) -> (usize, usize) {
    use ingle::store::schema::federation::{OUTBOX, SENT};
    let store = &server.ctx.store;
    (store.scan(OUTBOX, &()).count(), store.scan(SENT, &()).count())
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
    reads(&bob, &room, &["before the restart".to_owned(), "after the restart".to_owned()]).await;
}

#[tokio::test]
async fn after_a_long_outage_the_newest_is_sent_and_the_rest_is_found() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &a).await.ok();
    network.away(&b);
    let said: Vec<String> = (0..230).map(|n| format!("message {n}")).collect();
    for text in &said {
        ann.say(&room, text).await;
    }
    network.back(&b);
    bob.say(&room, "I am back").await;
    reads(&bob, &room, &said).await;
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
    let mut log = a.ctx.store.watch();
    let forgotten = async {
        while waiting(&a) != (0, 0) {
            log.changed().await.expect("the server runs");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), forgotten).await.expect("nothing waits any more");
}
