//! What holds for every route.

mod endpoints;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use expect_test::expect_file;
use http::{Method, Request};
use ingle::{
    api,
    app::{App, Ctx},
    error::Result,
    http::{Http, Raw, Reply, Routes},
};
use ruma::api::client::account::get_username_availability;
use tokio::sync::Semaphore;

use crate::harness::{Answer, server, server_with};

const WHOAMI: &str = "/_matrix/client/v3/account/whoami";

#[test]
fn the_routes_are_those_of_the_golden_file() {
    expect_file!["../golden/routes.txt"].assert_eq(&api::routes().list());
}

#[tokio::test]
async fn a_path_that_is_not_there_and_a_method_that_is_not_there_are_told_apart() {
    let server = server().await;
    server.get("/_matrix/client/v3/nothing").await.is("404 M_UNRECOGNIZED");
    server.get("/nothing").await.is("404 M_UNRECOGNIZED");
    server.ask(Method::DELETE, WHOAMI, None, "").await.is("405 M_UNRECOGNIZED");
}

#[tokio::test]
async fn browsers_may_read_every_answer() {
    let server = server().await;
    for (method, path) in [(Method::GET, WHOAMI), (Method::GET, "/nothing"), (Method::OPTIONS, "/anything")] {
        let answer = server.ask(method, path, None, "").await;
        assert_eq!(answer.header("access-control-allow-origin"), "*", "{path}");
        assert!(answer.header("access-control-allow-headers").contains("Authorization"));
    }
    server.ask(Method::OPTIONS, WHOAMI, None, "").await.is("204");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let ann = server().await.with_user("ann").await;
    let answer = ann.ask(Method::HEAD, WHOAMI, "").await;
    assert_eq!(answer.summary(), "200");
    assert!(answer.bytes.is_empty());
    assert_ne!(answer.header("content-length"), "0");
}

#[tokio::test]
async fn an_argument_that_is_not_utf_8_is_refused() {
    let http = Http::new(App::for_tests(), slips());
    let answer = call(&http, Request::get("/echo/%ff").body(Bytes::new())).await;
    answer.is("400 M_INVALID_PARAM");
    let answer = call(&http, Request::get("/echo/%23a%2Fb").body(Bytes::new())).await;
    assert_eq!(answer.bytes, "#a/b");
}

#[tokio::test]
async fn a_panic_is_a_500_for_that_request_alone() {
    let http = Http::new(App::for_tests(), slips());
    for method in [Method::GET, Method::POST] {
        let answer = call(&http, Request::builder().method(method).uri("/panic").body(Bytes::new())).await;
        assert!(!answer.is("500 M_UNKNOWN").to_string().contains("ouch"));
    }
    call(&http, Request::get("/echo/still_there").body(Bytes::new())).await.is("200");
}

#[tokio::test]
async fn a_condition_on_the_query_chooses_between_routes() {
    let http = Http::new(App::for_tests(), slips());
    let answer = call(&http, Request::get("/echo/a?other").body(Bytes::new())).await;
    assert_eq!(answer.bytes, "other");
}

#[tokio::test]
async fn whoever_asks_too_often_is_told_to_wait_and_let_in_after_that() {
    let ctx = App::with_config({
        let mut config = ingle::config::Config::for_tests();
        config.limits.enabled = true;
        config
    });
    let mut routes = Routes::new();
    routes.add(limited);
    let http = Http::new(Arc::clone(&ctx), routes);
    let ask = || call(&http, Request::get("/_matrix/client/v3/register/available?username=a").body(Bytes::new()));
    let mut asked = 0;
    let refused = loop {
        let answer = ask().await;
        if answer.summary() != "200" {
            break answer;
        }
        asked += 1;
        assert!(asked < 1000);
    };
    let wait = refused["retry_after_ms"].as_u64().expect("a time");
    assert_eq!(refused.header("retry-after"), wait.div_ceil(1000).to_string());
    refused.is("429 M_LIMIT_EXCEEDED");
    ctx.clock.advance(std::time::Duration::from_millis(wait));
    ask().await.is("200");
}

#[tokio::test]
async fn a_server_without_limits_lets_everybody_in() {
    let ann = server_with(|config| config.limits.enabled = false).await.with_user("ann").await;
    for _ in 0..300 {
        ann.get(WHOAMI).await.ok();
    }
}

fn slips() -> Routes {
    let mut to = Routes::new();
    to.raw(Method::GET, "/panic", panics);
    to.raw(Method::POST, "/panic", panics);
    to.raw(Method::GET, "/echo/{word}", echo);
    to.raw(Method::GET, "/echo/{word}", other).when(|query| query == "other");
    to
}

async fn panics(_: Ctx, (): (), _: Raw) -> Result<Reply> {
    panic!("ouch");
}

async fn echo(_: Ctx, (): (), raw: Raw) -> Result<Reply> {
    Ok(Reply::html(raw.args.concat()))
}

async fn other(_: Ctx, (): (), _: Raw) -> Result<Reply> {
    Ok(Reply::html("other"))
}

async fn limited(_: Ctx, (): (), _: get_username_availability::v3::Request) -> Result<Reply> {
    Ok(Reply::empty())
}

async fn call(http: &Arc<Http>, request: http::Result<Request<Bytes>>) -> Answer {
    Answer::new(http.call(request.expect("a request")).await)
}

/// What [`slow`] waits for, and what it says when it is through.
static GO: Semaphore = Semaphore::const_new(0);
static THROUGH: Semaphore = Semaphore::const_new(0);

async fn slow(_: Ctx, (): (), _: Raw) -> Result<Reply> {
    GO.acquire().await.expect("a permit").forget();
    THROUGH.add_permits(1);
    Ok(Reply::empty())
}

#[tokio::test]
async fn what_was_begun_is_carried_out_even_if_the_client_hangs_up() {
    let mut routes = Routes::new();
    routes.raw(Method::POST, "/slow", slow);
    let http = Http::new(App::for_tests(), routes);
    let mut answer = Box::pin(call(&http, Request::post("/slow").body(Bytes::new())));
    assert!(futures_util::poll!(&mut answer).is_pending());
    drop(answer);
    GO.add_permits(1);
    THROUGH.acquire().await.expect("a permit").forget();
}
