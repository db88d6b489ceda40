//! Several servers in one process: what one sends, the other's own dispatch answers.

use std::{
    collections::{BTreeSet, HashMap},
    future::Future,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::{Request, StatusCode};
use ingle::{
    app::App,
    chance::Chance,
    clock::Clock,
    config::Config,
    http::Http,
    protocol::sign::KeyPair,
    remote::{
        own_key::OwnKeys,
        transport::{Answer, Exchange, Failure, Outgoing, Transport, WebRequest},
    },
    store::Store,
    tasks,
};
use parking_lot::Mutex;
use serde_json::Value;

use super::Server;

/// A network with one clock. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    clock: Clock,
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    servers: Mutex<HashMap<String, Arc<Http>>>,
    /// What each server was asked, by its name.
    asked: Mutex<Vec<(String, String)>>,
    /// Servers that nobody can reach at present.
    away: Mutex<BTreeSet<String>>,
    /// Sites of the web, by host.
    sites: Mutex<HashMap<String, Site>>,
    /// What Ingle does not answer itself, by server and the beginning of the path.
    answers: Mutex<HashMap<(String, String), Arc<Answering>>>,
    /// What becomes of Ingle's answers on their way, likewise.
    changes: Mutex<HashMap<(String, String), Arc<Changing>>>,
    /// What happens while such an answer is on its way, likewise; once.
    meanwhile: Mutex<HashMap<(String, String), Meanwhile>>,
}

type Meanwhile = Pin<Box<dyn Future<Output = ()> + Send>>;

type Changing = dyn Fn(&mut Value) + Send + Sync;

/// The entry for a server and the path of a request.
fn at<T>(entries: &HashMap<(String, String), T>, server: &str, uri: &str) -> Option<(String, String)> {
    entries.keys().find(|(name, path)| name == server && uri.starts_with(path)).cloned()
}

impl Inner {
    /// What happens to an answer before it arrives.
    async fn on_the_way(&self, server: &str, uri: &str, mut answer: Answer) -> Answer {
        let meanwhile = {
            let mut meanwhile = self.meanwhile.lock();
            at(&meanwhile, server, uri).and_then(|place| meanwhile.remove(&place))
        };
        if let Some(meanwhile) = meanwhile {
            meanwhile.await;
        }
        let changing = {
            let changes = self.changes.lock();
            at(&changes, server, uri).and_then(|place| changes.get(&place).cloned())
        };
        if let Some(changing) = changing.filter(|_| answer.status.is_success()) {
            let mut value = serde_json::from_slice(&answer.body).expect("JSON");
            changing(&mut value);
            answer.body = value.to_string().into();
        }
        answer
    }
}

/// A web site: what it answers to a request.
type Site = Arc<dyn Fn(&WebRequest) -> (StatusCode, Value) + Send + Sync>;

type Answering = dyn Fn(&Value) -> (StatusCode, Value) + Send + Sync;

/// A network without servers.
pub fn network() -> Network {
    Network { clock: Clock::by_hand(1_782_000_000_000), inner: Arc::default() }
}

impl Network {
    /// A new server in this network.
    pub async fn server(&self, name: &str) -> Server {
        self.server_with(name, |_| ()).await
    }

    /// A new server with something changed in its configuration.
    pub async fn server_with(&self, name: &str, change: impl FnOnce(&mut Config)) -> Server {
        let server = self.idle(name, change).await;
        tasks::start(&server.ctx);
        server
    }

    /// A new server that answers and does nothing on its own, until its tasks are started.
    pub async fn idle(&self, name: &str, change: impl FnOnce(&mut Config)) -> Server {
        let mut config = Config::for_tests();
        config.server_name = name.try_into().expect("a server name");
        change(&mut config);
        let seed = u64::try_from(self.inner.servers.lock().len()).expect("few servers");
        let key = KeyPair::from_seed(&[u8::try_from(seed).expect("few servers") + 1; 32], "net");
        let store = Store::in_memory();
        let app = App::new(config, self.clock.clone(), Chance::seeded(seed), store, key, Arc::new(self.clone()));
        let server = Server::new(app.expect("an empty store is good"));
        self.inner.servers.lock().insert(name.to_owned(), server.http.clone());
        server
    }

    /// Ends a server, and starts the program again on the same rows.
    pub async fn restart(&self, server: &Server) -> Server {
        let remote = &server.ctx.remote;
        self.restart_with(server, OwnKeys { pair: (*remote.key).clone(), given_up: remote.given_up.clone() }).await
    }

