//! What people are told of, and have read, across servers.

use serde_json::{Value, json};

use crate::harness::{Server, User, network};

async fn notifications(user: &User) -> Vec<(Value, Value)> {
    let page = user.get("/_matrix/client/v3/notifications").await.ok();
    let page = page["notifications"].as_array().cloned().expect("a list");
    page.into_iter().map(|found| (found["event"]["content"]["membership"].clone(), found["read"].clone())).collect()
}

#[tokio::test]
async fn an_invite_from_elsewhere_is_told_until_it_is_answered() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let room = ann.create_room().await;
    ann.invite(&room, &bob).await.ok();
    assert_eq!(notifications(&bob).await, [(json!("invite"), json!(false))]);
    bob.leave(&room).await.ok();
    assert_eq!(notifications(&bob).await, [(json!("invite"), json!(true))]);
}

async fn tell(from: &Server, to: &Server, room: &str, user: &str, event: &str, data: Value) {
    let receipt = json!({ room: { "m.read": { user: { "data": data, "event_ids": [event] } } } });
    from.tell(to, "m.receipt", receipt).await;
}

#[tokio::test]
async fn a_server_says_what_its_own_members_have_read_and_nothing_else() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &one).await.ok();
    let event = ann.say(&room, "hello").await;
    let receipts = async || {
        let answer = ann.get("/_matrix/client/v3/sync?set_presence=offline").await.ok();
        let events = answer["rooms"]["join"][&room]["ephemeral"]["events"].clone();
        events
            .as_array()
            .into_iter()
            .flatten()
            .map(|found| found["content"][&event]["m.read"].clone())
            .collect::<Vec<_>>()
    };
    tell(&two, &one, &room, "@stranger:two", &event, json!({ "ts": 5 })).await;
    tell(&two, &one, &room, ann.id.as_str(), &event, json!({ "ts": 5 })).await;
    tell(&two, &one, &room, bob.id.as_str(), &event, json!({ "ts": 5, "thread_id": "$nothing" })).await;
    tell(&two, &one, &room, bob.id.as_str(), "$nothing", json!({ "ts": 5 })).await;
    assert_eq!(receipts().await, [] as [Value; 0]);
    // What makes no sense does not keep back what stands beside it.
    let good = json!({ "data": { "ts": 5, "thread_id": "main" }, "event_ids": [event] });
    let readers = json!({ "nobody": 7, "@stranger:two": "yesterday", bob.id.as_str(): good });
    let receipt = json!({ "nowhere": {}, "!else:two": [], &room: { "m.read": readers, "m.other": 5 } });
    two.tell(&one, "m.receipt", receipt).await;
    assert_eq!(receipts().await, [json!({ bob.id.as_str(): { "ts": 5, "thread_id": "main" } })]);
}

async fn typists(user: &User, room: &str) -> Value {
    let answer = user.get("/_matrix/client/v3/sync?set_presence=offline").await.ok();
    let events = answer["rooms"]["join"][room]["ephemeral"]["events"].as_array().cloned().unwrap_or_default();
    let typing = events.into_iter().find(|event| event["type"] == "m.typing");
    typing.map_or_else(|| json!([]), |event| event["content"]["user_ids"].clone())
}

#[tokio::test]
async fn only_who_is_in_the_room_types_there_and_who_leaves_has_stopped() {
    let network = network();
    let (one, two) = (network.server("one").await, network.server("two").await);
    let (ann, bob) = (one.with_user("ann").await, two.with_user("bob").await);
    let eve = two.with_user("eve").await;
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join_via(&room, &one).await.ok();
    eve.join(&room).await.ok();
    eve.leave(&room).await.ok();
    two.is_heard().await;
    let types = async |user: &User, typing: bool| {
        let content = json!({ "room_id": room, "user_id": user.id, "typing": typing });
        two.tell(&one, "m.typing", content).await;
    };
    types(&eve, true).await;
    assert_eq!(typists(&ann, &room).await, json!([]));
    types(&bob, true).await;
    assert_eq!(typists(&ann, &room).await, json!([bob.id]));
    // Some servers repeat it every forty seconds.
    one.later(std::time::Duration::from_secs(45));
    ingle::rooms::ephemeral::expire_typing(&one.ctx.rooms).expect("rows");
    assert_eq!(typists(&ann, &room).await, json!([bob.id]));
    types(&bob, false).await;
    let path = crate::harness::in_room(&room, &format!("typing/{}", ann.id));
    let cat = one.with_user("cat").await;
    cat.join(&room).await.ok();
    ann.put(&path, json!({ "typing": true, "timeout": 100_000 })).await.ok();
    assert_eq!(typists(&cat, &room).await, json!([ann.id]));
    ann.leave(&room).await.ok();
    assert_eq!(typists(&cat, &room).await, json!([]));
}
