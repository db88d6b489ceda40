//! Everything that a handler can reach: every layer's context in one place.
//!
//! Seen from `http` up. A layer below has a context of its own, which is a field here.

use std::sync::Arc;

use crate::{chance::Chance, clock::Clock, config::Config, store::Store, users::Users};

/// The running server, as handlers see it.
pub struct App {
    /// The configuration.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub chance: Chance,
    /// What is remembered.
    pub store: Store,
    /// The accounts of this server.
    pub users: Users,
}

/// What every handler gets first.
pub type Ctx = Arc<App>;

impl App {
    /// The server over this store.
    pub fn new(config: Config, clock: Clock, chance: Chance, store: Store) -> Ctx {
        let config = Arc::new(config);
        let users = Users::new(Arc::clone(&config), clock.clone(), chance.clone(), store.clone());
        Arc::new(Self { config, clock, chance, store, users })
    }

    /// A server for tests: everything in memory, a clock that the test turns, the same secrets each time.
    pub fn for_tests() -> Ctx {
        Self::with_config(Config::for_tests())
    }

    /// The same with a configuration of the test's own.
    pub fn with_config(config: Config) -> Ctx {
        // Some day in 2026.
        Self::new(config, Clock::by_hand(1_782_000_000_000), Chance::seeded(7), Store::in_memory())
    }
}
