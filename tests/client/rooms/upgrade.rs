//! Upgrades, spaces, summaries and reports.

use serde_json::{Value, json};

use crate::harness::{User, in_room, quoted, server};

#[tokio::test]
async fn a_room_is_replaced_by_one_of_another_version() {
    for (from, to) in [("10", "12"), ("12", "12"), ("12", "11")] {
        let (ann, bob) = server().await.with_users("ann", "bob").await;
        let room = ann
            .create_room()
            .with("room_version", from)
            .with("preset", "public_chat")
            .with("room_alias_name", "kitchen")
            .with("name", "Kitchen")
            .await;
        bob.join(&room).await.ok();
        let tags = format!("/_matrix/client/v3/user/{}/rooms/{}/tags", bob.id, quoted(&room));
        bob.put(&format!("{tags}/m.favourite"), json!({ "order": 0.5 })).await.ok();
        let upgrade = in_room(&room, "upgrade");
        bob.post(&upgrade, json!({ "new_version": to })).await.is("403 M_FORBIDDEN");
        ann.post(&upgrade, json!({ "new_version": "99" })).await.is("400 M_UNSUPPORTED_ROOM_VERSION");
        let answer = ann.post(&upgrade, json!({ "new_version": to })).await.ok();
        let new = answer["replacement_room"].as_str().unwrap();
        assert_eq!(ann.state(&room, "m.room.tombstone", "").await.ok()["replacement_room"], new);
        let create = ann.state(new, "m.room.create", "").await.ok();
        assert_eq!((&create["room_version"], &create["predecessor"]["room_id"]), (&json!(to), &json!(room)));
        assert_eq!(ann.state(new, "m.room.name", "").await.ok()["name"], "Kitchen");
        assert_eq!(ann.state(new, "m.room.canonical_alias", "").await.ok()["alias"], "#kitchen:localhost");
        bob.put(&in_room(&room, "send/m.room.message/1"), json!({ "body": "hello?" })).await.is("403 M_FORBIDDEN");
        bob.join("#kitchen:localhost").await.ok();
        bob.say(new, "hello").await;
        ann.set(new, "m.room.name", "", json!({ "name": "New kitchen" })).await.ok();
        let tags = tags.replace(&quoted(&room), &quoted(new));
        assert_eq!(bob.get(&tags).await.ok()["tags"]["m.favourite"]["order"], 0.5);
    }
}

async fn hierarchy(user: &User, space: &str, query: &str) -> Value {
    user.get(&format!("/_matrix/client/v1/rooms/{}/hierarchy{query}", quoted(space))).await.ok()
}

fn names(page: &Value) -> Vec<&str> {
    page["rooms"].as_array().into_iter().flatten().filter_map(|room| room["name"].as_str()).collect()
}

