//! Push rules.

use serde_json::json;

use crate::harness::{User, server};

const RULES: &str = "/_matrix/client/v3/pushrules/";

fn rule(kind: &str, id: &str) -> String {
    format!("{RULES}global/{kind}/{id}")
}

/// The rule IDs of a kind, in their order.
async fn order(user: &User, kind: &str) -> Vec<String> {
    let rules = user.get(RULES).await.ok();
    // A kind without rules is left out.
    let ids = rules["global"][kind].as_array().into_iter().flatten();
    ids.map(|rule| rule["rule_id"].as_str().expect("an ID").to_owned()).collect()
}

#[tokio::test]
async fn everybody_begins_with_the_predefined_rules() {
    let ann = server().await.with_user("ann").await;
    assert_eq!(order(&ann, "override").await[0], ".m.rule.master");
    let global = ann.get(&format!("{RULES}global/")).await.ok();
    assert_eq!(global, ann.get(RULES).await.ok()["global"]);
    let message = ann.get(&rule("underride", ".m.rule.message")).await.ok();
    assert_eq!(message["actions"], json!(["notify"]));
}

#[tokio::test]
async fn a_rule_is_made_placed_changed_and_removed() {
    let (ann, bob) = server().await.with_users("ann", "bob").await;
    let body = |pattern: &str| json!({ "pattern": pattern, "actions": ["notify"] });
    let theirs = order(&ann, "content").await;
    ann.put(&rule("content", "tea"), body("tea")).await.ok();
    ann.put(&format!("{}?before=tea", rule("content", "cake")), body("cake")).await.ok();
    assert_eq!(order(&ann, "content").await[..2], ["cake", "tea"]);

    ann.put(&format!("{}/enabled", rule("content", "tea")), json!({ "enabled": false })).await.ok();
    ann.put(&format!("{}/actions", rule("content", "tea")), json!({ "actions": [] })).await.ok();
    assert_eq!(ann.get(&format!("{}/enabled", rule("content", "tea"))).await.ok()["enabled"], false);
    assert_eq!(ann.get(&format!("{}/actions", rule("content", "tea"))).await.ok()["actions"], json!([]));
    assert_eq!(ann.get(&rule("content", "tea")).await.ok()["pattern"], "tea");

    ann.delete(&rule("content", "tea"), json!({})).await.ok();
    ann.get(&rule("content", "tea")).await.is("404 M_NOT_FOUND");
    assert_eq!(order(&bob, "content").await, theirs, "the rules of others stay as they are");
}

#[tokio::test]
async fn what_cannot_be_is_refused_and_leaves_no_trace() {
    let ann = server().await.with_user("ann").await;
    let before = ann.server.trace();
    let body = json!({ "pattern": "tea", "actions": ["notify"] });
    ann.put(&rule("content", ".tea"), body.clone()).await.is("400 M_INVALID_PARAM");
    ann.put(&format!("{}?after=nothing", rule("content", "tea")), body.clone()).await.is("404 M_NOT_FOUND");
    ann.put(&rule("content", "tea"), json!({ "pattern": "tea" })).await.is("400 M_BAD_JSON");
    ann.put(&rule("teapot", "tea"), body).await.is("400 M_INVALID_PARAM");
    ann.put(&format!("{}/enabled", rule("content", "tea")), json!({ "enabled": true })).await.is("404 M_NOT_FOUND");
    ann.delete(&rule("override", ".m.rule.master"), json!({})).await.is("400 M_INVALID_PARAM");
    ann.delete(&rule("override", "nothing"), json!({})).await.is("404 M_NOT_FOUND");
    assert_eq!(ann.server.trace(), before);
}

#[tokio::test]
async fn a_rule_that_is_there_already_can_get_another_place() {
    let ann = server().await.with_user("ann").await;
    let body = |pattern: &str| json!({ "pattern": pattern, "actions": ["notify"] });
    for id in ["c", "b", "a"] {
        ann.put(&rule("content", id), body(id)).await.ok();
    }
    assert_eq!(order(&ann, "content").await, ["a", "b", "c"]);
    ann.put(&format!("{}/enabled", rule("content", "a")), json!({ "enabled": false })).await.ok();
    ann.put(&format!("{}?after=b", rule("content", "a")), body("a")).await.ok();
    assert_eq!(order(&ann, "content").await, ["b", "a", "c"]);
    ann.put(&format!("{}?after=c", rule("content", "a")), body("a")).await.ok();
    assert_eq!(order(&ann, "content").await, ["b", "c", "a"]);
    ann.put(&format!("{}?before=c", rule("content", "a")), body("z")).await.ok();
    assert_eq!(order(&ann, "content").await, ["b", "a", "c"]);
    let moved = ann.get(&rule("content", "a")).await.ok();
    assert_eq!([&moved["enabled"], &moved["pattern"]], [&json!(false), &json!("z")], "it stays switched off");
    ann.put(&format!("{}?after=a", rule("content", "a")), body("a")).await.is("404 M_NOT_FOUND");
    ann.put(&format!("{}?after=.m.rule.message", rule("underride", "a")), json!({ "actions": [], "conditions": [] }))
        .await
        .is("400 M_INVALID_PARAM");
    assert_eq!(order(&ann, "content").await, ["b", "a", "c"], "what was refused moves nothing");
}

#[tokio::test]
async fn what_older_versions_said_is_left_out() {
    let ann = server().await.with_user("ann").await;
    let actions = json!(["dont_notify", "coalesce", "notify", { "set_tweak": "org.example.flash", "value": 3 }]);
    ann.put(&rule("content", "tea"), json!({ "pattern": "tea", "actions": actions })).await.ok();
    let kept = json!(["notify", { "set_tweak": "org.example.flash", "value": 3 }]);
    assert_eq!(ann.get(&rule("content", "tea")).await.ok()["actions"], kept);
    ann.put(&format!("{}/actions", rule("content", "tea")), json!({ "actions": ["dont_notify"] })).await.ok();
    assert_eq!(ann.get(&rule("content", "tea")).await.ok()["actions"], json!([]));
    ann.get(&format!("{RULES}device/tag/content/tea")).await.is("404 M_UNRECOGNIZED");
}

#[tokio::test]
async fn every_change_is_told_to_all_devices_and_the_rules_are_written_here_alone() {
    let ann = server().await.with_user("ann").await;
    let since = ann.get("/_matrix/client/v3/sync").await.ok()["next_batch"].as_str().expect("a token").to_owned();
    ann.put(&format!("{}/enabled", rule("override", ".m.rule.master")), json!({ "enabled": true })).await.ok();
    let answer = ann.get(&format!("/_matrix/client/v3/sync?since={since}")).await.ok();
    let event = &answer["account_data"]["events"][0];
    assert_eq!(event["type"], "m.push_rules");
    assert_eq!(event["content"]["global"]["override"][0]["enabled"], true);
    let path = format!("/_matrix/client/v3/user/{}/account_data/m.push_rules", ann.id);
    ann.put(&path, json!({ "global": {} })).await.is("405 M_BAD_JSON");
}
