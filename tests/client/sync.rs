//! What `/sync` reads from the query; what it answers is tested in `src/sync`.

use serde_json::json;

use crate::harness::server;

const SYNC: &str = "/_matrix/client/v3/sync";

#[tokio::test]
async fn a_filter_may_be_stored_or_stand_in_the_query() {
    let ann = server().await.with_user("ann").await;
    let path = format!("/_matrix/client/v3/user/{}/filter", ann.id);
    let stored = ann.post(&path, json!({ "account_data": { "types": ["x"] } })).await.ok();
    let account_data = format!("/_matrix/client/v3/user/{}/account_data", ann.id);
    for kind in ["x", "y"] {
        ann.put(&format!("{account_data}/{kind}"), json!({ "of": kind })).await.ok();
    }
    let inline = "%7B%22account_data%22:%7B%22types%22:[%22x%22]%7D%7D".to_owned();
    for filter in [stored["filter_id"].as_str().unwrap().to_owned(), inline] {
        let answer = ann.get(&format!("{SYNC}?filter={filter}")).await.ok();
        assert_eq!(answer["account_data"]["events"], json!([{ "type": "x", "content": { "of": "x" } }]));
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let ann = server().await.with_user("ann").await;
    for (query, errcode) in [
        ("since=nonsense", "M_INVALID_PARAM"),
        ("timeout=soon", "M_INVALID_PARAM"),
        ("full_state=perhaps", "M_INVALID_PARAM"),
        ("filter=123", "M_INVALID_PARAM"),
        ("filter=%7B%22room%22:1%7D", "M_BAD_JSON"),
    ] {
        ann.get(&format!("{SYNC}?{query}")).await.is(&format!("400 {errcode}"));
    }
}

#[tokio::test]
async fn a_sync_that_waits_ends_when_its_device_is_logged_out() {
    let ann = server().await.with_user("ann").await;
    let phone = ann.log_in().await;
    let since = phone.get(SYNC).await.ok();
    let path = format!("{SYNC}?timeout=30000&since={}", since["next_batch"].as_str().unwrap());
    let logs_out = async {
        tokio::task::yield_now().await;
        phone.post("/_matrix/client/v3/logout", json!({})).await.ok();
    };
    let (answer, ()) = tokio::join!(phone.get(&path), logs_out);
    answer.is("401 M_UNKNOWN_TOKEN");
}
