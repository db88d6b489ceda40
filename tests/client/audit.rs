//! Small print: what the specification says of single fields, errors and limits.

use serde_json::{Value, json};

use crate::harness::{User, in_room, quoted, server, server_with};

#[tokio::test]
async fn somebody_types_for_a_while_even_without_saying_how_long() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().invite(&bob).await;
    bob.join(&room).await.ok();
    let path = in_room(&room, &format!("typing/{}", ann.id));
    ann.put(&path, json!({ "typing": true })).await.ok();
    let typing =
        |answer: &Value| answer["rooms"]["join"][&room]["ephemeral"]["events"][0]["content"]["user_ids"].clone();
    assert_eq!(typing(&bob.get("/_matrix/client/v3/sync").await.ok()), json!([ann.id]));
    ann.put(&path, json!({})).await.is("400 M_BAD_JSON");
    ann.put(&path, json!({ "typing": "yes" })).await.is("400 M_BAD_JSON");
    bob.put(&path, json!({ "typing": true })).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn values_that_cannot_be_are_refused() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let v1 = format!("/_matrix/client/v1/rooms/{}", quoted(&room));
    for path in [
        in_room(&room, "members?membership=guest"),
        in_room(&room, "members?not_membership=guest"),
        in_room(&room, "members?at=nonsense"),
        in_room(&room, "state/m.room.create?format=poem"),
        in_room(&room, "messages?dir=up"),
        in_room(&room, "messages?dir=b&limit=-1"),
        in_room(&room, "messages?dir=b&from=nonsense"),
        in_room(&room, "context/$event?limit=many"),
        format!("{v1}/threads?include=some"),
        format!("{v1}/threads?limit=0"),
        format!("{v1}/threads?from=nonsense"),
        format!("{v1}/hierarchy?limit=0"),
        format!("{v1}/hierarchy?from=nonsense"),
        format!("{v1}/timestamp_to_event?ts=now&dir=f"),
        format!("{v1}/timestamp_to_event?ts=1&dir=up"),
        "/_matrix/client/v1/mutual_rooms".to_owned(),
        "/_matrix/client/v1/mutual_rooms?user_id=bob".to_owned(),
        format!("/_matrix/client/v1/mutual_rooms?user_id={}", ann.id),
        format!("/_matrix/client/v1/mutual_rooms?user_id={}&from=x", bob.id),
        "/_matrix/client/v1/mutual_rooms?user_id=%40B%C3%B6b%3Alocalhost".to_owned(),
        "/_matrix/client/v3/publicRooms?since=nonsense".to_owned(),
        "/_matrix/client/v3/keys/changes?from=a&to=b".to_owned(),
        "/_matrix/client/v3/directory/room/kitchen".to_owned(),
    ] {
        let answer = ann.get(&path).await;
        assert_eq!(answer.summary(), "400 M_INVALID_PARAM", "{path}: {}", answer.json);
    }
    for path in [in_room(&room, "messages"), format!("{v1}/timestamp_to_event?dir=f")] {
        ann.get(&path).await.is("400 M_MISSING_PARAM");
    }
    let nobody = ann.get("/_matrix/client/v1/mutual_rooms?user_id=%40nobody%3Alocalhost").await.ok();
    assert_eq!(nobody, json!({ "joined": [], "count": 0 }));
}

