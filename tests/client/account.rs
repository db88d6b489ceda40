//! Accounts.

use crate::harness::server;

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[tokio::test]
async fn whoever_shows_a_token_is_told_whose_it_is() {
    let ann = server().await.with_user("ann").await;
    let answer = ann.get(WHOAMI).await.ok();
    assert_eq!(answer["user_id"], "@ann:localhost");
    assert_eq!(answer["device_id"], ann.device.as_str());
    ann.get("/_matrix/client/r0/account/whoami/").await.ok();
}

#[tokio::test]
async fn a_token_in_the_query_is_as_good() {
    let ann = server().await.with_user("ann").await;
    ann.server.get(&format!("{WHOAMI}?access_token={}", ann.token)).await.ok();
}

#[tokio::test]
async fn without_a_token_there_is_no_answer() {
    let server = server().await;
    server.get(WHOAMI).await.is("401 M_MISSING_TOKEN");
    let answer = server.get(&format!("{WHOAMI}?access_token=nonsense")).await.is("401 M_UNKNOWN_TOKEN");
    assert_eq!(answer["soft_logout"], false);
}
