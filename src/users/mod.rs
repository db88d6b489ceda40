//! The people of this server: accounts, passwords, tokens, devices, profiles and account data.
//!
//! [`Users`] is the context. Whoever changes an account holds [`Users::lock`] of it from reading to
//! `commit`. [`Users::identify`] turns an access token into a [`User`] without touching the disk, most
//! of the time. What other servers' people do is not here, and neither is anything about rooms: a
//! change of the profile reaches them through `rooms::profile`.

pub mod account_data;
pub mod accounts;
pub mod devices;
pub mod filters;
pub mod passwords;
pub mod profiles;
pub mod push_rules;
pub mod pushers;
pub mod registration;
pub mod resets;
pub mod sessions;
pub mod tickets;
pub mod uia;

use std::{
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard};
use ruma::{OwnedServerName, UserId};

use self::tickets::Tickets;
pub use self::{profiles::Profile, sessions::User};
use crate::{
    chance::Chance,
    clock::Clock,
    config::{Config, memory},
    e2ee::E2ee,
    error::Error,
    store::{
        Store, Write,
        schema::{UserNo, devices::TokenKey},
    },
};

/// How many locks there are for all accounts together.
const LOCKS: usize = 64;

/// How long a login token holds.
const LOGIN: Duration = Duration::from_secs(2 * 60);
/// How long an OpenID token holds.
const OPEN_ID: Duration = Duration::from_secs(3600);

/// How long a nonce for a registration with the shared secret holds.
const NONCE: Duration = Duration::from_secs(60);

/// The context of this module. Cheap to clone.
#[derive(Clone)]
pub struct Users {
    /// The configuration.
    pub config: Arc<Config>,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub chance: Chance,
    /// Where accounts are kept.
    pub store: Store,
    /// The name of this server.
    pub server_name: OwnedServerName,
    /// The keys of devices, which go with them.
    pub e2ee: E2ee,
    inner: Arc<Inner>,
}

struct Inner {
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
    sessions: sessions::Cache,
    seen: devices::Seen,
    passwords: passwords::Passwords,
    push_rules: push_rules::Cache,
    /// How often a pusher was set.
    pushers: AtomicU64,
    uia: uia::Sessions,
    erased: accounts::Erased,
    logins: Tickets<UserNo>,
    open_ids: Tickets<UserNo>,
    nonces: Tickets<()>,
}

impl Users {
    /// The accounts in this store.
    pub fn new(config: Arc<Config>, clock: Clock, chance: Chance, store: Store) -> Self {
        let memory = memory::share(&config, memory::Share::Users);
        let inner = Inner {
            locks: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::new(),
            sessions: sessions::Cache::new(memory / 4),
            seen: devices::Seen::default(),
            passwords: passwords::Passwords::new(),
            push_rules: push_rules::Cache::new(memory / 4 * 3),
            pushers: AtomicU64::default(),
            uia: uia::Sessions::new(),
            erased: accounts::Erased::default(),
            logins: Tickets::new(LOGIN, 1000),
            open_ids: Tickets::new(OPEN_ID, 1000),
            nonces: Tickets::new(NONCE, 1000),
        };
        let server_name = config.server_name.clone();
        let e2ee = E2ee::new(server_name.clone(), clock.clone(), store.clone());
        Self { server_name, config, clock, chance, store, e2ee, inner: Arc::new(inner) }
    }

    /// Accounts over a store, for tests of what lies above.
    pub fn for_tests(store: &Store, clock: &Clock, config: &Arc<Config>) -> Self {
        Self::new(Arc::clone(config), clock.clone(), Chance::seeded(7), store.clone())
    }

    /// The deciding lock of an account, by its number, or of a name that is about to be taken. Nobody
    /// holds two.
    pub fn lock(&self, subject: impl Hash) -> MutexGuard<'_, ()> {
        let place = self.inner.hasher.hash_one(subject) % LOCKS as u64;
        self.inner.locks[usize::try_from(place).unwrap_or(0)].lock()
    }

    /// Whether a user is of this server.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.server_name
    }

    /// Tokens with which a device that is logged in lets another one log in.
    pub fn login_tokens(&self) -> &Tickets<UserNo> {
        &self.inner.logins
    }

    /// Tokens with which somebody shows another program who they are.
    pub fn open_ids(&self) -> &Tickets<UserNo> {
        &self.inner.open_ids
    }

    /// Nonces for registrations with the shared secret.
    pub fn nonces(&self) -> &Tickets<()> {
        &self.inner.nonces
    }

    /// Commits at once; then, when it is durable, makes the server forget the tokens that the `Write`
    /// removed.
    pub fn commit(
        &self,
        write: Write,
        closed: Vec<TokenKey>,
    ) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let ticket = write.commit();
        let inner = Arc::clone(&self.inner);
        async move {
            let published = ticket?.published().await;
            // Also if the outcome is unknown: whoever asks next looks at the rows.
            closed.iter().for_each(|key| inner.sessions.forget(key));
            published?;
            Ok(())
        }
    }
}