#[tokio::test]
async fn who_may_not_look_gets_the_right_refusal() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let event = ann.say(&room, "secret").await;
    let v1 = format!("/_matrix/client/v1/rooms/{}", quoted(&room));
    let id = quoted(&event);
    for rest in
        ["state", "state/m.room.create", "members", "joined_members", "messages?dir=b", "aliases", "initialSync"]
    {
        bob.room(&room, rest).await.is("403 M_FORBIDDEN");
        bob.room("!nowhere:localhost", rest).await.is("403 M_FORBIDDEN");
    }
    for path in [format!("{v1}/hierarchy"), format!("{v1}/threads"), format!("{v1}/timestamp_to_event?ts=1&dir=f")] {
        bob.get(&path).await.is("403 M_FORBIDDEN");
    }
    for path in [
        in_room(&room, &format!("event/{id}")),
        in_room(&room, &format!("context/{id}")),
        format!("{v1}/relations/{id}"),
        format!("{v1}/relations/{id}/m.thread"),
        format!("/_matrix/client/v1/room_summary/{}", quoted(&room)),
    ] {
        bob.get(&path).await.is("404 M_NOT_FOUND");
    }
    ann.room(&room, "event/$nothing").await.is("404 M_NOT_FOUND");
    ann.room(&room, "state/m.room.name").await.is("404 M_NOT_FOUND");
    ann.room(&room, "state/m.room.name/").await.is("404 M_NOT_FOUND");
    ann.get(&format!("{v1}/relations/$nothing")).await.is("404 M_NOT_FOUND");
    // What is not of this room is not found in it.
    let other = ann.create_room().await;
    ann.room(&other, &format!("event/{id}")).await.is("404 M_NOT_FOUND");
    ann.put(&in_room(&other, &format!("redact/{id}/1")), json!({})).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn state_keys_may_hold_anything() {
    let ann = server().await.with_user("ann").await;
    let room = ann.create_room().await;
    for key in ["", "a/b", "//", " ", "ü%2F", "?x=1#y", "."] {
        ann.set(&room, "org.example", key, json!({ "key": key })).await.ok();
        assert_eq!(ann.state(&room, "org.example", key).await.ok()["key"], key, "{key:?}");
        let whole = ann.get(&in_room(&room, &format!("state/org.example/{}?format=event", quoted(key)))).await.ok();
        assert_eq!((&whole["state_key"], &whole["room_id"]), (&json!(key), &json!(room)));
    }
    ann.put(&in_room(&room, "state/org.example/"), json!({ "key": "new" })).await.ok();
    assert_eq!(ann.room(&room, "state/org.example").await.ok()["key"], "new");
    let odd = quoted("a/b c");
    ann.put(&in_room(&room, &format!("state/{odd}/k")), json!({ "odd": 1 })).await.ok();
    assert_eq!(ann.room(&room, &format!("state/{odd}/k")).await.ok()["odd"], 1);
}

