//! Filters.

use serde_json::json;

use crate::harness::server;

#[tokio::test]
async fn a_filter_comes_back_as_it_was_with_what_the_server_does_not_know() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", ann.id);
    let filter = json!({ "room": { "timeline": { "limit": 5 } }, "org.example": true });
    let id = ann.post(&path, filter.clone()).await.ok()["filter_id"].as_str().expect("an ID").to_owned();
    assert_eq!(ann.get(&format!("{path}/{id}")).await.ok(), filter);
    let before = ann.server.trace();
    assert_eq!(ann.post(&path, filter).await.ok()["filter_id"], id);
    assert_eq!(ann.server.trace(), before);
    bob.get(&format!("{path}/{id}")).await.is("403 M_FORBIDDEN");
    bob.get(&format!("/_matrix/client/v3/user/{}/filter/{id}", bob.id)).await.is("404 M_NOT_FOUND");
}

#[tokio::test]
async fn what_is_no_filter_is_refused() {
    let ann = server().await.with_user("ann").await;
    let path = format!("/_matrix/client/r0/user/{}/filter", ann.id);
    let before = ann.server.trace();
    ann.post(&path, json!({ "room": 5 })).await.is("400 M_BAD_JSON");
    ann.post(&path, json!({ "room": { "timeline": { "limit": "many" } } })).await.is("400 M_BAD_JSON");
    ann.get(&format!("{path}/nonsense")).await.is("404 M_NOT_FOUND");
    assert_eq!(ann.server.trace(), before);
}