    /// The same with other keys of its own.
    pub async fn restart_with(&self, server: &Server, keys: OwnKeys) -> Server {
        server.ctx.stop.cancel();
        let App { config, clock, chance, store, .. } = &*server.ctx;
        let (config, clock, chance, store) = ((**config).clone(), clock.clone(), chance.clone(), store.clone());
        let name = config.server_name.to_string();
        let app = App::new(config, clock, chance, store, keys, Arc::new(self.clone()));
        let server = Server::new(app.expect("the rows are good"));
        self.inner.servers.lock().insert(name, server.http.clone());
        tasks::start(&server.ctx);
        server
    }

    /// Changes what a server answers to requests whose path begins like this.
    pub fn changes(&self, server: &Server, path: &str, how: impl Fn(&mut Value) + Send + Sync + 'static) {
        let place = (server.ctx.config.server_name.to_string(), path.to_owned());
        self.inner.changes.lock().insert(place, Arc::new(how));
    }

    /// Lets something happen between a server's answer to a request whose path begins like this, and its arrival.
    pub fn meanwhile(&self, server: &Server, path: &str, what: impl Future<Output = ()> + Send + 'static) {
        let place = (server.ctx.config.server_name.to_string(), path.to_owned());
        self.inner.meanwhile.lock().insert(place, Box::pin(what));
    }

    /// Lets a server answer paths that begin like this, in Ingle's place.
    pub fn answers(
        &self,
        server: &Server,
        path: &str,
        how: impl Fn(&Value) -> (StatusCode, Value) + Send + Sync + 'static,
    ) {
        let place = (server.ctx.config.server_name.to_string(), path.to_owned());
        self.inner.answers.lock().insert(place, Arc::new(how));
    }

    /// The paths that a server was asked for, oldest first.
    pub fn asked(&self, server: &Server) -> Vec<String> {
        let name = server.ctx.config.server_name.as_str();
        self.inner.asked.lock().iter().filter(|(to, _)| to == name).map(|(_, path)| path.clone()).collect()
    }

    /// A site of the web that the servers can reach.
    pub fn site(&self, host: &str, answer: impl Fn(&WebRequest) -> (StatusCode, Value) + Send + Sync + 'static) {
        self.inner.sites.lock().insert(host.to_owned(), Arc::new(answer));
    }

    /// Cuts a server off, until [`Network::back`].
    pub fn away(&self, server: &Server) {
        self.inner.away.lock().insert(server.ctx.config.server_name.to_string());
    }

    /// Connects a server again.
    pub fn reachable(&self, server: &Server) {
        self.inner.away.lock().remove(server.ctx.config.server_name.as_str());
    }

    /// Connects a server again; enough time has passed for everybody to try once more.
    pub fn back(&self, server: &Server) {
        self.inner.away.lock().remove(server.ctx.config.server_name.as_str());
        self.clock.advance(Duration::from_secs(24 * 3600));
    }
}

impl Transport for Network {
    fn send(&self, request: Outgoing) -> Exchange<'_> {
        let name = request.destination.to_string();
        let server = self.inner.servers.lock().get(&name).cloned();
        self.inner.asked.lock().push((name.clone(), request.uri.clone()));
        let away = self.inner.away.lock().contains(&name);
        let found = |server: &str| {
            let answers = self.inner.answers.lock();
            at(&answers, server, &request.uri).and_then(|place| answers.get(&place).cloned())
        };
        let answering = found(&name);
        Box::pin(async move {
            let unreachable = || Failure::Unreachable("the network is cut".to_owned());
            let server = server.filter(|_| !away).ok_or_else(unreachable)?;
            let answer = match answering {
                Some(answering) => {
                    let (status, body) = answering(&serde_json::from_slice(&request.body).unwrap_or_default());
                    Answer { status, headers: Default::default(), body: body.to_string().into() }
                }
                None => {
                    let uri = request.uri;
                    let mut call = Request::new(request.body);
                    *call.method_mut() = request.method;
                    *call.uri_mut() = uri.parse().map_err(|_| unreachable())?;
                    *call.headers_mut() = request.headers;
                    let (parts, body) = server.call(call).await.into_parts();
                    let answer = Answer { status: parts.status, headers: parts.headers, body };
                    self.inner.on_the_way(&name, &uri, answer).await
                }
            };
            match answer.body.len() > request.limit {
                true => Err(Failure::TooLarge),
                false => Ok(answer),
            }
        })
    }

    fn web(&self, request: WebRequest) -> Exchange<'_> {
        let site = self.inner.sites.lock().get(request.uri.host().unwrap_or_default()).cloned();
        Box::pin(async move {
            let site = site.ok_or_else(|| Failure::Unreachable("there is no such site".to_owned()))?;
            let (status, body) = site(&request);
            Ok(Answer { status, headers: Default::default(), body: body.to_string().into() })
        })
    }
}