#[tokio::test]
async fn a_space_is_walked_from_the_top_down() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let space = |name: &str| {
        ann.create_room()
            .with("preset", "public_chat")
            .with("name", name)
            .with("creation_content", json!({ "type": "m.space" }))
    };
    let (top, below) = (space("Top").await, space("Below").await);
    let first = ann.create_room().with("preset", "public_chat").with("name", "First").await;
    let deep = ann.create_room().with("preset", "public_chat").with("name", "Deep").await;
    let secret = ann.create_room().with("name", "Secret").await;
    for (parent, child, order, suggested) in [
        (&top, &below, "b", false),
        (&top, &first, "a", true),
        (&top, &secret, "c", false),
        (&below, &deep, "a", false),
        (&below, &top, "b", false),
    ] {
        let content = json!({ "via": ["localhost"], "order": order, "suggested": suggested });
        ann.set(parent, "m.space.child", child, content).await.ok();
    }
    assert_eq!(names(&hierarchy(&ann, &top, "").await), ["Top", "First", "Below", "Deep", "Secret"]);
    let seen = hierarchy(&bob, &top, "").await;
    assert_eq!(names(&seen), ["Top", "First", "Below", "Deep"]);
    assert_eq!(seen["rooms"][0]["children_state"][0]["state_key"], first);
    assert!(seen["rooms"][0]["children_state"][0]["origin_server_ts"].is_u64());
    assert_eq!(names(&hierarchy(&bob, &top, "?max_depth=1").await), ["Top", "First", "Below"]);
    assert_eq!(names(&hierarchy(&bob, &top, "?suggested_only=true").await), ["Top", "First"]);
    let page = hierarchy(&bob, &top, "?limit=3").await;
    let next = page["next_batch"].as_str().unwrap();
    assert_eq!(names(&hierarchy(&bob, &top, &format!("?limit=3&from={next}")).await), ["Deep"]);
    let other = format!("/_matrix/client/v1/rooms/{}/hierarchy?max_depth=1&from={next}", quoted(&top));
    bob.get(&other).await.is("400 M_INVALID_PARAM");
    bob.get(&format!("/_matrix/client/v1/rooms/{}/hierarchy", quoted(&secret))).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn a_summary_is_for_those_who_may_come_in() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let open = ann.create_room().with("preset", "public_chat").with("name", "Open").await;
    let closed = ann.create_room().with("name", "Closed").await;
    let path = |room: &str| format!("/_matrix/client/v1/room_summary/{}", quoted(room));
    let seen = server.get(&path(&open)).await.ok();
    assert_eq!(
        (&seen["name"], &seen["join_rule"], &seen["membership"]),
        (&json!("Open"), &json!("public"), &Value::Null)
    );
    assert_eq!(ann.get(&path(&closed)).await.ok()["membership"], "join");
    bob.get(&path(&closed)).await.is("404 M_NOT_FOUND");
    server.get(&path("!nowhere:localhost")).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn people_find_events_by_time_and_each_other_by_name() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let start = server.ctx.clock.now();
    let mut said = Vec::new();
    for n in 0..4 {
        server.later(std::time::Duration::from_secs(60));
        said.push(ann.say(&room, &n.to_string()).await);
    }
    let at = |time: u64, dir: &str| {
        format!("/_matrix/client/v1/rooms/{}/timestamp_to_event?ts={time}&dir={dir}", quoted(&room))
    };
    assert_eq!(bob.get(&at(start + 61_000, "f")).await.ok()["event_id"], said[1]);
    assert_eq!(bob.get(&at(start + 61_000, "b")).await.ok()["event_id"], said[0]);
    assert_eq!(bob.get(&at(start + 120_000, "b")).await.ok()["event_id"], said[1]);
    bob.get(&at(start + 999_000_000, "f")).await.is("404 M_NOT_FOUND");
    let found = bob.post("/_matrix/client/v3/user_directory/search", json!({ "search_term": "AN" })).await.ok();
    assert_eq!((&found["results"][0]["user_id"], &found["limited"]), (&json!(ann.id), &json!(false)));
    let mutual = bob.get(&format!("/_matrix/client/v1/mutual_rooms?user_id={}", quoted(ann.id.as_str()))).await.ok();
    assert_eq!(mutual, json!({ "count": 1, "joined": [room] }));
}

#[tokio::test]
async fn what_is_wrong_is_told_to_the_admins() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let event = ann.say(&room, "rude").await;
    let before = server.trace();
    bob.post(&in_room(&room, &format!("report/{event}")), json!({ "reason": "rude" })).await.is("404 M_NOT_FOUND");
    ann.post(&in_room(&room, "report"), json!({ "reason": "x".repeat(5000) })).await.is("413 M_TOO_LARGE");
    ann.post(&in_room("!nowhere:localhost", "report"), json!({ "reason": "?" })).await.is("404 M_NOT_FOUND");
    assert_eq!(server.trace(), before);
    ann.post(&in_room(&room, &format!("report/{event}")), json!({ "reason": "rude" })).await.ok();
    bob.post(&format!("/_matrix/client/v3/users/{}/report", ann.id), json!({ "reason": "rude" })).await.ok();
    let reports = server.ctx.store.scan(ingle::store::schema::rooms::REPORTS, &());
    let reports: Vec<_> = reports.map(|row| row.expect("a report").1).collect();
    assert_eq!(reports.len(), 2);
    assert!(reports.iter().all(|report| report.user.as_ref() == Some(&ann.id) && report.reason == "rude"));
}
