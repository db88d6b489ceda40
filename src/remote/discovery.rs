//! From a server's name to the addresses where it answers.
//!
//! The order is the specification's: an address, a port, `.well-known`, the SRV records `_matrix-fed` and
//! `_matrix`, port 8448. What a name leads to is decided by small pure functions; [`Discovery`] asks the network
//! and remembers `.well-known` answers, good and bad, for as long as they hold.
//!
//! Spec: server-server-api#resolving-server-names

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, RecordType},
};
use http::{HeaderMap, header};
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;

use super::guard;
use crate::clock::Clock;

/// What a name that is remembered takes in memory, roughly.
const REMEMBERED: u64 = 400;
/// How many addresses the resolver remembers.
const ADDRESSES: u64 = 2_000;
/// How long an answer holds that does not say so itself, in seconds.
const USUAL_AGE: u64 = 24 * 3600;
/// How long an answer holds at least, whatever it says, in seconds: nobody is asked again for each request.
const SHORTEST_AGE: u64 = 300;
/// How long an answer holds at most, also while there is no newer one, in seconds.
const LONGEST_AGE: u64 = 48 * 3600;
/// How long a failure is remembered, in seconds.
const FAILURE_AGE: u64 = 600;
/// How many addresses of one server are tried.
const MOST_TARGETS: usize = 8;

/// Where a server is, and how it must identify itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The value of the `Host` header.
    pub host: String,
    /// The name (or address) in its certificate.
    pub name: String,
    /// Names or addresses with ports, best first.
    pub targets: Vec<(String, u16)>,
}

/// A server name taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    host: String,
    port: Option<u16>,
    is_address: bool,
}

fn parts(name: &ServerName) -> Parts {
    let host = name.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Parts { is_address: host.parse::<IpAddr>().is_ok(), host, port: name.port() }
}

/// The route of a name that needs no record: an address, or a name with a port.
fn direct(name: &ServerName) -> Option<Route> {
    let Parts { host, port, is_address } = parts(name);
    let port = match (port, is_address) {
        (Some(port), _) => port,
        (None, true) => 8448,
        (None, false) => return None,
    };
    Some(Route { host: name.as_str().to_owned(), name: host.clone(), targets: vec![(host, port)] })
}

/// The route of a name without a port, given what its SRV records say.
fn by_records(name: &ServerName, records: Vec<(String, u16)>) -> Route {
    let host = parts(name).host;
    let targets = if records.is_empty() { vec![(host.clone(), 8448)] } else { records };
    Route { host: name.as_str().to_owned(), name: host, targets }
}

/// How long a `.well-known` answer holds that came `now` (milliseconds since the epoch), in seconds.
///
/// Spec: server-server-api#getwell-knownmatrixserver
fn age(headers: &HeaderMap, now: u64) -> u64 {
    let control = headers.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<_> =
        control.flat_map(|value| value.split(',')).map(|part| part.trim().to_lowercase()).collect();
    if directives.iter().any(|part| part == "no-store" || part == "no-cache") {
        return SHORTEST_AGE;
    }
    let max = directives.iter().find_map(|part| part.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    max.or_else(|| expires_in(headers, now)).unwrap_or(USUAL_AGE).clamp(SHORTEST_AGE, LONGEST_AGE)
}

/// In how many seconds an answer expires, by the clock of whoever sent it if it tells the time. What cannot be read
/// has expired.
fn expires_in(headers: &HeaderMap, now: u64) -> Option<u64> {
    let time = |name| httpdate::parse_http_date(headers.get(name)?.to_str().ok()?).ok();
    headers.get(header::EXPIRES)?;
    let sent = time(header::DATE).unwrap_or(UNIX_EPOCH + Duration::from_millis(now));
    let left = time(header::EXPIRES).and_then(|expires| expires.duration_since(sent).ok());
    Some(left.map_or(0, |left| left.as_secs()))
}

#[derive(Deserialize)]
struct WellKnown {
    #[serde(rename = "m.server")]
    server: OwnedServerName,
}

/// What `.well-known` says, if it says something that can be understood.
fn delegated(body: &[u8]) -> Option<OwnedServerName> {
    serde_json::from_slice::<WellKnown>(body).ok().map(|answer| answer.server)
}

/// Reads a `.well-known` answer that came `now` (milliseconds since the epoch): the name that it leads to, and for how
/// many seconds that holds.
pub fn delegation(headers: &HeaderMap, body: &[u8], now: u64) -> (Option<OwnedServerName>, u64) {
    match delegated(body) {
        Some(found) => (Some(found), age(headers, now)),
        None => (None, FAILURE_AGE),
    }
}

/// A `.well-known` answer. Times are in milliseconds since the epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Remembered {
    /// Where it leads, if anywhere.
    to: Option<OwnedServerName>,
    /// When it came.
    came: u64,
    /// Until when nobody is asked again.
    until: u64,
}

