//! The table of routes, and how a handler gets into it.
//!
//! ```ignore
//! to.add(account::whoami)                                     // paths, method and caller from ruma
//!     .add(send::message).guests()                            // what differs follows the `add`
//!     .raw(Method::GET, "/_ingle/page/{name}", page::show);   // what ruma does not have
//! ```

use std::{any::type_name, collections::HashMap, future::Future, sync::Arc};

use futures_util::future::BoxFuture;
use http::Method;
use matchit::Router;
use ruma::api::{IncomingRequest, Metadata, path_builder::PathBuilder};

use super::{
    caller::{Caller, Evidence, Scheme},
    dispatch::{Http, carry_out},
    reply::{IntoReply, Reply},
    request::{Incoming, Raw, object, typed},
};
use crate::{app::Ctx, error::Result};

/// The limit for JSON bodies, unless the route says otherwise.
const JSON_LIMIT: usize = 1 << 20;

/// What is known of a route besides its handler.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The path of the handler's function.
    pub name: &'static str,
    /// Whether the rate of its callers is limited.
    pub rate_limited: bool,
    /// How long its body may be.
    pub body_limit: usize,
    /// Whether guests may call it.
    pub guests: bool,
    /// Whether locked users may call it.
    pub locked: bool,
    /// Whether it is carried out to the end even if the client hangs up.
    pub mutating: bool,
}

type Run = Box<dyn Fn(Arc<Http>, Facts, Incoming, Vec<String>) -> BoxFuture<'static, Result<Reply>> + Send + Sync>;

pub(super) struct Route {
    pub facts: Facts,
    method: Method,
    paths: Vec<String>,
    when: Option<fn(&str) -> bool>,
    pub run: Run,
}

