//! Everything that a handler can reach: every layer's context in one place.
//!
//! Seen from `http` up. A layer below has a context of its own, which is a field here.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::{
    admin::first::Invitation,
    chance::Chance,
    clock::Clock,
    config::{Config, memory},
    e2ee::{E2ee, one_time_keys},
    error::Result,
    protocol::sign::KeyPair,
    remote::{
        Remote,
        own_key::OwnKeys,
        transport::{Island, Transport},
    },
    rooms::Rooms,
    store::{Store, Sweep},
    sync::Sync,
    users::Users,
};

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
    /// Keys, and messages between devices.
    pub e2ee: E2ee,
    /// Other servers.
    pub remote: Arc<Remote>,
    /// The rooms.
    pub rooms: Arc<Rooms>,
    /// What changed for whom.
    pub sync: Arc<Sync>,
    /// How the first person gets an account.
    pub invitation: Invitation,
    /// Cancelled when the server stops: whoever waits for news answers with what there is.
    pub stop: CancellationToken,
}

/// What is put in order at the end of every start, before anybody is served.
pub const SWEEPS: &[Sweep] = &[one_time_keys::sweep];

/// What every handler gets first.
pub type Ctx = Arc<App>;

impl App {
    /// The server over this store, which signs with `keys` and reaches others over `transport`.
    pub fn new(
        config: Config,
        clock: Clock,
        chance: Chance,
        store: Store,
        keys: impl Into<OwnKeys>,
        transport: Arc<dyn Transport>,
    ) -> Result<Ctx> {
        let OwnKeys { pair, given_up } = keys.into();
        let (config, key) = (Arc::new(config), Arc::new(pair));
        let users = Users::new(Arc::clone(&config), clock.clone(), chance.clone(), store.clone());
        let e2ee = users.e2ee.clone();
        let mut remote =
            Remote::new(Arc::clone(&config), clock.clone(), chance.clone(), store.clone(), key, transport)?;
        remote.given_up = given_up;
        let remote = Arc::new(remote);
        let memory = memory::share(&config, memory::Share::Rooms);
        let rooms = Arc::new(Rooms::new(users.clone(), Arc::clone(&remote), memory));
        let stop = CancellationToken::new();
        let sync = Arc::new(Sync::new(Arc::clone(&rooms), stop.clone()));
        Ok(Arc::new(Self {
            config,
            clock,
            chance,
            store,
            e2ee,
            users,
            remote,
            rooms,
            sync,
            invitation: Invitation::default(),
            stop,
        }))
    }

    /// A server for tests: everything in memory, a clock that the test turns, the same secrets each time.
    pub fn for_tests() -> Ctx {
        Self::with_config(Config::for_tests())
    }

    /// The same with a configuration of the test's own.
    pub fn with_config(config: Config) -> Ctx {
        // Some day in 2026.
        let clock = Clock::by_hand(1_782_000_000_000);
        let key = KeyPair::from_seed(&[7; 32], "test");
        match Self::new(config, clock, Chance::seeded(7), Store::in_memory(), key, Arc::new(Island)) {
            Ok(app) => app,
            Err(error) => unreachable!("an empty store in memory holds nothing that can be wrong: {error:?}"),
        }
    }
}