impl Remembered {
    /// What is to be remembered after somebody was asked `now`: the answer, or, if there was none, what is known.
    fn after(known: Option<Self>, answer: Option<&(HeaderMap, Vec<u8>)>, now: u64) -> Self {
        let failed = now + FAILURE_AGE * 1_000;
        match answer {
            Some((headers, body)) => {
                let (to, seconds) = delegation(headers, body, now);
                Self { to, came: now, until: now + seconds * 1_000 }
            }
            // A web server that is restarted must not send everybody to the wrong port.
            None => match known.map(|known| (known.came + LONGEST_AGE * 1_000, known)) {
                Some((end, known)) if known.to.is_some() && end > now => Self { until: failed.min(end), ..known },
                _ => Self { to: None, came: now, until: failed },
            },
        }
    }
}

/// What asks the network for names.
pub struct Discovery {
    clock: Clock,
    allow_private: bool,
    resolver: Mutex<Option<Arc<TokioResolver>>>,
    well_known: Cache<OwnedServerName, Remembered>,
}

impl Discovery {
    /// `allow_private`: whether names may lead to this machine and the home network.
    /// About `memory` bytes of what was learnt are kept.
    pub fn new(clock: Clock, allow_private: bool, memory: u64) -> Self {
        let well_known = Cache::new(usize::try_from(memory / REMEMBERED).unwrap_or(usize::MAX));
        Self { clock, allow_private, resolver: Mutex::default(), well_known }
    }

    /// Where a server answers, as [`Self::route`] finds it. It is found out, and remembered, also if whoever asks loses
    /// patience: a web server that never answers must not cost every request all of its time. Nothing only if the
    /// program stops.
    pub async fn find<F>(
        self: &Arc<Self>,
        name: OwnedServerName,
        fetch: impl FnOnce(String) -> F + Send + 'static,
    ) -> Option<Route>
    where
        F: Future<Output = Option<(HeaderMap, Vec<u8>)>> + Send + 'static,
    {
        let discovery = Arc::clone(self);
        tokio::spawn(async move { discovery.route(&name, fetch).await }).await.ok()
    }

    /// Where a server answers. `fetch` gets `https://<host>/.well-known/matrix/server`, following redirects; nothing
    /// if that cannot be reached, and an empty body if it is not there.
    async fn route<F>(&self, name: &ServerName, fetch: impl FnOnce(String) -> F) -> Route
    where
        F: Future<Output = Option<(HeaderMap, Vec<u8>)>>,
    {
        if let Some(route) = direct(name) {
            return route;
        }
        let name = self.delegation(name, fetch).await.unwrap_or_else(|| name.to_owned());
        if let Some(route) = direct(&name) {
            return route;
        }
        let host = parts(&name).host;
        let mut records = self.services(&format!("_matrix-fed._tcp.{host}.")).await;
        if records.is_empty() {
            records = self.services(&format!("_matrix._tcp.{host}.")).await;
        }
        by_records(&name, records)
    }

    async fn delegation<F>(&self, name: &ServerName, fetch: impl FnOnce(String) -> F) -> Option<OwnedServerName>
    where
        F: Future<Output = Option<(HeaderMap, Vec<u8>)>>,
    {
        let now = self.clock.now();
        let known = self.well_known.get(name);
        if let Some(known) = &known
            && known.until > now
        {
            return known.to.clone();
        }
        let answer = fetch(parts(name).host).await;
        let known = Remembered::after(known, answer.as_ref(), now);
        self.well_known.insert(name.to_owned(), known.clone());
        known.to
    }

    /// The targets of SRV records, best first.
    async fn services(&self, name: &str) -> Vec<(String, u16)> {
        let Some(resolver) = self.resolver() else { return Vec::new() };
        let Ok(Ok(lookup)) = tokio::time::timeout(Duration::from_secs(5), resolver.lookup(name, RecordType::SRV)).await
        else {
            return Vec::new();
        };
        let mut records: Vec<_> = lookup
            .answers()
            .iter()
            .filter_map(|record| match &record.data {
                RData::SRV(service) => Some(service),
                _ => None,
            })
            .map(|service| {
                let target = service.target.to_utf8();
                ((service.priority, u16::MAX - service.weight), target.trim_end_matches('.').to_owned(), service.port)
            })
            .filter(|(_, target, _)| !target.is_empty())
            .collect();
        records.sort();
        records.into_iter().take(MOST_TARGETS).map(|(_, target, port)| (target, port)).collect()
    }

