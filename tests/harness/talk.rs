//! Verbs of rooms: come, go, talk, read.

use std::sync::atomic::{AtomicU64, Ordering};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Answer, Server, User};

/// A text as part of a path or query.
pub fn quoted(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// The path of an endpoint of a room.
pub fn in_room(room: &str, rest: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/{rest}", quoted(room))
}

fn next() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl User {
    pub async fn join(&self, room: &str) -> Answer {
        self.post(&format!("/_matrix/client/v3/join/{}", quoted(room)), json!({})).await
    }

    /// Joins with the help of a server.
    pub async fn join_via(&self, room: &str, server: &Server) -> Answer {
        let path = format!("/_matrix/client/v3/join/{}?via={}", quoted(room), server.ctx.config.server_name);
        self.post(&path, json!({})).await
    }

    pub async fn leave(&self, room: &str) -> Answer {
        self.post(&in_room(room, "leave"), json!({})).await
    }

    pub async fn invite(&self, room: &str, guest: &User) -> Answer {
        self.post(&in_room(room, "invite"), json!({ "user_id": guest.id })).await
    }

    pub async fn kick(&self, room: &str, target: &User) -> Answer {
        self.post(&in_room(room, "kick"), json!({ "user_id": target.id })).await
    }

    pub async fn ban(&self, room: &str, target: &User) -> Answer {
        self.post(&in_room(room, "ban"), json!({ "user_id": target.id })).await
    }

    /// Sends an event; gives its ID.
    #[track_caller]
    pub fn send(&self, room: &str, kind: &str, content: Value) -> impl Future<Output = String> {
        let path = in_room(room, &format!("send/{kind}/t{}", next()));
        let user = self.clone();
        async move { user.put(&path, content).await.ok()["event_id"].as_str().expect("an event ID").to_owned() }
    }

    /// Says something; gives the event's ID.
    pub async fn say(&self, room: &str, text: &str) -> String {
        self.send(room, "m.room.message", json!({ "msgtype": "m.text", "body": text })).await
    }

    /// Changes the state.
    pub async fn set(&self, room: &str, kind: &str, state_key: &str, content: Value) -> Answer {
        self.put(&in_room(room, &format!("state/{kind}/{}", quoted(state_key))), content).await
    }

    /// The content of a state event.
    pub async fn state(&self, room: &str, kind: &str, state_key: &str) -> Answer {
        self.get(&in_room(room, &format!("state/{kind}/{}", quoted(state_key)))).await
    }

    /// Asks for something about a room.
    pub async fn room(&self, room: &str, rest: &str) -> Answer {
        self.get(&in_room(room, rest)).await
    }

    /// The ID of the newest event of a room.
    pub async fn last(&self, room: &str) -> String {
        let page = self.room(room, "messages?dir=b&limit=1").await.ok();
        page["chunk"][0]["event_id"].as_str().expect("an event ID").to_owned()
    }

    /// What was said in a room, oldest first.
    pub async fn read(&self, room: &str) -> Vec<String> {
        let page = self.room(room, "messages?dir=f&limit=100").await.ok();
        bodies(&page["chunk"])
    }
}

/// The texts of the messages among some events.
pub fn bodies(events: &Value) -> Vec<String> {
    let events = events.as_array().cloned().unwrap_or_default();
    events.iter().filter_map(|event| Some(event["content"]["body"].as_str()?.to_owned())).collect()
}
