//! Finding what is on other servers: rooms in their directories, spaces, summaries, aliases, people.

use http::Method;
use serde_json::{Value, json};

use crate::harness::{User, network, quoted};

fn names(answer: &Value, list: &str) -> Vec<String> {
    let rooms = answer[list].as_array().expect("a list of rooms");
    rooms.iter().map(|room| room["name"].as_str().unwrap_or("?").to_owned()).collect()
}

/// A room that other servers find by its ID alone, because that names its server.
async fn room(user: &User, name: &str, preset: &str) -> String {
    user.create_room().with("room_version", "11").with("name", name).with("preset", preset).await
}

async fn space(user: &User, name: &str) -> String {
    let space = user.create_room().with("room_version", "11").with("name", name).with("preset", "public_chat");
    space.with("creation_content", json!({ "type": "m.space" })).await
}

async fn add(user: &User, space: &str, child: &str, order: &str, via: &str) {
    user.set(space, "m.space.child", child, json!({ "via": [via], "order": order })).await.ok();
}

#[tokio::test]
async fn the_directory_of_another_server_is_shown_if_that_allows_it() {
    let network = network();
    let a = network.server_with("a.example", |config| config.directory.allow_over_federation = true).await;
    let b = network.server("b.example").await;
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    for name in ["Cooking", "Chess"] {
        ann.create_room().with("name", name).with("preset", "public_chat").with("visibility", "public").await;
    }
    let path = "/_matrix/client/v3/publicRooms?limit=1&server=a.example";
    let first = bob.get(path).await.ok();
    let next = first["next_batch"].as_str().expect("there is more");
    let second = bob.get(&format!("{path}&since={next}")).await.ok();
    let mut all = [names(&first, "chunk"), names(&second, "chunk")].concat();
    all.sort();
    assert_eq!(all, ["Chess", "Cooking"]);
    let search = json!({ "filter": { "generic_search_term": "chess" } });
    let found = bob.post("/_matrix/client/v3/publicRooms?server=a.example", search).await.ok();
    assert_eq!(names(&found, "chunk"), ["Chess"]);
    ann.get("/_matrix/client/v3/publicRooms?server=b.example").await.is("403 M_FORBIDDEN");
    network.away(&a);
    bob.get(path).await.is("502 M_UNKNOWN");
}

