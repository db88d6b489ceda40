//! What one connection, and one address, may take of the server.
//!
//! How often somebody may ask is decided where it is known who asks, in `http`; here it is about
//! connections: how many, and how long one may keep the server waiting.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;

/// How long a connection may keep the server waiting, and how much it may hold.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, from the first wait for it.
    pub head: Duration,
    /// For the next bytes of a body that was begun, in both directions.
    pub stalled: Duration,
    /// For a connection on which no request is being answered.
    pub idle: Duration,
    /// For requests that are in flight when the server stops.
    pub stop: Duration,
    /// Bytes of a request's head.
    pub head_bytes: usize,
    /// Requests at the same time on one HTTP/2 connection.
    pub streams: u32,
    /// Connections at the same time.
    pub connections: usize,
    /// Connections at the same time from one address.
    pub per_address: usize,
}

impl Limits {
    /// What the configuration says, and what holds for everybody.
    pub fn new(limits: &config::Limits) -> Self {
        Self {
            handshake: Duration::from_secs(10),
            head: Duration::from_secs(30),
            stalled: Duration::from_secs(60),
            idle: Duration::from_secs(90),
            stop: Duration::from_secs(10),
            head_bytes: 64 * 1024,
            streams: 128,
            connections: limits.max_connections.clamp(1, Semaphore::MAX_PERMITS),
            per_address: limits.max_connections_per_address.max(1),
        }
    }
}

/// Counts connections. Clones count together.
#[derive(Debug, Clone)]
pub struct Gate {
    all: Arc<Semaphore>,
    by_address: Arc<Mutex<HashMap<IpAddr, usize>>>,
    per_address: usize,
}

/// A place for one connection, given back when it is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    counted: Option<(Gate, IpAddr)>,
}

impl Gate {
    /// An empty house.
    pub fn new(limits: &Limits) -> Self {
        Self {
            all: Arc::new(Semaphore::new(limits.connections)),
            by_address: Arc::default(),
            per_address: limits.per_address,
        }
    }

    /// Waits until there is room for one more connection.
    pub async fn wait(&self) -> OwnedSemaphorePermit {
        match Arc::clone(&self.all).acquire_owned().await {
            Ok(permit) => permit,
            // The semaphore is never closed.
            Err(_) => std::future::pending().await,
        }
    }

    /// Lets a connection in, unless its address has too many. A unix socket and this machine itself
    /// (where a reverse proxy may run) are not counted.
    pub fn enter(&self, permit: OwnedSemaphorePermit, address: Option<IpAddr>) -> Option<Place> {
        let counted = match address.map(|address| address.to_canonical()) {
            Some(address) if !address.is_loopback() => {
                let network = network(address);
                let mut by_address = self.by_address.lock();
                let count = by_address.entry(network).or_default();
                if *count >= self.per_address {
                    return None;
                }
                *count += 1;
                Some((self.clone(), network))
            }
            _ => None,
        };
        Some(Place { _permit: permit, counted })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((gate, network)) = self.counted.take() {
            let mut by_address = gate.by_address.lock();
            if let Some(count) = by_address.get_mut(&network) {
                *count -= 1;
                if *count == 0 {
                    by_address.remove(&network);
                }
            }
        }
    }
}

/// Whoever has an IPv6 address has 2^64 of them: they count as one.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(per_address: usize) -> Gate {
        let mut limits = Limits::new(&config::Config::default().limits);
        limits.per_address = per_address;
        Gate::new(&limits)
    }

    async fn enter(gate: &Gate, address: &str) -> Option<Place> {
        gate.enter(gate.wait().await, Some(address.parse().expect("an address")))
    }

    #[tokio::test]
    async fn an_address_has_its_share_and_gets_it_back() {
        let gate = gate(1);
        let first = enter(&gate, "192.0.2.1").await;
        assert!(first.is_some());
        assert!(enter(&gate, "192.0.2.1").await.is_none());
        assert!(enter(&gate, "::ffff:192.0.2.1").await.is_none(), "the same in other words");
        assert!(enter(&gate, "192.0.2.2").await.is_some());
        drop(first);
        assert!(enter(&gate, "192.0.2.1").await.is_some());
        assert!(gate.by_address.lock().is_empty(), "nothing is kept of those who left");
    }

    #[tokio::test]
    async fn a_network_of_ipv6_is_one_address() {
        let gate = gate(1);
        let first = enter(&gate, "2001:db8::1").await;
        assert!(enter(&gate, "2001:db8::2").await.is_none());
        assert!(enter(&gate, "2001:db8:0:1::1").await.is_some());
        drop(first);
    }

    #[tokio::test]
    async fn this_machine_is_not_counted() {
        let gate = gate(1);
        let all = [enter(&gate, "127.0.0.1").await, enter(&gate, "127.0.0.1").await, enter(&gate, "::1").await];
        assert!(all.iter().all(Option::is_some));
    }
}