/// The list of all endpoints, in the order of the specification.
#[derive(Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// An endpoint that ruma knows: every path of its history, its method, authentication and rate limit.
    pub fn add<R, F, Fut, A>(&mut self, handler: F) -> &mut Self
    where
        R: IncomingRequest + Metadata + Send + 'static,
        R::Authentication: Scheme,
        F: Fn(Ctx, <R::Authentication as Scheme>::Caller, R) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<A>> + Send + 'static,
        A: IntoReply,
    {
        let run = move |http: Arc<Http>, facts: Facts, incoming: Incoming, args: Vec<String>| {
            let answer = async move {
                let (caller, body, _permit, incoming) =
                    admit::<<R::Authentication as Scheme>::Caller>(&http, facts, incoming).await?;
                let args: Vec<&str> = args.iter().map(String::as_str).collect();
                let request: R = typed(incoming.method, incoming.uri, incoming.headers, &args, &body)?;
                let answer = handler(http.ctx.clone(), caller, request);
                carry_out(facts, async move { answer.await?.into_reply() }).await
            };
            Box::pin(answer) as BoxFuture<'static, Result<Reply>>
        };
        let paths = R::PATH_BUILDER.all_paths().map(str::to_owned).collect();
        self.push::<F>(R::METHOD, paths, R::RATE_LIMITED, Box::new(run))
    }

    /// An endpoint that ruma does not have, or one that reads its body itself. The handler gets the
    /// body unread; the caller's type says who may call. Arguments stand in `{braces}`.
    pub fn raw<C, F, Fut, A>(&mut self, method: Method, path: &str, handler: F) -> &mut Self
    where
        C: Caller,
        F: Fn(Ctx, C, Raw) -> Fut + Copy + Send + Sync + 'static,
        Fut: Future<Output = Result<A>> + Send + 'static,
        A: IntoReply,
    {
        let run = move |http: Arc<Http>, facts: Facts, incoming: Incoming, args: Vec<String>| {
            let answer = async move {
                let (limit, memory) = (facts.body_limit, http.memory.clone());
                let mut incoming = incoming;
                let (caller, _permit) = match C::SIGNS_BODY {
                    true => {
                        let body = std::mem::replace(&mut incoming.body, super::Body::Whole(bytes::Bytes::new()));
                        let (body, permit) = memory.read(body, &incoming.headers, limit).await?;
                        let caller = identify::<C>(&http, facts, &incoming, &body).await?;
                        incoming.body = super::Body::Whole(body);
                        (caller, permit)
                    }
                    false => (identify::<C>(&http, facts, &incoming, b"").await?, None),
                };
                let Incoming { method, uri, headers, peer, body } = incoming;
                let answer =
                    handler(http.ctx.clone(), caller, Raw { method, uri, headers, peer, args, body, limit, memory });
                carry_out(facts, async move { answer.await?.into_reply() }).await
            };
            Box::pin(answer) as BoxFuture<'static, Result<Reply>>
        };
        self.push::<F>(method, vec![path.to_owned()], false, Box::new(run))
    }

    fn push<F>(&mut self, method: Method, paths: Vec<String>, rate_limited: bool, run: Run) -> &mut Self {
        let mutating = !matches!(method, Method::GET | Method::HEAD);
        let name = type_name::<F>();
        let name = name.strip_prefix("ingle::").unwrap_or(name);
        let facts = Facts { name, rate_limited, body_limit: JSON_LIMIT, guests: false, locked: false, mutating };
        self.0.push(Route { facts, method, paths, when: None, run });
        self
    }

    /// The route just added also has this path. ruma reads a missing last argument as an empty one.
    pub fn also(&mut self, path: &str) -> &mut Self {
        self.last(|route| route.paths.push(path.to_owned()))
    }

    /// The route just added is only for requests whose query passes; it stands before one without a
    /// condition, whichever was added first.
    pub fn when(&mut self, condition: fn(&str) -> bool) -> &mut Self {
        self.last(|route| route.when = Some(condition))
    }

    /// The route just added is open to guests.  Spec: client-server-api#guest-access
    pub fn guests(&mut self) -> &mut Self {
        self.last(|route| route.facts.guests = true)
    }

    /// The route just added is open to locked users.  Spec: client-server-api#account-locking
    pub fn locked(&mut self) -> &mut Self {
        self.last(|route| route.facts.locked = true)
    }

    /// The route just added only waits and reads, whatever its method: it ends when the client hangs up.
    pub fn waits(&mut self) -> &mut Self {
        self.last(|route| route.facts.mutating = false)
    }

    /// The route just added takes bodies up to this size.
    pub fn body_limit(&mut self, bytes: usize) -> &mut Self {
        self.last(|route| route.facts.body_limit = bytes)
    }

    /// The rate of whoever calls the route just added is limited.
    pub fn rate_limited(&mut self) -> &mut Self {
        self.last(|route| route.facts.rate_limited = true)
    }

    fn last(&mut self, change: impl FnOnce(&mut Route)) -> &mut Self {
        if let Some(route) = self.0.last_mut() {
            change(route);
        }
        self
    }

    /// Every path and method with what is known of its route.
    pub fn each(&self) -> impl Iterator<Item = (&str, &Method, Facts)> {
        self.0.iter().flat_map(|route| route.paths.iter().map(|path| (path.as_str(), &route.method, route.facts)))
    }

    /// All routes as text: one line per method and path with the handler, sorted.
    pub fn list(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for route in &self.0 {
            let condition = if route.when.is_some() { " (on condition)" } else { "" };
            lines.extend(route.paths.iter().map(|path| {
                let name = route.facts.name.strip_prefix("api::").unwrap_or(route.facts.name);
                format!("{path} {} {name}{condition}\n", route.method)
            }));
        }
        lines.sort();
        lines.concat()
    }

    /// The table to answer from. Two routes for the same method and path are a slip of the programmer
    /// that every test notices.
    pub(super) fn table(self) -> Table {
        let mut router = Router::new();
        let mut places: Vec<Vec<Arc<Route>>> = Vec::new();
        let mut known = HashMap::new();
        for route in self.0.into_iter().map(Arc::new) {
            for path in route.paths.iter().map(|path| positional(path)) {
                let place = *known.entry(path.clone()).or_insert_with(|| {
                    places.push(Vec::new());
                    match router.insert(path.clone(), places.len() - 1) {
                        Ok(()) => places.len() - 1,
                        Err(error) => unreachable!("{path}: {error}"),
                    }
                });
                let clash =
                    |other: &Arc<Route>| other.method == route.method && other.when.is_none() && route.when.is_none();
                assert!(!places[place].iter().any(clash), "two routes for {} {path}", route.method);
                places[place].push(Arc::clone(&route));
            }
        }
        for place in &mut places {
            place.sort_by_key(|route| route.when.is_none());
        }
        Table { router, places }
    }
}

