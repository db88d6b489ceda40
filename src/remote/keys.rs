//! The keys with which other servers sign, fetched from them, verified, and kept.
//!
//! A key is believed for at most seven days after it was fetched, however long its server vouches for it.
//! Keys that a server has given up still verify its old events. When a server is silent, the notaries of the
//! configuration are asked.
//!
//! Spec: server-server-api#retrieving-server-keys

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{
    OwnedServerName, ServerName,
    api::federation::discovery::{get_remote_server_keys, get_server_keys},
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{Patience, Remote, RemoteError, is_own, own_key::GivenUp, permitted::Permitted};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{self, Numbers, Object},
        sign::{PublicKey, sign_json, verify_json},
    },
    store::{
        Store,
        schema::federation::{SERVER_KEYS, SERVER_STATEMENTS, ServerKeyRow},
    },
};

/// The longest time for which an answer about keys is believed, in milliseconds.
const LONGEST_VALIDITY: u64 = 7 * 24 * 3_600_000;
/// For how long this server vouches for its own key, in milliseconds.
const OWN_VALIDITY: u64 = 24 * 3_600_000;
/// How many keys of one server are kept.
const MOST_KEYS: usize = 50;
/// How long the ID of a key may be that is kept.
const LONGEST_KEY_ID: usize = 255;
/// For how long a server is not asked again for the sake of others who want its keys vouched for, in milliseconds.
const NOTARY_PAUSE: u64 = 60_000;
/// For how long a server is not asked again for the key of a request, whatever it is called, and for how long nobody
/// is asked again for a key that nobody had, in milliseconds.
const REQUEST_PAUSE: u64 = 10_000;
const IN_VAIN_PAUSE: u64 = 60_000;
/// How many servers are asked at the same time for the sake of others, and for the keys of requests.
const VOUCHED_AT_ONCE: usize = 20;
const SOUGHT_AT_ONCE: usize = 200;
/// Of how many servers it is remembered when they were asked, and of how many keys that nobody had them.
const MOST_ASKED: usize = 2_000;
/// How long an answer about keys may take: a server that is asked for the first time has to be found, too.
const TIMEOUT: Duration = Duration::from_secs(20);
/// What a key takes in memory, roughly.
const IN_MEMORY: u64 = 600;

/// The keys that are known.
pub struct Keys {
    store: Store,
    permitted: Arc<Permitted>,
    cache: Cache<(String, String), Kept>,
    /// Servers that are being asked: whoever wants the same waits instead of asking again.
    asking: Mutex<HashMap<OwnedServerName, Arc<tokio::sync::Mutex<()>>>>,
    /// When servers were last asked for the sake of others.
    asked: Cache<OwnedServerName, u64>,
    /// Taken while a server is asked for the sake of others.
    vouching: Semaphore,
    /// Taken while a server is asked for the key of a request.
    seeking: Semaphore,
    /// When servers were last asked for the key of a request.
    asked_for_requests: Cache<OwnedServerName, u64>,
    /// When it was found that nobody has a key.
    in_vain: Cache<(OwnedServerName, String), u64>,
}

/// A key that is in memory, unpacked: that takes about a fifth of the time in which it verifies something.
#[derive(Clone)]
struct Kept {
    key: Option<PublicKey>,
    valid_until: u64,
    old: bool,
}

impl From<&ServerKeyRow> for Kept {
    fn from(row: &ServerKeyRow) -> Self {
        Self { key: PublicKey::from_base64(&row.key), valid_until: row.valid_until, old: row.old }
    }
}

/// What a server says about its keys. Spec: server-server-api#get_matrixkeyv2server
#[derive(Debug, Deserialize)]
struct Statement {
    server_name: OwnedServerName,
    valid_until_ts: u64,
    verify_keys: BTreeMap<String, VerifyKey>,
    #[serde(default)]
    old_verify_keys: BTreeMap<String, OldKey>,
}

#[derive(Debug, Deserialize)]
struct VerifyKey {
    key: String,
}

#[derive(Debug, Deserialize)]
struct OldKey {
    key: String,
    expired_ts: u64,
}

/// For what a key must be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A request, or anything else that happens now (milliseconds since the epoch).
    Now(u64),
    /// An event that was sent then, in a room whose version looks at the validity of keys.
    Event(u64),
    /// An event in a room whose version does not.
    AnyTime,
}