#[tokio::test]
async fn rooms_that_are_not_for_a_server_are_not_shown_to_it() {
    let network = network();
    let a = network.server_with("a.example", |config| config.directory.allow_over_federation = true).await;
    let (b, c) = (network.server("b.example").await, network.server("c.example").await);
    let ann = a.with_user("ann").await;
    let top = space(&ann, "Top").await;
    let listed = |name| ann.create_room().with("name", name).with("preset", "public_chat").with("visibility", "public");
    let open = listed("Open").await;
    let local = listed("Local").with("creation_content", json!({ "m.federate": false })).await;
    let guarded = listed("Guarded").await;
    let acl = json!({ "allow": ["*"], "deny": ["b.example"] });
    ann.set(&guarded, "m.room.server_acl", "", acl).await.ok();
    for (order, child) in [("1", &open), ("2", &local), ("3", &guarded)] {
        add(&ann, &top, child, order, "a.example").await;
    }
    let hierarchy = format!("/_matrix/federation/v1/hierarchy/{}", quoted(&top));
    let search = json!({ "filter": { "generic_search_term": "l" } });
    for (server, expected) in [(&b, &["Open"][..]), (&c, &["Guarded", "Open"])] {
        let list = server.ask_server(&a, Method::GET, "/_matrix/federation/v1/publicRooms", None).await.ok();
        let mut found = names(&list, "chunk");
        found.sort();
        assert_eq!(found, expected);
        assert_eq!(list["total_room_count_estimate"], expected.len());
        let uri = "/_matrix/federation/v1/publicRooms";
        let none = server.ask_server(&a, Method::POST, uri, Some(search.clone())).await.ok();
        assert_eq!(names(&none, "chunk"), Vec::<String>::new());
        let shown = server.ask_server(&a, Method::GET, &hierarchy, None).await.ok();
        let mut found = names(&shown, "children");
        found.sort();
        assert_eq!(found, expected);
    }
    assert_eq!(ann.get("/_matrix/client/v3/publicRooms").await.ok()["total_room_count_estimate"], 3);
    let uri = format!("/_matrix/federation/v1/hierarchy/{}", quoted(&local));
    c.ask_server(&a, Method::GET, &uri, None).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn a_space_is_walked_across_servers() {
    let network = network();
    let (a, b, c) =
        (network.server("a.example").await, network.server("b.example").await, network.server("c.example").await);
    let (ann, bob, eve) = (a.with_user("ann").await, b.with_user("bob").await, c.with_user("eve").await);
    let (top, below) = (space(&ann, "Top").await, space(&eve, "Below").await);
    let open = room(&ann, "Open", "public_chat").await;
    let secret = room(&ann, "Secret", "private_chat").await;
    let deep = room(&eve, "Deep", "public_chat").await;
    let own = room(&bob, "Own", "private_chat").await;
    add(&ann, &top, &open, "1", "a.example").await;
    add(&ann, &top, &secret, "2", "a.example").await;
    add(&ann, &top, &below, "3", "c.example").await;
    add(&ann, &top, &own, "4", "b.example").await;
    add(&eve, &below, &deep, "1", "c.example").await;
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", quoted(&top));
    // Bob is in a room of the space, and in none of the others.
    let seen = bob.get(&path).await.ok();
    assert_eq!(names(&seen, "rooms"), ["Top", "Open", "Below", "Deep", "Own"]);
    assert_eq!(seen["rooms"][0]["children_state"].as_array().map(Vec::len), Some(4));
    // Page by page, and from what was heard before.
    network.away(&a);
    network.away(&c);
    let first = bob.get(&format!("{path}?limit=3")).await.ok();
    let next = first["next_batch"].as_str().expect("there is more");
    let second = bob.get(&format!("{path}?limit=3&from={next}")).await.ok();
    assert_eq!(names(&first, "rooms"), ["Top", "Open", "Below"]);
    assert_eq!(names(&second, "rooms"), ["Deep", "Own"]);
    bob.get(&format!("/_matrix/client/v1/rooms/{}/hierarchy", quoted(&secret))).await.is("403 M_FORBIDDEN");
}

#[tokio::test]
async fn a_server_is_shown_only_what_its_users_may_know_of() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let top = space(&ann, "Top").await;
    let (secret, guests) = (room(&ann, "Secret", "private_chat").await, room(&ann, "Guests", "private_chat").await);
    let allow = json!([{ "type": "m.room_membership", "room_id": guests }]);
    let members = room(&ann, "Members", "private_chat").await;
    ann.set(&members, "m.room.join_rules", "", json!({ "join_rule": "restricted", "allow": allow })).await.ok();
    for (order, child) in [("1", &secret), ("2", &guests), ("3", &members)] {
        add(&ann, &top, child, order, "a.example").await;
    }
    let uri = format!("/_matrix/federation/v1/hierarchy/{}", quoted(&top));
    let shown = b.ask_server(&a, Method::GET, &uri, None).await.ok();
    assert_eq!(shown["children"], json!([]));
    assert_eq!(shown["inaccessible_children"], json!([secret, guests, members]));
    ann.invite(&guests, &bob).await.ok();
    let shown = b.ask_server(&a, Method::GET, &uri, None).await.ok();
    assert_eq!(names(&shown, "children"), ["Guests"]);
    bob.join_via(&guests, &a).await.ok();
    let shown = b.ask_server(&a, Method::GET, &uri, None).await.ok();
    assert_eq!(names(&shown, "children"), ["Guests", "Members"]);
    let alone = format!("/_matrix/federation/v1/hierarchy/{}", quoted(&secret));
    b.ask_server(&a, Method::GET, &alone, None).await.is("404 M_NOT_FOUND");
    // Whoever is in one of the rooms that let in sees the other one, too.
    let path = format!("/_matrix/client/v1/rooms/{}/hierarchy", quoted(&top));
    assert_eq!(names(&bob.get(&path).await.ok(), "rooms"), ["Top", "Guests", "Members"]);
    let late = b.with_user("late").await;
    assert_eq!(names(&late.get(&path).await.ok(), "rooms"), ["Top"]);
}

