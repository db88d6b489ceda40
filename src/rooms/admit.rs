//! Raw PDUs from other servers become events: keys are fetched, then format, signatures and hash are checked.
//!
//! Keys of many events are fetched together, and many signatures are checked on all cores, off the async
//! threads. What fails is dropped with one line in the log.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::Rooms;
use crate::{
    error::{Error, Result},
    heavy,
    protocol::{
        canonical::{Object, Value},
        event::{Event, read_pdu},
        hash,
        intake::admit,
        policy, sign,
        version::Rules,
    },
    remote::{Remote, keys::Purpose},
};

/// How many events are checked on one thread at a time.
const BATCH: usize = 64;

/// Reads the JSON of a PDU in a room of this version.
pub fn object(pdu: &RawValue, rules: &Rules) -> Result<Object> {
    read_pdu(pdu.get().as_bytes(), rules).map_err(|error| Error::bad_json(error.to_string()))
}

/// For what the key of an event must be valid.
fn purpose(pdu: &Object, rules: &Rules) -> Purpose {
    let sent = pdu.get("origin_server_ts").and_then(Value::as_int).and_then(|sent| u64::try_from(sent).ok());
    match (rules.key_validity, sent) {
        (true, Some(sent)) => Purpose::Event(sent),
        _ => Purpose::AnyTime,
    }
}

/// The keys with which a PDU should have been signed.
fn keys(pdu: &Object, rules: &Rules) -> Vec<(OwnedServerName, String, Purpose)> {
    let Ok(signers) = sign::signers(pdu, rules) else { return Vec::new() };
    let purpose = purpose(pdu, rules);
    let keys = |signer: &OwnedServerName| {
        // No server publishes the key of a policy server: it is in the room.
        let ids = sign::key_ids(pdu, signer.as_str()).filter(|id| *id != policy::KEY_ID);
        let ids: Vec<_> = ids.map(str::to_owned).collect();
        ids.into_iter().map(|id| (signer.clone(), id, purpose)).collect::<Vec<_>>()
    };
    signers.iter().flat_map(keys).collect()
}

/// Checks one PDU whose keys have been fetched.
fn check(remote: &Remote, pdu: Object, rules: &Rules) -> Result<Event> {
    let purpose = purpose(&pdu, rules);
    let key = |server: &ServerName, id: &str| remote.known_key(server, id, purpose);
    admit(pdu, rules, key).map_err(|dropped| Error::forbidden(dropped.to_string()))
}

/// Checks one PDU.
pub async fn one(rooms: &Rooms, pdu: Object, rules: &Rules) -> Result<Event> {
    rooms.remote.prepare_keys(keys(&pdu, rules)).await;
    check(&rooms.remote, pdu, rules)
}

/// The ID of a PDU, if it is good enough to have one.
pub fn event_id(pdu: &Object, rules: &Rules) -> Option<OwnedEventId> {
    hash::event_id(pdu, rules).or_else(|| OwnedEventId::try_from(pdu.get("event_id")?.as_str()?).ok())
}

/// The keys with which PDUs should have been signed: each once, fit for the newest event that it is to verify.
fn keys_of_all(
    remote: &Remote,
    pdus: &[Object],
    rules: &Rules,
) -> impl Iterator<Item = (OwnedServerName, String, Purpose)> + use<> {
    // No key is valid in a future that an event may claim.
    let now = remote.clock.now();
    let mut wanted: BTreeMap<(OwnedServerName, String), Purpose> = BTreeMap::new();
    for (server, id, purpose) in pdus.iter().flat_map(|pdu| keys(pdu, rules)) {
        let purpose = match purpose {
            Purpose::Event(sent) => Purpose::Event(sent.min(now)),
            purpose => purpose,
        };
        let newest = wanted.entry((server, id)).or_insert(purpose);
        if let (Purpose::Event(newest), Purpose::Event(sent)) = (newest, purpose) {
            *newest = sent.max(*newest);
        }
    }
    wanted.into_iter().map(|((server, id), purpose)| (server, id, purpose))
}