impl Keys {
    /// What the store has; of it about so many bytes stay in memory.
    pub(super) fn new(store: Store, permitted: Arc<Permitted>, memory: u64) -> Self {
        let cache = Cache::new(usize::try_from(memory / IN_MEMORY).unwrap_or(usize::MAX));
        Self {
            store,
            permitted,
            cache,
            asking: Mutex::default(),
            asked: Cache::new(MOST_ASKED),
            vouching: Semaphore::new(VOUCHED_AT_ONCE),
            seeking: Semaphore::new(SOUGHT_AT_ONCE),
            asked_for_requests: Cache::new(MOST_ASKED),
            in_vain: Cache::new(MOST_ASKED),
        }
    }

    /// A key that is known and fit for the purpose.
    pub fn known(&self, server: &ServerName, key_id: &str, purpose: Purpose) -> Option<PublicKey> {
        if !self.permitted.is(server) {
            return None;
        }
        let at = (server.as_str().to_owned(), key_id.to_owned());
        let kept = match self.cache.get(&at) {
            Some(kept) => kept,
            None => {
                let kept = Kept::from(&self.store.get(SERVER_KEYS, &at).ok().flatten()?);
                self.cache.insert(at, kept.clone());
                kept
            }
        };
        let fit = match purpose {
            Purpose::Now(now) => !kept.old && kept.valid_until >= now,
            Purpose::Event(sent) => kept.valid_until >= sent,
            Purpose::AnyTime => true,
        };
        kept.key.filter(|_| fit)
    }

    /// Keeps what a server says of its keys, in place of the oldest of those that it does not speak of any more.
    fn keep(&self, statement: &Statement, text: String, now: u64) -> Result<()> {
        let believed = statement.valid_until_ts.min(now + LONGEST_VALIDITY);
        let mut write = self.store.write();
        let current = statement.verify_keys.iter().map(|(id, key)| (id, &key.key, believed, false));
        let old = statement.old_verify_keys.iter().map(|(id, key)| (id, &key.key, key.expired_ts, true));
        let good = |id: &str, key: &str| id.len() <= LONGEST_KEY_ID && PublicKey::from_base64(key).is_some();
        let said: Vec<_> = current.chain(old).filter(|(id, key, ..)| good(id, key)).take(MOST_KEYS).collect();
        let server = statement.server_name.as_str().to_owned();
        let mut others = Vec::new();
        for row in self.store.scan(SERVER_KEYS, &(server.clone(),)) {
            let (at, row) = row?;
            if !said.iter().any(|(id, ..)| **id == at.1) {
                others.push((row.valid_until, at));
            }
        }
        others.sort_unstable();
        let surplus = (others.len() + said.len()).saturating_sub(MOST_KEYS);
        for (_, at) in others.into_iter().take(surplus) {
            write.delete(SERVER_KEYS, &at);
            self.cache.remove(&at);
        }
        for (id, key, valid_until, old) in said {
            let at = (server.clone(), id.clone());
            let row = ServerKeyRow { key: key.clone(), valid_until, old };
            write.put(SERVER_KEYS, &at, &row);
            self.cache.insert(at, Kept::from(&row));
        }
        write.put(SERVER_STATEMENTS, &server, &text);
        drop(write.commit()?);
        Ok(())
    }

    /// Whether it is long enough ago that a server was asked for the sake of others; it is `now`, then.
    fn may_ask(&self, server: &ServerName, now: u64) -> bool {
        is_due(&self.asked, server, now, NOTARY_PAUSE)
    }

    /// Whether anybody is asked for a key now. Whoever writes any name into a request, and any key, must not be able
    /// to make this server ask that other one each time.
    fn may_seek(&self, server: &ServerName, key_id: &str, purpose: Purpose, now: u64) -> bool {
        let last = self.in_vain.get(&(server.to_owned(), key_id.to_owned()));
        let is_sought = last.is_none_or(|last| now.abs_diff(last) >= IN_VAIN_PAUSE);
        match purpose {
            Purpose::Now(_) => is_sought && is_due(&self.asked_for_requests, server, now, REQUEST_PAUSE),
            Purpose::Event(_) | Purpose::AnyTime => is_sought,
        }
    }

    fn asking(&self, server: &ServerName) -> Arc<tokio::sync::Mutex<()>> {
        let mut asking = self.asking.lock();
        asking.retain(|_, lock| Arc::strong_count(lock) > 1);
        Arc::clone(asking.entry(server.to_owned()).or_default())
    }
}

/// Whether something was last done long enough ago; it is done `now`, then.
fn is_due(last: &Cache<OwnedServerName, u64>, server: &ServerName, now: u64, pause: u64) -> bool {
    let due = last.get(server).is_none_or(|last| now.abs_diff(last) >= pause);
    if due {
        last.insert(server.to_owned(), now);
    }
    due
}

