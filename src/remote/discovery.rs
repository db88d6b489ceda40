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
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    proto::rr::{RData, RecordType},
};
use http::HeaderMap;
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
/// How long an answer holds at most, in seconds.
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

/// How long a `.well-known` answer holds, in seconds. Spec: server-server-api#getwell-knownmatrixserver
fn age(headers: &HeaderMap) -> u64 {
    let control = headers.get(http::header::CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let directive = |name: &str| control.split(',').any(|part| part.trim().eq_ignore_ascii_case(name));
    if directive("no-store") || directive("no-cache") {
        return 0;
    }
    let max = control.split(',').find_map(|part| part.trim().strip_prefix("max-age=")?.parse::<u64>().ok());
    max.unwrap_or(USUAL_AGE).min(LONGEST_AGE)
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

/// Reads a `.well-known` answer: the name that it leads to, and for how many seconds that holds.
pub fn delegation(headers: &HeaderMap, body: &[u8]) -> (Option<OwnedServerName>, u64) {
    match delegated(body) {
        Some(found) => (Some(found), age(headers)),
        None => (None, FAILURE_AGE),
    }
}

/// A `.well-known` answer and until when it holds (milliseconds since the epoch).
type Remembered = (Option<OwnedServerName>, u64);

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

    /// Where a server answers. `fetch` gets `https://<host>/.well-known/matrix/server`, following redirects.
    pub async fn route<F>(&self, name: &ServerName, fetch: impl FnOnce(String) -> F) -> Route
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
        if let Some((delegated, until)) = self.well_known.get(name)
            && until > now
        {
            return delegated;
        }
        let answer = fetch(parts(name).host).await;
        let (found, seconds) = match &answer {
            Some((headers, body)) => delegation(headers, body),
            None => (None, FAILURE_AGE),
        };
        self.well_known.insert(name.to_owned(), (found.clone(), now + seconds * 1_000));
        found
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

    #[test]
    fn well_known_answers_hold_as_long_as_they_say_within_reason() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("cache-control", value.parse().unwrap());
            age(&headers)
        };
        assert_eq!(age(&HeaderMap::new()), USUAL_AGE);
        assert_eq!(with("public, max-age=60"), 60);
        assert_eq!(with("max-age=99999999"), LONGEST_AGE);
        assert_eq!(with("no-store"), 0);
    }

    #[test]
    fn only_a_server_name_is_a_delegation() {
        assert_eq!(delegated(br#"{"m.server":"a.example:443"}"#).unwrap(), "a.example:443");
        for body in [&b"{}"[..], b"<html>", br#"{"m.server":"not a name"}"#, br#"{"m.server":1}"#] {
            assert_eq!(delegated(body), None);
        }
    }
}