#[tokio::test]
async fn aliases_are_checked_before_they_are_announced() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let (room, other) = (ann.create_room().await, ann.create_room().with("room_alias_name", "cellar").await);
    let announce = |content: Value| {
        let (ann, room) = (ann.clone(), room.clone());
        async move { ann.set(&room, "m.room.canonical_alias", "", content).await }
    };
    announce(json!({ "alias": "#kitchen:localhost" })).await.is("400 M_BAD_ALIAS");
    announce(json!({ "alias": "#cellar:localhost" })).await.is("400 M_BAD_ALIAS");
    announce(json!({ "alt_aliases": ["#cellar:localhost"] })).await.is("400 M_BAD_ALIAS");
    announce(json!({ "alias": "#kitchen:elsewhere.org" })).await.is("400 M_BAD_ALIAS");
    announce(json!({ "alias": "kitchen" })).await.is("400 M_INVALID_PARAM");
    announce(json!({ "alias": 1 })).await.is("400 M_INVALID_PARAM");
    announce(json!({ "alt_aliases": "#kitchen:localhost" })).await.is("400 M_INVALID_PARAM");
    ann.put("/_matrix/client/v3/directory/room/%23kitchen:localhost", json!({ "room_id": room })).await.ok();
    announce(json!({ "alias": "#kitchen:localhost", "alt_aliases": ["#kitchen:localhost"] })).await.ok();
    // What stands there already may stay, also if the name is gone.
    ann.delete("/_matrix/client/v3/directory/room/%23kitchen:localhost", json!({})).await.ok();
    bob.set(&other, "m.room.canonical_alias", "", json!({})).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn coming_and_going_follows_the_rules() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let cem = server.with_user("cem").await;
    let room = ann.create_room().invite(&bob).await;
    let unban = |target: &User| {
        let (ann, room, target) = (ann.clone(), room.clone(), target.id.clone());
        async move { ann.post(&in_room(&room, "unban"), json!({ "user_id": target })).await }
    };
    bob.post(&in_room(&room, "forget"), json!({})).await.is("400 M_UNKNOWN");
    bob.join(&room).await.ok();
    bob.post(&in_room(&room, "forget"), json!({})).await.is("400 M_UNKNOWN");
    ann.invite(&room, &bob).await.is("403 M_FORBIDDEN");
    bob.invite(&room, &cem).await.ok();
    bob.kick(&room, &ann).await.is("403 M_FORBIDDEN");
    bob.ban(&room, &cem).await.is("403 M_FORBIDDEN");
    cem.kick(&room, &bob).await.is("403 M_FORBIDDEN");
    unban(&bob).await.is("403 M_BAD_STATE");
    ann.ban(&room, &bob).await.ok();
    ann.ban(&room, &bob).await.ok();
    bob.join(&room).await.is("403 M_FORBIDDEN");
    ann.invite(&room, &bob).await.is("403 M_FORBIDDEN");
    ann.kick(&room, &bob).await.is("403 M_FORBIDDEN");
    bob.leave(&room).await.is("403 M_FORBIDDEN");
    unban(&bob).await.ok();
    bob.join(&room).await.is("403 M_FORBIDDEN");
    ann.invite(&room, &bob).await.ok();
    bob.leave(&room).await.ok();
    bob.post(&in_room(&room, "forget"), json!({})).await.ok();
    bob.post(&in_room(&room, "forget"), json!({})).await.ok();
    bob.room(&room, "messages?dir=b").await.is("403 M_FORBIDDEN");
    for verb in ["kick", "ban", "unban"] {
        ann.post(&in_room(&room, verb), json!({})).await.is("400 M_BAD_JSON");
        ann.post(&in_room(&room, verb), json!({ "user_id": "bob" })).await.is("400 M_BAD_JSON");
        ann.post(&in_room("!nowhere:localhost", verb), json!({ "user_id": bob.id })).await.is("403 M_FORBIDDEN");
    }
    ann.join("!nowhere:localhost").await.is("404 M_NOT_FOUND");
    ann.join("#nowhere:localhost").await.is("404 M_NOT_FOUND");
    ann.join("nowhere").await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn people_are_found_who_can_be_met() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let (cem, dot) = server.with_users("cem", "dot").await;
    let search = |who: &User, term: &str| {
        let (who, body) = (who.clone(), json!({ "search_term": term, "limit": 5 }));
        async move {
            let found = who.post("/_matrix/client/v3/user_directory/search", body).await.ok();
            let ids = found["results"].as_array().unwrap().iter().map(|person| person["user_id"].clone());
            ids.collect::<Vec<_>>()
        }
    };
    assert_eq!(search(&ann, "bob").await, [Value::Null; 0]);
    let shared = ann.create_room().invite(&bob).await;
    assert_eq!(search(&ann, "bob").await, [Value::Null; 0], "an invitation is no meeting");
    bob.join(&shared).await.ok();
    assert_eq!(search(&ann, "BO").await, [json!(bob.id)]);
    let name = format!("/_matrix/client/v3/profile/{}/displayname", bob.id);
    bob.put(&name, json!({ "displayname": "Robert Kitchen" })).await.ok();
    assert_eq!(search(&ann, "kit").await, [json!(bob.id)]);
    assert_eq!(search(&ann, "itchen").await, [Value::Null; 0]);
    let open = cem.create_room().with("preset", "public_chat").await;
    assert_eq!(search(&ann, "cem").await, [json!(cem.id)]);
    cem.set(&open, "m.room.join_rules", "", json!({ "join_rule": "invite" })).await.ok();
    assert_eq!(search(&ann, "cem").await, [Value::Null; 0]);
    cem.set(&open, "m.room.history_visibility", "", json!({ "history_visibility": "world_readable" })).await.ok();
    assert_eq!(search(&ann, "cem").await, [json!(cem.id)]);
    assert_eq!(search(&ann, "dot").await, [Value::Null; 0]);
    assert_eq!(search(&dot, "bob").await, [Value::Null; 0]);
    let house = server_with(|config| config.directory.find_everyone = true).await;
    let (ann, bob) = house.with_users("ann", "bob").await;
    assert_eq!(search(&ann, "bob").await, [json!(bob.id)]);
}