impl Remote {
    /// A key of a server, from memory or from the network.
    pub async fn key_of(&self, server: &ServerName, key_id: &str, purpose: Purpose) -> Option<PublicKey> {
        if let Some(key) = self.known_key(server, key_id, purpose) {
            return Some(key);
        }
        if is_own(&self.config, server) {
            return None;
        }
        self.fetch_keys(server, key_id, purpose).await;
        self.keys.known(server, key_id, purpose)
    }

    /// A key of a server, this one or another, that is known and fit for the purpose.
    pub fn known_key(&self, server: &ServerName, key_id: &str, purpose: Purpose) -> Option<PublicKey> {
        if !is_own(&self.config, server) {
            return self.keys.known(server, key_id, purpose);
        }
        if self.key.id() == key_id {
            return Some(self.key.public());
        }
        let fit = |old: &&GivenUp| match purpose {
            Purpose::Now(_) => false,
            Purpose::Event(sent) => old.since >= sent,
            Purpose::AnyTime => true,
        };
        self.given_up.iter().filter(|old| old.id == key_id).find(fit).map(|old| old.public.clone())
    }

    /// Makes sure, as far as possible, that all these keys are known; servers are asked at the same time.
    pub async fn prepare_keys(&self, wanted: impl IntoIterator<Item = (OwnedServerName, String, Purpose)>) {
        let mut servers: BTreeMap<OwnedServerName, (String, Purpose)> = BTreeMap::new();
        for (server, key_id, purpose) in wanted {
            if !is_own(&self.config, &server) && self.keys.known(&server, &key_id, purpose).is_none() {
                servers.insert(server, (key_id, purpose));
            }
        }
        let servers: Vec<_> = servers.into_iter().collect();
        for some in servers.chunks(50) {
            join_all(some.iter().map(|(server, (key_id, purpose))| self.fetch_keys(server, key_id, *purpose))).await;
        }
    }

    /// What this server says of its own keys, signed. Spec: server-server-api#get_matrixkeyv2server
    pub fn own_keys(&self) -> Object {
        let key = |key: &PublicKey| Object::from([("key".to_owned(), key.to_base64().into())]);
        let keys = Object::from([(self.key.id(), canonical::Value::Object(key(&self.key.public())))]);
        let old = self.given_up.iter().map(|old| {
            let mut key = key(&old.public);
            key.insert("expired_ts".to_owned(), canonical::unsigned(old.since));
            (old.id.clone(), canonical::Value::Object(key))
        });
        let mut object = Object::from([
            ("server_name".to_owned(), self.config.server_name.as_str().into()),
            ("valid_until_ts".to_owned(), canonical::unsigned(self.clock.now() + OWN_VALIDITY)),
            ("verify_keys".to_owned(), canonical::Value::Object(keys)),
            ("old_verify_keys".to_owned(), canonical::Value::Object(old.collect())),
        ]);
        sign_json(&mut object, self.config.server_name.as_str(), &self.key);
        object
    }

    /// What a server says of its keys, fetched if what is kept does not hold until `valid_until`, with the
    /// signature of this server beside its own. Nothing if it cannot be had. However much is asked, and for whatever
    /// future, a server is bothered once a minute at most.
    ///
    /// Spec: server-server-api#querying-keys-through-another-server
    pub async fn vouch(&self, server: &ServerName, valid_until: u64) -> Result<Option<Object>> {
        if is_own(&self.config, server) {
            return Ok(Some(self.own_keys()));
        }
        let kept = || self.store.get(SERVER_STATEMENTS, &server.as_str().to_owned());
        let holds = |text: &String| statement_of(text).is_some_and(|(_, until)| until >= valid_until);
        if !kept()?.as_ref().is_some_and(holds) {
            // Anybody may ask, and about a hundred servers with one request.
            let _one_of_a_few = self.keys.vouching.acquire().await.map_err(Error::internal)?;
            let asking = self.keys.asking(server);
            let _alone = asking.lock().await;
            if !kept()?.as_ref().is_some_and(holds)
                && self.keys.may_ask(server, self.clock.now())
                && let Err(error) = self.ask_server(server, false).await
            {
                tracing::debug!(%server, %error, "no keys to vouch for");
            }
        }
        let Some((mut object, _)) = kept()?.as_ref().and_then(|text| statement_of(text)) else { return Ok(None) };
        sign_json(&mut object, self.config.server_name.as_str(), &self.key);
        Ok(Some(object))
    }

