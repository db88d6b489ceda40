//! One person at matrix-sdk, told what to do by lines of JSON on standard input.
//!
//! {"id": 1, "verb": "say", "args": ["!room:server", "hello"]}  ->  {"id": 1, "value": "$event"}
//!
//! The client is set up as Element X does it: a [`SyncService`] in offline mode (room list and encryption,
//! both over sliding sync), a store in SQLite, a timeline for each room that is opened, messages through the
//! send queue. What is shown comes from the SDK's own model.

// The futures of the SDK are deep.
#![recursion_limit = "256"]

mod person;
mod room_list;
mod verbs;

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use crate::person::Person;

#[derive(Deserialize)]
struct Line {
    id: u64,
    verb: String,
    #[serde(default)]
    args: Vec<Value>,
}

#[tokio::main]
async fn main() {
    // What the SDK warns of is for whoever mends the server.
    let filter = tracing_subscriber::EnvFilter::try_from_env("INGLE_SDK_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let settings = std::env::args().nth(1).expect("the settings are the argument");
    let person = Arc::new(Person::new(serde_json::from_str(&settings).expect("the settings are JSON")));
    let (answers, mut lines) = tokio::sync::mpsc::unbounded_channel::<Value>();
    let writer = tokio::spawn(async move {
        let mut out = tokio::io::stdout();
        while let Some(line) = lines.recv().await {
            out.write_all(format!("{line}\n").as_bytes()).await.expect("standard output is open");
            out.flush().await.expect("standard output is open");
        }
    });
    let mut input = BufReader::new(tokio::io::stdin()).lines();
    while let Some(line) = input.next_line().await.expect("standard input is text") {
        let Line { id, verb, args } = serde_json::from_str(&line).expect("a line is a verb");
        let (person, answers) = (Arc::clone(&person), answers.clone());
        // Not awaited: one verb may wait for what another will cause.
        tokio::spawn(async move {
            let answer = match verbs::run(&person, &verb, &args).await {
                Ok(value) => json!({ "id": id, "value": value }),
                Err(error) => {
                    eprintln!("{verb} failed: {error}");
                    json!({ "id": id, "error": format!("{verb}: {error}") })
                }
            };
            let _ = answers.send(answer);
        });
    }
    person.pause().await;
    drop(answers);
    // A verb that still waits keeps a sender; nobody hears its answer.
    writer.abort();
}