/// A path whose arguments are called by their position, so that routes with other names for the same
/// argument share a place.
fn positional(path: &str) -> String {
    let segments = path.split('/').enumerate().map(|(at, segment)| {
        match segment.strip_prefix("{*").is_some() || !segment.starts_with('{') {
            true => segment.to_owned(),
            false => format!("{{{at}}}"),
        }
    });
    segments.collect::<Vec<_>>().join("/")
}

/// The routes by path.
pub(super) struct Table {
    router: Router<usize>,
    places: Vec<Vec<Arc<Route>>>,
}

/// What a path leads to.
pub(super) enum Found {
    /// A route, with the arguments of its path as they were sent.
    Route(Arc<Route>, Vec<String>),
    /// The path is known, with other methods.
    OtherMethods,
    /// No such path.
    Nothing,
}

impl Table {
    /// What stands at a path. A slash at the end makes no difference.
    pub fn find(&self, method: &Method, path: &str, query: &str) -> Found {
        let found = self.router.at(path).or_else(|_| self.router.at(path.strip_suffix('/').unwrap_or(path)));
        let Ok(found) = found else { return Found::Nothing };
        let fits = |route: &&Arc<Route>, method: &Method| {
            route.method == *method && route.when.is_none_or(|condition| condition(query))
        };
        let place = &self.places[*found.value];
        let route = place.iter().find(|route| fits(route, method)).or_else(|| match *method {
            Method::HEAD => place.iter().find(|route| fits(route, &Method::GET)),
            _ => None,
        });
        match route {
            Some(route) => {
                Found::Route(Arc::clone(route), found.params.iter().map(|(_, value)| value.to_owned()).collect())
            }
            None => Found::OtherMethods,
        }
    }
}

/// Finds out who calls, whether they may and not too often, and reads the body.
async fn admit<C: Caller>(
    http: &Arc<Http>,
    facts: Facts,
    mut incoming: Incoming,
) -> Result<(C, bytes::Bytes, Option<tokio::sync::OwnedSemaphorePermit>, Incoming)> {
    let early = match C::SIGNS_BODY {
        true => None,
        false => Some(identify::<C>(http, facts, &incoming, b"").await?),
    };
    let body = std::mem::replace(&mut incoming.body, super::Body::Whole(bytes::Bytes::new()));
    // What comes with a GET means nothing.  RFC 9110, 9.3.1
    let (body, permit) = match incoming.method == Method::GET || incoming.method == Method::HEAD {
        true => (bytes::Bytes::new(), None),
        false => http.memory.read(body, &incoming.headers, facts.body_limit).await?,
    };
    let body = if incoming.method == Method::GET { body } else { object(body)? };
    let caller = match early {
        Some(caller) => caller,
        None => identify::<C>(http, facts, &incoming, &body).await?,
    };
    Ok((caller, body, permit, incoming))
}

async fn identify<C: Caller>(http: &Http, facts: Facts, incoming: &Incoming, body: &[u8]) -> Result<C> {
    let evidence =
        Evidence { method: &incoming.method, uri: &incoming.uri, headers: &incoming.headers, peer: incoming.peer };
    let caller = C::identify(&http.ctx, &evidence, body).await?;
    http.allow(facts, &caller, &evidence)?;
    Ok(caller)
}