    async fn fetch_keys(&self, server: &ServerName, key_id: &str, purpose: Purpose) {
        if !self.permitted.is(server) {
            return;
        }
        let asking = self.keys.asking(server);
        let _alone = asking.lock().await;
        let now = self.clock.now();
        let is_known = || self.keys.known(server, key_id, purpose).is_some();
        if is_known() || !self.keys.may_seek(server, key_id, purpose, now) {
            return;
        }
        // Whoever has signed a request is there, however long it was left alone. Who has not signed it costs little.
        let insist = matches!(purpose, Purpose::Now(_));
        let _one_of_many = match insist {
            true => self.keys.seeking.acquire().await.ok(),
            false => None,
        };
        if let Err(error) = self.ask_server(server, insist).await {
            tracing::debug!(%server, %error, "no keys from the server itself");
        }
        for notary in self.config.federation.trusted_key_servers.iter().filter(|notary| *notary != server) {
            if is_known() {
                return;
            }
            if let Err(error) = self.ask_notary(notary, server).await {
                tracing::debug!(%server, %notary, %error, "no keys from the notary");
            }
        }
        if !is_known() {
            self.keys.in_vain.insert((server.to_owned(), key_id.to_owned()), now);
        }
    }

    async fn ask_server(&self, server: &ServerName, insist: bool) -> Result<(), RemoteError> {
        let patience = Patience { timeout: TIMEOUT, limit: 256 * 1024, insist };
        let body = self.ask_unsigned(server, get_server_keys::v2::Request::new(), patience).await?;
        let object = canonical::parse_object(&body, Numbers::Lax).map_err(nonsense)?;
        self.believe(server, &object)
    }

    async fn ask_notary(&self, notary: &ServerName, server: &ServerName) -> Result<(), RemoteError> {
        #[derive(Deserialize)]
        struct Answer {
            server_keys: Vec<Object>,
        }
        let patience = Patience { timeout: TIMEOUT, limit: 1024 * 1024, insist: false };
        let now = self.clock.timestamp();
        let request = get_remote_server_keys::v2::Request::new(server.to_owned(), now);
        let body = self.ask_unsigned(notary, request, patience).await?;
        let answer = canonical::parse(&body, Numbers::Lax).map_err(nonsense)?;
        let answer: Answer = canonical::from_value(&answer).map_err(nonsense)?;
        for object in answer.server_keys.iter().take(MOST_KEYS) {
            let notary_key = |key_id: &str| self.keys.known(notary, key_id, Purpose::Now(self.clock.now()));
            let vouched = verify_json(object, notary.as_str(), notary_key).is_ok();
            if !vouched {
                self.ask_server(notary, false).await?;
                verify_json(object, notary.as_str(), notary_key).map_err(nonsense)?;
            }
            self.believe(server, object)?;
        }
        Ok(())
    }

    /// Keeps what a server says of its keys if it has signed that with each of them.
    fn believe(&self, server: &ServerName, object: &Object) -> Result<(), RemoteError> {
        let value = canonical::Value::Object(object.clone());
        let statement: Statement = canonical::from_value(&value).map_err(nonsense)?;
        if statement.server_name != *server {
            return Err(RemoteError::Nonsense(format!("it speaks for {}", statement.server_name)));
        }
        // A statement that no key has signed could come from anybody.
        if !statement.verify_keys.keys().any(|id| id.starts_with("ed25519:")) {
            return Err(RemoteError::Nonsense("it has no key that this server understands".to_owned()));
        }
        for (key_id, key) in statement.verify_keys.iter().filter(|(id, _)| id.starts_with("ed25519:")) {
            let public = PublicKey::from_base64(&key.key);
            let only = |id: &str| public.clone().filter(|_| id == key_id);
            verify_json(object, server.as_str(), only).map_err(nonsense)?;
        }
        let text = canonical::write_object(object);
        self.keys.keep(&statement, text, self.clock.now()).map_err(|error| RemoteError::Nonsense(error.to_string()))
    }
}

/// A kept statement with the time until which its server vouches for it.
fn statement_of(text: &str) -> Option<(Object, u64)> {
    let object = canonical::parse_object(text.as_bytes(), Numbers::Lax).ok()?;
    let until = object.get("valid_until_ts").and_then(canonical::Value::as_int)?;
    Some((object, until.try_into().ok()?))
}

fn nonsense(error: impl std::fmt::Display) -> RemoteError {
    RemoteError::Nonsense(error.to_string())
}