#[tokio::test]
async fn the_summary_of_a_room_elsewhere_is_asked_for() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let open =
        ann.create_room().with("name", "Open").with("preset", "public_chat").with("room_alias_name", "open").await;
    let path = |room: &str, via: &str| format!("/_matrix/client/v1/room_summary/{}{via}", quoted(room));
    let summary = bob.get(&path("#open:a.example", "")).await.ok();
    assert_eq!((&summary["room_id"], &summary["membership"]), (&json!(open), &json!("leave")));
    // A room of version 12 names no server.
    bob.get(&path(&open, "?via=a.example")).await.ok();
    b.with_user("other").await.get(&path("!nowhere", "")).await.is("404 M_NOT_FOUND");
    b.get(&path("!other:a.example", "")).await.is("404 M_NOT_FOUND");
    let secret = room(&ann, "Secret", "private_chat").await;
    bob.get(&path(&secret, "")).await.is("404 M_NOT_FOUND");
    b.ctx.clock.advance(std::time::Duration::from_secs(120));
    ann.invite(&secret, &bob).await.ok();
    let summary = bob.get(&path(&secret, "")).await.ok();
    assert_eq!((&summary["name"], &summary["membership"]), (&json!("Secret"), &json!("invite")));
}

#[tokio::test]
async fn servers_ask_each_other_about_aliases_and_people() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let (ann, bob) = (a.with_user("ann").await, b.with_user("bob").await);
    let room = ann.create_room().with("preset", "public_chat").with("room_alias_name", "open").await;
    ann.put(&format!("/_matrix/client/v3/profile/{}/displayname", ann.id), json!({ "displayname": "Ann" })).await.ok();
    let ask =
        async |query: &str| b.ask_server(&a, Method::GET, &format!("/_matrix/federation/v1/query/{query}"), None).await;
    let found = ask("directory?room_alias=%23open:a.example").await.ok();
    assert_eq!(found, json!({ "room_id": room, "servers": ["a.example"] }));
    ask("directory?room_alias=%23none:a.example").await.is("404 M_NOT_FOUND");
    ask("directory?room_alias=%23open:b.example").await.is("404 M_NOT_FOUND");
    ask("directory?room_alias=open").await.is("400 M_INVALID_PARAM");
    ask("directory").await.is("400 M_MISSING_PARAM");
    ask("weather?room_alias=%23open:a.example").await.is("404 M_UNRECOGNIZED");
    assert_eq!(ask("profile?user_id=@ann:a.example").await.ok(), json!({ "displayname": "Ann" }));
    assert_eq!(ask("profile?user_id=@ann:a.example&field=displayname").await.ok(), json!({ "displayname": "Ann" }));
    assert_eq!(ask("profile?user_id=@ann:a.example&field=avatar_url").await.ok(), json!({}));
    ask("profile?user_id=@nobody:a.example").await.is("404 M_NOT_FOUND");
    ask("profile?user_id=@bob:b.example").await.is("404 M_NOT_FOUND");
    ask("profile?user_id=ann").await.is("400 M_INVALID_PARAM");
    let path = format!("/_matrix/client/v3/profile/{}", ann.id);
    assert_eq!(bob.get(&path).await.ok()["displayname"], "Ann");
    bob.get("/_matrix/client/v3/profile/@nobody:a.example").await.is("404 M_NOT_FOUND");
    ann.post("/_matrix/client/v3/account/deactivate", json!({ "auth": ann.proof(), "erase": true })).await.ok();
    ask("profile?user_id=@ann:a.example").await.is("404 M_NOT_FOUND");
    bob.get(&path).await.is("404 M_NOT_FOUND");
    network.away(&a);
    bob.get(&path).await.is("502 M_UNKNOWN");
}

#[tokio::test]
async fn a_profile_without_end_is_not_read() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let ann = a.with_user("ann").await;
    let path = "/_matrix/federation/v1/query/profile?user_id=%40bob%3Ab.example";
    let long = json!({ "displayname": "Bob", "org.example.more": "x".repeat(200_000) });
    network.answers(&b, path, move |_| (http::StatusCode::OK, long.clone()));
    ann.get("/_matrix/client/v3/profile/@bob:b.example").await.is("502 M_UNKNOWN");
}
