//! The directory of public rooms.

use serde_json::{Value, json};

use crate::harness::{Answer, quoted, server, server_with};

const ROOMS: &str = "/_matrix/client/v3/publicRooms";

fn names(answer: &Value) -> Vec<&str> {
    answer["chunk"].as_array().into_iter().flatten().filter_map(|room| room["name"].as_str()).collect()
}

#[tokio::test]
async fn rooms_are_found_by_text_and_type_page_by_page() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let public = |name: &str| ann.create_room().with("visibility", "public").with("name", name);
    let garden = public("Garden").with("topic", "Tomatoes").with("room_alias_name", "garden").await;
    let house = public("House").with("creation_content", json!({ "type": "m.space" })).await;
    public("Attic").await;
    ann.create_room().with("name", "Secret").await;
    bob.join(&garden).await.ok();
    bob.join(&house).await.ok();
    let search = async |body: Value| -> Answer { bob.post(ROOMS, body).await };
    let all = search(json!({})).await.ok();
    assert_eq!(names(&all).last(), Some(&"Attic"), "the largest come first");
    assert_eq!(all["total_room_count_estimate"], 3);
    let found = search(json!({ "filter": { "generic_search_term": "tomat" } })).await.ok();
    assert_eq!(names(&found), ["Garden"]);
    let room = &found["chunk"][0];
    assert_eq!((&room["room_id"], &room["num_joined_members"]), (&json!(garden), &json!(2)));
    assert_eq!((&room["world_readable"], &room["guest_can_join"]), (&json!(false), &json!(false)));
    assert_eq!(room["canonical_alias"], "#garden:localhost");
    assert_eq!(names(&search(json!({ "filter": { "room_types": ["m.space"] } })).await.ok()), ["House"]);
    assert_eq!(names(&search(json!({ "filter": { "room_types": [null] } })).await.ok()), ["Garden", "Attic"]);
    let first = bob.get(&format!("{ROOMS}?limit=2")).await.ok();
    let next = bob.get(&format!("{ROOMS}?limit=2&since={}", first["next_batch"].as_str().unwrap())).await.ok();
    assert_eq!(names(&next), ["Attic"]);
    assert!(next["next_batch"].is_null());
    let back = bob.get(&format!("{ROOMS}?limit=2&since={}", next["prev_batch"].as_str().unwrap())).await.ok();
    assert_eq!(names(&back), names(&first));
    search(json!({ "since": "nonsense" })).await.is("400 M_INVALID_PARAM");
    search(json!({ "limit": "many" })).await.is("400 M_BAD_JSON");
}

#[tokio::test]
async fn strangers_see_the_directory_if_the_configuration_says_so() {
    let closed = server().await;
    closed.get(ROOMS).await.is("401 M_MISSING_TOKEN");
    closed.post(ROOMS, json!({})).await.is("401 M_MISSING_TOKEN");
    let open = server_with(|config| config.directory.allow_without_login = true).await;
    assert_eq!(open.get(ROOMS).await.ok()["chunk"], json!([]));
}

#[tokio::test]
async fn who_may_name_a_room_may_list_it() {
    let server = server().await;
    let (ann, bob) = server.with_users("ann", "bob").await;
    let room = ann.create_room().with("preset", "public_chat").await;
    bob.join(&room).await.ok();
    let path = format!("/_matrix/client/v3/directory/list/room/{}", quoted(&room));
    assert_eq!(server.get(&path).await.ok()["visibility"], "private");
    bob.put(&path, json!({ "visibility": "public" })).await.is("403 M_FORBIDDEN");
    ann.put(&path, json!({})).await.ok();
    assert_eq!(server.get(&path).await.ok()["visibility"], "public");
    ann.put(&path, json!({ "visibility": "private" })).await.ok();
    assert_eq!(server.get(&path).await.ok()["visibility"], "private");
    let nowhere = "/_matrix/client/v3/directory/list/room/!nowhere:localhost";
    server.get(nowhere).await.is("404 M_NOT_FOUND");
    ann.put(nowhere, json!({ "visibility": "public" })).await.is("404 M_NOT_FOUND");
}