#[tokio::test]
async fn a_device_is_not_called_like_a_key() {
    let ann = server().await.with_user("ann").await;
    let key = "Y5bDQiKMKWMrqsRZFIeF3JGTcEfGnDBq5rUBgtfU1Ac";
    let master = json!({ "user_id": ann.id, "usage": ["master"], "keys": { format!("ed25519:{key}"): key } });
    ann.post("/_matrix/client/v3/keys/device_signing/upload", json!({ "master_key": master })).await.ok();
    let mut login = ann.proof();
    login["device_id"] = key.into();
    ann.server.post("/_matrix/client/v3/login", login).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn profiles_have_limits_and_keep_what_clients_put_there() {
    let ann = server().await.with_user("ann").await;
    let path = |field: &str| format!("/_matrix/client/v3/profile/{}/{field}", ann.id);
    ann.put(&path("org.example.field"), json!({ "org.example.field": null })).await.ok();
    assert_eq!(ann.get(&path("org.example.field")).await.ok(), json!({ "org.example.field": null }));
    ann.put(&path("org.example.field"), json!({ "other": 1 })).await.is("400 M_MISSING_PARAM");
    ann.put(&path("org.example.field"), json!({ "org.example.field": "x".repeat(70_000) }))
        .await
        .is("400 M_PROFILE_TOO_LARGE");
    ann.put(&path(&format!("a.{}", "b".repeat(300))), json!({})).await.is("400 M_KEY_TOO_LARGE");
    ann.put(&path("Field"), json!({ "Field": 1 })).await.is("400 M_INVALID_PARAM");
    ann.put(&path("m.tz"), json!({ "m.tz": 1 })).await.is("400 M_BAD_JSON");
    ann.delete(&path("org.example.nothing"), json!({})).await.ok();
    ann.delete(&path("org.example.field"), json!({})).await.ok();
    ann.get(&path("org.example.field")).await.is("404 M_NOT_FOUND");
    ann.put(&path("displayname"), json!({ "displayname": null })).await.ok();
    ann.get(&path("displayname")).await.is("404 M_NOT_FOUND");
    ann.get("/_matrix/client/v3/profile/@nobody:localhost").await.is("404 M_NOT_FOUND");
    ann.get("/_matrix/client/v3/profile/nobody").await.is("400 M_INVALID_PARAM");
    ann.put("/_matrix/client/v3/profile/@bob:localhost/displayname", json!({ "displayname": "B" }))
        .await
        .is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn a_transaction_belongs_to_a_device_and_an_endpoint() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    let room = ann.create_room().await;
    let send = |who: &User, rest: &str, content: Value| {
        let (who, path) = (who.clone(), in_room(&room, rest));
        async move { who.put(&path, content).await.ok()["event_id"].as_str().expect("an ID").to_owned() }
    };
    let one = send(&ann, "send/m.room.message/1", json!({ "body": "a" })).await;
    assert_eq!(send(&ann, "send/m.room.message/1", json!({ "body": "b" })).await, one);
    assert_ne!(send(&phone, "send/m.room.message/1", json!({ "body": "a" })).await, one);
    assert_ne!(send(&ann, "send/org.example/1", json!({ "body": "a" })).await, one);
    let redact = format!("redact/{}/1", quoted(&one));
    let redaction = send(&ann, &redact, json!({})).await;
    assert_eq!(send(&ann, &redact, json!({})).await, redaction);
    let long = in_room(&room, &format!("send/m.room.message/{}", "t".repeat(300)));
    ann.put(&long, json!({})).await.is("400 M_INVALID_PARAM");
}

#[tokio::test]
async fn reports_say_why_where_they_must() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let room = ann.create_room().await;
    let event = ann.say(&room, "rude").await;
    ann.post(&in_room(&room, &format!("report/{}", quoted(&event))), json!({})).await.ok();
    // Before version 1.14 of the specification it could be left out here.
    ann.post(&in_room(&room, "report"), json!({})).await.ok();
    ann.post(&format!("/_matrix/client/v3/users/{}/report", bob.id), json!({})).await.is("400 M_BAD_JSON");
    ann.post(&in_room(&room, &format!("report/{}", quoted(&event))), json!({ "reason": 1 })).await.is("400 M_BAD_JSON");
}