    /// Whether this server may connect to addresses of this machine and of the home network.
    pub fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// The addresses behind a name, as far as this server may connect to them.
    pub async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
        let found = match host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.look_up(host).await?,
        };
        let allowed: Vec<_> = found
            .iter()
            .filter(|address| self.allow_private || guard::is_public(**address))
            .map(|address| SocketAddr::new(*address, port))
            .take(MOST_TARGETS)
            .collect();
        match (allowed.is_empty(), found.first()) {
            (false, _) => Ok(allowed),
            (true, None) => Err(format!("the name {host} has no address")),
            (true, Some(address)) => Err(format!("{host} is at {address}, in a private network")),
        }
    }

    async fn look_up(&self, host: &str) -> Result<Vec<IpAddr>, String> {
        let resolver = self.resolver().ok_or("the name service of this machine is not set up")?;
        // A final dot keeps the machine's search domains out of it; names in the hosts file have none.
        let absolute = if host.contains('.') { format!("{host}.") } else { host.to_owned() };
        let lookup = tokio::time::timeout(Duration::from_secs(10), resolver.lookup_ip(absolute)).await;
        let lookup = lookup.map_err(|_| format!("the name service does not answer about {host}"))?;
        Ok(lookup.map_err(|error| error.to_string())?.iter().collect())
    }

    /// The resolver, made when the first name is asked for: reading the system's set-up costs time and memory
    /// that a start has no use for.
    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut resolver = self.resolver.lock();
        if resolver.is_none() {
            let made = TokioResolver::builder_tokio().and_then(|mut builder| {
                builder.options_mut().cache_size = ADDRESSES;
                builder.options_mut().attempts = 2;
                builder.build()
            });
            match made {
                Ok(made) => *resolver = Some(Arc::new(made)),
                Err(error) => tracing::warn!(%error, "the name service of this machine cannot be used: {error}"),
            }
        }
        resolver.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(name: &str) -> Option<Route> {
        direct(&OwnedServerName::try_from(name).unwrap())
    }

    #[test]
    fn addresses_and_ports_need_no_records() {
        let to = |host: &str, name: &str, port| {
            let targets = vec![(name.to_owned(), port)];
            Some(Route { host: host.to_owned(), name: name.to_owned(), targets })
        };
        assert_eq!(route("1.2.3.4"), to("1.2.3.4", "1.2.3.4", 8448));
        assert_eq!(route("[::1]:80"), to("[::1]:80", "::1", 80));
        assert_eq!(route("example.org:443"), to("example.org:443", "example.org", 443));
        assert_eq!(route("example.org"), None);
    }

    #[test]
    fn a_service_is_called_by_the_name_that_it_serves() {
        let name = OwnedServerName::try_from("example.org").unwrap();
        let found = by_records(&name, vec![("mx.example.net".to_owned(), 8443)]);
        assert_eq!((&*found.host, &*found.name), ("example.org", "example.org"));
        assert_eq!(found.targets, [("mx.example.net".to_owned(), 8443)]);
        assert_eq!(by_records(&name, vec![]).targets, [("example.org".to_owned(), 8448)]);
    }

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            (name.parse::<header::HeaderName>().unwrap(), value.parse::<header::HeaderValue>().unwrap())
        };
        lines.iter().map(header).collect()
    }

    #[test]
    fn well_known_answers_hold_as_long_as_they_say_within_reason() {
        // 1994-11-06 08:49:37
        const NOW: u64 = 784_111_777_000;
        let expires = |time| ("expires", time);
        for (lines, expected) in [
            (&[][..], USUAL_AGE),
            (&[("cache-control", "public, max-age=600")], 600),
            (&[("cache-control", "Public,MAX-AGE=600")], 600),
            (&[("cache-control", "public"), ("cache-control", "max-age=\"600\"")], 600),
            (&[("cache-control", "max-age=99999999")], LONGEST_AGE),
            (&[("cache-control", "max-age=5")], SHORTEST_AGE),
            (&[("cache-control", "max-age=a lot")], USUAL_AGE),
            (&[("cache-control", "max-age=600, No-Store")], SHORTEST_AGE),
            (&[("cache-control", "no-cache")], SHORTEST_AGE),
            (&[expires("Sun, 06 Nov 1994 09:49:37 GMT")], 3_600),
            (&[expires("Sun, 06 Nov 1994 09:49:37 GMT"), ("date", "Sun, 06 Nov 1994 09:29:37 GMT")], 1_200),
            (&[expires("Sun, 06 Nov 1994 09:49:37 GMT"), ("cache-control", "max-age=600")], 600),
            (&[expires("Sat, 06 Nov 2094 09:49:37 GMT")], LONGEST_AGE),
            (&[expires("Sun, 06 Nov 1994 07:49:37 GMT")], SHORTEST_AGE),
            (&[expires("0")], SHORTEST_AGE),
        ] {
            assert_eq!(age(&headers(lines), NOW), expected, "{lines:?}");
        }
    }

    /// A name that is asked about, and the web server behind it.
    struct Asked {
        discovery: Discovery,
        clock: Clock,
        fetched: usize,
    }

    impl Asked {
        fn new() -> Self {
            let clock = Clock::by_hand(1_782_000_000_000);
            Self { discovery: Discovery::new(clock.clone(), false, 1 << 20), clock, fetched: 0 }
        }

        /// Where the name leads after so many seconds, if this is what the web server says now.
        async fn after(&mut self, seconds: u64, answer: Option<(&[(&str, &str)], &str)>) -> Option<String> {
            self.clock.advance(Duration::from_secs(seconds));
            let fetched = &mut self.fetched;
            let fetch = |_| {
                *fetched += 1;
                std::future::ready(answer.map(|(lines, body)| (headers(lines), body.as_bytes().to_vec())))
            };
            let name = OwnedServerName::try_from("example.org").unwrap();
            self.discovery.delegation(&name, fetch).await.map(|to| to.to_string())
        }
    }

    const A: &str = r#"{"m.server":"a.example:443"}"#;
    const B: &str = r#"{"m.server":"b.example:443"}"#;

    #[tokio::test]
    async fn an_answer_that_may_not_be_stored_is_not_fetched_for_each_request() {
        let mut asked = Asked::new();
        let answer = |body| Some((&[("cache-control", "no-store")][..], body));
        for (seconds, body, expected) in [(0, A, "a"), (1, B, "a"), (298, B, "a"), (1, B, "b"), (1, A, "b")] {
            assert_eq!(asked.after(seconds, answer(body)).await.unwrap(), format!("{expected}.example:443"));
        }
        assert_eq!(asked.fetched, 2);
    }

    #[tokio::test]
    async fn while_the_web_server_is_away_its_last_answer_holds_for_two_days() {
        let mut asked = Asked::new();
        let to = Some("a.example:443".to_owned());
        let hour = Some((&[("cache-control", "max-age=3600")][..], A));
        assert_eq!(asked.after(0, hour).await, to);
        // It is asked again every ten minutes.
        assert_eq!(asked.after(3_600, None).await, to);
        assert_eq!(asked.after(599, None).await, to);
        assert_eq!(asked.fetched, 2);
        assert_eq!(asked.after(LONGEST_AGE - 4_200, None).await, to);
        assert_eq!(asked.after(1, None).await, None);
        assert_eq!(asked.fetched, 4);
        // It is back; then it says that there is nothing any more.
        assert_eq!(asked.after(600, hour).await, to);
        assert_eq!(asked.after(3_600, Some((&[], ""))).await, None);
    }

    #[tokio::test]
    async fn a_late_answer_is_remembered_though_nobody_waits_for_it_any_more() {
        let discovery = Arc::new(Discovery::new(Clock::by_hand(1_782_000_000_000), false, 1 << 20));
        let name = OwnedServerName::try_from("example.org").unwrap();
        let (answer, answered) = tokio::sync::oneshot::channel();
        let asked = discovery.find(name.clone(), |_| async { answered.await.ok() });
        // Whoever asks gives up.
        assert!(futures_util::FutureExt::now_or_never(asked).is_none());
        tokio::task::yield_now().await;
        answer.send((HeaderMap::new(), A.as_bytes().to_vec())).unwrap();
        while discovery.well_known.get(&name).is_none() {
            tokio::task::yield_now().await;
        }
        let route = discovery.find(name, |_| async { unreachable!("nobody is asked again") }).await.unwrap();
        assert_eq!(route.host, "a.example:443");
    }

    #[test]
    fn only_a_server_name_is_a_delegation() {
        assert_eq!(delegated(br#"{"m.server":"a.example:443"}"#).unwrap(), "a.example:443");
        for body in [&b"{}"[..], b"<html>", br#"{"m.server":"not a name"}"#, br#"{"m.server":1}"#] {
            assert_eq!(delegated(body), None);
        }
    }
}
