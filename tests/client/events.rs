//! What clients asked for before there was `/sync`, and previews of rooms.

use serde_json::{Value, json};

use crate::harness::{Answer, Server, User, bodies, in_room, quoted, server, server_with};

const EVENTS: &str = "/_matrix/client/v3/events";
const ALL: &str = "/_matrix/client/v3/initialSync";

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// A server on which nobody is told who is there.
async fn quiet() -> Server {
    server_with(|config| config.presence.enabled = false).await
}

async fn after(user: &User, token: &str, rest: &str) -> Answer {
    user.get(&format!("{EVENTS}?from={token}&{rest}")).await
}

#[tokio::test]
async fn a_room_is_shown_with_its_newest_messages_and_its_state() {
    let (ann, bob) = quiet().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).with("visibility", "public").with("name", "Kitchen").await;
    for nth in 0..12 {
        ann.say(&room, &format!("soup {nth}")).await;
    }
    let tag = format!("/_matrix/client/v3/user/{}/rooms/{}/tags/u.food", ann.id, quoted(&room));
    ann.put(&tag, json!({})).await.ok();
    let shown = ann.room(&room, "initialSync?limit=2").await.ok();
    assert_eq!((text(&shown, "room_id"), text(&shown, "membership")), (room.as_str(), "join"));
    assert_eq!(bodies(&shown["messages"]["chunk"]), ["soup 10", "soup 11"]);
    assert_eq!(shown["messages"]["chunk"][0]["room_id"], room);
    assert_eq!((text(&shown, "visibility"), &shown["account_data"][0]["type"]), ("public", &json!("m.tag")));
    let state = shown["state"].as_array().expect("state");
    assert!(state.iter().any(|event| event["content"]["name"] == "Kitchen"));
    let start = text(&shown["messages"], "start");
    let earlier = ann.room(&room, &format!("messages?dir=b&limit=1&from={start}")).await.ok();
    assert_eq!(bodies(&earlier["chunk"]), ["soup 9"]);
    // Ten messages, unless one asks for another number.
    assert_eq!(bodies(&ann.room(&room, "initialSync").await.ok()["messages"]["chunk"]).len(), 10);
    bob.room(&room, "initialSync").await.is("403 M_FORBIDDEN");
    ann.room(&room, "initialSync?limit=many").await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn who_has_left_sees_the_room_as_it_was_then() {
    let (ann, bob) = quiet().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    ann.say(&room, "before").await;
    bob.leave(&room).await.ok();
    ann.say(&room, "after").await;
    ann.set(&room, "m.room.name", "", json!({ "name": "Secret" })).await.ok();
    let shown = bob.room(&room, "initialSync").await.ok();
    assert_eq!((text(&shown, "membership"), bodies(&shown["messages"]["chunk"])), ("leave", vec!["before".to_owned()]));
    assert!(!shown["state"].to_string().contains("Secret"));
    let all = bob.get(ALL).await.ok();
    assert_eq!(all["rooms"], json!([]));
    let all = bob.get(&format!("{ALL}?archived=true")).await.ok();
    assert_eq!(text(&all["rooms"][0], "membership"), "leave");
}

#[tokio::test]
async fn all_rooms_are_shown_and_then_followed() {
    let (ann, bob) = quiet().await.with_users("ann", "bob").await;
    let kitchen = ann.create_room().invite(&bob).await;
    bob.join(&kitchen).await.ok();
    ann.say(&kitchen, "soup").await;
    let cellar = ann.create_room().invite(&bob).await;
    let kept = format!("/_matrix/client/v3/user/{}/account_data/org.example", bob.id);
    bob.put(&kept, json!({ "a": 1 })).await.ok();
    let all = bob.get(&format!("{ALL}?limit=1")).await.ok();
    let of = |id: &str| all["rooms"].as_array().unwrap().iter().find(|room| room["room_id"] == id).unwrap();
    assert_eq!(bodies(&of(&kitchen)["messages"]["chunk"]), ["soup"]);
    assert_eq!(of(&cellar)["invite"]["content"]["membership"], "invite");
    assert!(all["account_data"].as_array().unwrap().iter().any(|data| data["type"] == "org.example"));
    let nothing = after(&bob, text(&all, "end"), "timeout=0").await.ok();
    assert_eq!(nothing["chunk"], json!([]));
    // Somebody waits, and hears it when it happens.
    let path = format!("{EVENTS}?from={}&timeout=30000", text(&nothing, "end"));
    let speaks = async {
        tokio::task::yield_now().await;
        ann.say(&kitchen, "bread").await;
    };
    let (heard, ()) = tokio::join!(bob.get(&path), speaks);
    let heard = heard.ok();
    assert_eq!((bodies(&heard["chunk"]), &heard["chunk"][0]["room_id"]), (vec!["bread".to_owned()], &json!(kitchen)));
    ann.kick(&kitchen, &bob).await.ok();
    ann.say(&kitchen, "he is gone").await;
    let end = after(&bob, text(&heard, "end"), "timeout=0").await.ok();
    assert_eq!(
        (end["chunk"].as_array().unwrap().len(), &end["chunk"][0]["content"]["membership"]),
        (1, &json!("leave"))
    );
}

