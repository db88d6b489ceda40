//! A whole server in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request};
use ingle::{
    api,
    app::{App, Ctx},
    config::Config,
    http::Http,
    protocol::sign::KeyPair,
    remote::{Patience, transport::Island},
    store::Position,
    users::accounts::{self, NewAccount},
};
use serde_json::{Value, json};

use super::{Answer, User};

/// A server. Clones are the same server.
#[derive(Clone)]
pub struct Server {
    pub ctx: Ctx,
    pub(super) http: Arc<Http>,
}

/// A server on which anybody may make an account and nothing is limited.
pub async fn server() -> Server {
    Server::new(App::for_tests())
}

/// A server with something changed in its configuration.
pub async fn server_with(change: impl FnOnce(&mut Config)) -> Server {
    let mut config = Config::for_tests();
    change(&mut config);
    Server::new(App::with_config(config))
}

impl Server {
    pub fn new(ctx: Ctx) -> Self {
        Self { http: api::http(Arc::clone(&ctx)), ctx }
    }

    /// The same rows seen by a program that was started again.
    pub fn restart(&self) -> Self {
        let App { config, clock, chance, store, .. } = &*self.ctx;
        let key = KeyPair::from_seed(&[7; 32], "test");
        let (config, clock, chance, store) = ((**config).clone(), clock.clone(), chance.clone(), store.clone());
        Self::new(App::new(config, clock, chance, store, key, Arc::new(Island)).expect("the rows are good"))
    }

    /// Somebody with an account, logged in on a device.
    pub async fn with_user(&self, name: &str) -> User {
        let id = accounts::new_id(&self.ctx.users, name).expect("a good name");
        let account = NewAccount { password: Some(format!("{name}'s password")), ..Default::default() };
        let made = accounts::create(&self.ctx.users, &id, account, Some(Default::default()), |_| Ok(()));
        let login = made.await.expect("an account").expect("a login");
        let user = User { server: self.clone(), id, device: login.device, token: login.access_token };
        // The first request of a device leaves a trace of its own.
        user.get("/_matrix/client/v3/account/whoami").await.ok();
        user
    }

    /// Two people.
    pub async fn with_users(&self, one: &str, two: &str) -> (User, User) {
        (self.with_user(one).await, self.with_user(two).await)
    }

    /// Somebody without an account, where the server has guests.
    pub async fn with_guest(&self) -> User {
        let made = self.post("/_matrix/client/v3/register?kind=guest", serde_json::json!({})).await.ok();
        let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
        let id = text("user_id").try_into().expect("a user ID");
        User { server: self.clone(), id, device: text("device_id").into(), token: text("access_token") }
    }

    /// Waits until the other servers have all that this one had to tell them.
    pub async fn is_heard(&self) {
        use ingle::store::schema::federation::{OUTBOX, SENT};
        let store = &self.ctx.store;
        let mut log = store.watch();
        let heard = async {
            while store.scan(OUTBOX, &()).next().is_some() || store.scan(SENT, &()).next().is_some() {
                log.changed().await.expect("the server runs");
            }
        };
        tokio::time::timeout(Duration::from_secs(20), heard).await.expect("nothing waits any more");
    }

    /// Lets time pass.
    pub fn later(&self, time: Duration) {
        self.ctx.clock.advance(time);
    }

    /// Where the log ends. Two equal positions: nothing was written in between.
    pub fn trace(&self) -> Position {
        self.ctx.store.position()
    }

    /// Asks as nobody in particular.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, None, Bytes::new()).await
    }

    /// Posts as nobody in particular.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, None, body.to_string()).await
    }

    /// Fills in the form of a page.
    pub async fn fill_in(&self, path: &str, form: &str) -> Answer {
        self.ask(Method::POST, path, None, form.to_owned()).await
    }

    /// Any request with any body.
    pub async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        self.send(request.body(body.into()).expect("a request")).await
    }

    /// Asks another server something, with this server's signature.
    pub async fn ask_server(&self, to: &Server, method: Method, uri: &str, body: Option<Value>) -> Answer {
        let body = body.map(|body| body.to_string().into_bytes());
        let name = &to.ctx.config.server_name;
        let answer = self.ctx.remote.send(name, method, uri.to_owned(), body, Patience::default(), true).await;
        Answer::new(answer.expect("the server is there"))
    }

    /// Any request at all, answered as on the wire.
    pub async fn call(&self, request: Request<Bytes>) -> http::Response<Bytes> {
        self.http.call(request).await
    }

    /// Sends another server an ephemeral event, in a transaction of its own.
    pub async fn tell(&self, to: &Server, kind: &str, content: Value) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let uri = format!("/_matrix/federation/v1/send/tell-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let edus = [json!({ "edu_type": kind, "content": content })];
        let body = json!({ "origin": self.ctx.config.server_name, "origin_server_ts": 1, "pdus": [], "edus": edus });
        self.ask_server(to, Method::PUT, &uri, Some(body)).await.ok();
    }

    /// Any request at all.
    pub async fn send(&self, request: Request<Bytes>) -> Answer {
        Answer::new(self.http.call(request).await)
    }
}
