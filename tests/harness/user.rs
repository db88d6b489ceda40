//! People with verbs.

use std::{
    future::{Future, IntoFuture},
    pin::Pin,
};

use bytes::Bytes;
use http::Method;
use ruma::{OwnedDeviceId, OwnedUserId};
use serde_json::{Value, json};

use super::{Answer, Server};

/// Somebody, logged in on a device.
#[derive(Clone)]
pub struct User {
    pub server: Server,
    pub id: OwnedUserId,
    pub device: OwnedDeviceId,
    pub token: String,
}

impl User {
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::PUT, path, body.to_string()).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, body.to_string()).await
    }

    pub async fn delete(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::DELETE, path, body.to_string()).await
    }

    /// Any request with any body.
    pub async fn ask(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        self.server.ask(method, path, Some(&self.token), body).await
    }

    /// The password that this user has from the start.
    pub fn password(&self) -> String {
        format!("{}'s password", self.id.localpart())
    }

    /// What user-interactive authentication asks for.
    pub fn proof(&self) -> Value {
        let identifier = json!({ "type": "m.id.user", "user": self.id });
        json!({ "type": "m.login.password", "identifier": identifier, "password": self.password() })
    }

    /// The same person on one more device.
    pub async fn log_in(&self) -> User {
        let answer = self.server.post("/_matrix/client/v3/login", self.proof()).await.ok();
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_owned();
        Self { token: text("access_token"), device: text("device_id").into(), ..self.clone() }
    }

    /// Makes a room: `ann.create_room().invite(&bob).await` gives its ID.
    pub fn create_room(&self) -> CreateRoom {
        CreateRoom { user: self.clone(), body: json!({}) }
    }
}

/// A room about to be made.
pub struct CreateRoom {
    user: User,
    body: Value,
}

impl CreateRoom {
    /// Invites somebody from the start.
    pub fn invite(mut self, guest: &User) -> Self {
        match self.body["invite"].as_array_mut() {
            Some(guests) => guests.push(json!(guest.id)),
            None => self.body["invite"] = json!([guest.id]),
        }
        self
    }

    /// Any field of the request.
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.body[field] = value.into();
        self
    }
}

impl IntoFuture for CreateRoom {
    type Output = String;
    type IntoFuture = Pin<Box<dyn Future<Output = String> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let answer = self.user.post("/_matrix/client/v3/createRoom", self.body).await.ok();
            answer["room_id"].as_str().expect("a room ID").to_owned()
        })
    }
}