#[tokio::test]
async fn a_long_stream_comes_in_parts_without_gaps() {
    let (ann, bob) = quiet().await.with_users("ann", "bob").await;
    let (kitchen, cellar) = (ann.create_room().invite(&bob).await, ann.create_room().invite(&bob).await);
    bob.join(&kitchen).await.ok();
    bob.join(&cellar).await.ok();
    let mut token = text(&bob.get(ALL).await.ok(), "end").to_owned();
    let mut said = Vec::new();
    for nth in 0..130 {
        let text = format!("{nth}");
        ann.say(if nth % 3 == 0 { &kitchen } else { &cellar }, &text).await;
        said.push(text);
    }
    let mut heard = Vec::new();
    for _ in 0..3 {
        let part = after(&bob, &token, "timeout=0").await.ok();
        heard.extend(bodies(&part["chunk"]));
        token = text(&part, "end").to_owned();
    }
    assert_eq!(heard, said);
}

#[tokio::test]
async fn typing_and_receipts_come_with_the_stream() {
    let (ann, bob) = quiet().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let event = ann.say(&room, "soup").await;
    let token = text(&ann.get(ALL).await.ok(), "end").to_owned();
    bob.put(&in_room(&room, &format!("typing/{}", bob.id)), json!({ "typing": true, "timeout": 10_000 })).await.ok();
    bob.post(&in_room(&room, &format!("receipt/m.read/{}", quoted(&event))), json!({})).await.ok();
    let heard = after(&ann, &token, "timeout=0").await.ok();
    let kinds: Vec<&str> = heard["chunk"].as_array().unwrap().iter().map(|event| text(event, "type")).collect();
    assert_eq!(kinds, ["m.typing", "m.receipt"]);
    assert!(heard["chunk"].as_array().unwrap().iter().all(|event| event["room_id"] == room));
}

#[tokio::test]
async fn the_world_may_follow_what_it_may_read() {
    let server = server_with(|config| {
        config.registration.guests = true;
        config.presence.enabled = false;
    })
    .await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let guest = server.with_guest().await;
    let secret = ann.create_room().await;
    let readable =
        json!([{ "type": "m.room.history_visibility", "content": { "history_visibility": "world_readable" } }]);
    let room = ann.create_room().with("initial_state", readable).await;
    let first = ann.say(&room, "one").await;
    for peeker in [&bob, &guest] {
        let shown = peeker.room(&room, "initialSync").await.ok();
        assert_eq!((shown.get("membership"), bodies(&shown["messages"]["chunk"])), (None, vec!["one".to_owned()]));
        assert_eq!(peeker.read(&room).await, ["one"]);
        for rest in ["state", "members", "state/m.room.create", &format!("context/{first}"), &format!("event/{first}")]
        {
            peeker.room(&room, rest).await.ok();
        }
        let end = text(&shown["messages"], "end").to_owned();
        let path = format!("{EVENTS}?room_id={}&timeout=30000&from={end}", quoted(&room));
        let speaks = async {
            tokio::task::yield_now().await;
            ann.say(&secret, "nobody hears this").await;
            ann.say(&room, "two").await;
        };
        let (heard, ()) = tokio::join!(peeker.get(&path), speaks);
        assert_eq!(bodies(&heard.ok()["chunk"]), ["two"]);
        ann.send(&room, "m.room.redaction", json!({ "redacts": ann.last(&room).await })).await;
    }
    bob.get(&format!("{EVENTS}?room_id={}&timeout=0", quoted(&secret))).await.is("403 M_FORBIDDEN");
    guest.get(&format!("{EVENTS}?timeout=0")).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
    guest.get(ALL).await.is("403 M_GUEST_ACCESS_FORBIDDEN");
    // What is said once the room is closed again, the world does not hear.
    let end = text(&bob.room(&room, "initialSync").await.ok()["messages"], "end").to_owned();
    ann.set(&room, "m.room.history_visibility", "", json!({ "history_visibility": "joined" })).await.ok();
    ann.say(&room, "among us").await;
    bob.get(&format!("{EVENTS}?room_id={}&timeout=0&from={end}", quoted(&room))).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn one_event_is_found_in_any_room_that_one_may_look_into() {
    let (ann, bob) = quiet().await.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let event = ann.say(&room, "soup").await;
    let path = format!("{EVENTS}/{}", quoted(&event));
    assert_eq!(ann.get(&path).await.ok()["room_id"], room);
    bob.get(&path).await.is("404 M_NOT_FOUND");
    ann.get(&format!("{EVENTS}/$nothing")).await.is("404 M_NOT_FOUND");
    ann.get(&format!("{EVENTS}/nothing")).await.is("400 M_INVALID_PARAM");
    ann.get(&format!("{EVENTS}?from=nonsense")).await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn who_is_there_is_told_as_well() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let status = format!("/_matrix/client/v3/presence/{}/status", bob.id);
    bob.put(&status, json!({ "presence": "online", "status_msg": "cooking" })).await.ok();
    let all = ann.get(ALL).await.ok();
    let of_bob = |events: &Value| {
        let mut events = events.as_array().into_iter().flatten();
        events.find(|event| event["sender"] == bob.id.as_str() && event["type"] == "m.presence").cloned()
    };
    assert_eq!(of_bob(&all["presence"]).expect("bob")["content"]["status_msg"], "cooking");
    let shown = ann.room(&room, "initialSync").await.ok();
    assert_eq!(of_bob(&shown["presence"]).expect("bob")["content"]["status_msg"], "cooking");
    bob.put(&status, json!({ "presence": "online", "status_msg": "eating" })).await.ok();
    let heard = after(&ann, text(&all, "end"), "timeout=0").await.ok();
    assert_eq!(of_bob(&heard["chunk"]).expect("bob")["content"]["status_msg"], "eating");
}