/// What came out of a check of PDUs.
#[derive(Debug, Default)]
pub struct Checked {
    /// Those that are good.
    pub events: Vec<Event>,
    /// Those of which that is not known, because nobody has the keys with which they are signed.
    pub keyless: Vec<OwnedEventId>,
}

/// Checks PDUs that come as texts, on threads that may block; those that fail are left out. `tried` are servers
/// whose keys were asked for already, and those of this call.
pub async fn texts(
    rooms: &Rooms,
    pdus: Vec<String>,
    rules: &'static Rules,
    tried: &Mutex<HashSet<OwnedServerName>>,
) -> Checked {
    let remote = Arc::clone(&rooms.remote);
    let now = move || {
        let (mut events, mut later) = (Vec::with_capacity(pdus.len()), Vec::new());
        for pdu in pdus {
            let Ok(pdu) = read_pdu(pdu.as_bytes(), rules) else { continue };
            match are_known(&remote, &pdu, rules) {
                true => events.extend(checked(&remote, pdu, rules)),
                false => later.push(pdu),
            }
        }
        (events, later)
    };
    let Ok((events, later)) = heavy::run(now).await else { return Checked::default() };
    let mut all = Checked { events, keyless: Vec::new() };
    if later.is_empty() {
        return all;
    }
    let wanted: Vec<_> = {
        let tried = tried.lock();
        keys_of_all(&rooms.remote, &later, rules).filter(|(server, ..)| !tried.contains(server)).collect()
    };
    let servers: Vec<_> = wanted.iter().map(|(server, ..)| server.clone()).collect();
    rooms.remote.prepare_keys(wanted).await;
    tried.lock().extend(servers);
    let remote = Arc::clone(&rooms.remote);
    let rest = move || {
        for pdu in later {
            match are_known(&remote, &pdu, rules) {
                true => all.events.extend(checked(&remote, pdu, rules)),
                false => all.keyless.extend(event_id(&pdu, rules)),
            }
        }
        all
    };
    heavy::run(rest).await.unwrap_or_default()
}

/// Whether all keys are here with which a PDU should have been signed.
fn are_known(remote: &Remote, pdu: &Object, rules: &Rules) -> bool {
    let known = |(server, id, purpose): &(OwnedServerName, String, Purpose)| {
        *server == *remote.config.server_name || remote.keys.known(server, id, *purpose).is_some()
    };
    keys(pdu, rules).iter().all(known)
}

fn checked(remote: &Remote, pdu: Object, rules: &Rules) -> Option<Event> {
    check(remote, pdu, rules).inspect_err(|error| tracing::debug!(%error, "a PDU is dropped")).ok()
}

/// Checks many PDUs; those that fail are left out.
pub async fn many(rooms: &Rooms, pdus: Vec<Object>, rules: &'static Rules) -> Vec<Event> {
    let checked = each(rooms, pdus, rules).await.into_iter();
    checked.filter_map(|event| event.inspect_err(|error| tracing::debug!(%error, "a PDU is dropped")).ok()).collect()
}

/// Checks many PDUs, and says of each, in their order, what came out.
pub async fn each(rooms: &Rooms, pdus: Vec<Object>, rules: &'static Rules) -> Vec<Result<Event>> {
    rooms.remote.prepare_keys(keys_of_all(&rooms.remote, &pdus, rules)).await;
    let mut batches = Vec::new();
    let mut pdus = pdus.into_iter().peekable();
    while pdus.peek().is_some() {
        let batch: Vec<Object> = pdus.by_ref().take(BATCH).collect();
        let size = batch.len();
        let remote = Arc::clone(&rooms.remote);
        let check = move || batch.into_iter().map(|pdu| check(&remote, pdu, rules)).collect::<Vec<_>>();
        batches.push((size, heavy::run(check)));
    }
    let mut events = Vec::new();
    for (size, batch) in batches {
        match batch.await {
            Ok(checked) => events.extend(checked),
            Err(error) => {
                tracing::error!(%error, "the check of events broke off");
                events.extend((0..size).map(|_| Err(Error::internal("the check broke off"))));
            }
        }
    }
    events
}
