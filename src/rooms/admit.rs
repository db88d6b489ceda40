//! Raw PDUs from other servers become events: keys are fetched, then format, signatures and hash are checked.
//!
//! Keys of many events are fetched together, and many signatures are checked on all cores, off the async
//! threads. What fails is dropped with one line in the log.

use std::collections::BTreeSet;

use ruma::{OwnedEventId, OwnedServerName, ServerName};
use serde_json::value::RawValue;

use super::Rooms;
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{self, Object, Value},
        event::Event,
        hash,
        intake::admit,
        sign,
        version::Rules,
    },
    remote::{Remote, keys::Purpose},
};

/// How many events are checked on one thread at a time.
const BATCH: usize = 64;

/// Reads the JSON of a PDU in a room of this version.
pub fn object(pdu: &RawValue, rules: &Rules) -> Result<Object> {
    canonical::parse_object(pdu.get().as_bytes(), rules.numbers).map_err(|error| Error::bad_json(error.to_string()))
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
        let ids: Vec<_> = sign::key_ids(pdu, signer.as_str()).map(str::to_owned).collect();
        ids.into_iter().map(|id| (signer.clone(), id, purpose)).collect::<Vec<_>>()
    };
    signers.iter().flat_map(keys).collect()
}

/// Checks one PDU whose keys have been fetched.
fn check(remote: &Remote, pdu: Object, rules: &Rules) -> Result<Event> {
    let purpose = purpose(&pdu, rules);
    let key = |server: &ServerName, id: &str| match *server == *remote.config.server_name {
        true => (id == remote.key.id()).then(|| remote.key.public()),
        false => remote.keys.known(server, id, purpose),
    };
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

/// Checks many PDUs; those that fail are left out.
pub async fn many(rooms: &Rooms, pdus: Vec<Object>, rules: &'static Rules) -> Vec<Event> {
    let checked = each(rooms, pdus, rules).await.into_iter();
    checked.filter_map(|event| event.inspect_err(|error| tracing::debug!(%error, "a PDU is dropped")).ok()).collect()
}

/// Checks many PDUs, and says of each, in their order, what came out.
pub async fn each(rooms: &Rooms, pdus: Vec<Object>, rules: &'static Rules) -> Vec<Result<Event>> {
    let wanted: BTreeSet<(OwnedServerName, String)> =
        pdus.iter().flat_map(|pdu| keys(pdu, rules)).map(|(server, id, _)| (server, id)).collect();
    // Which moment a key must cover differs from event to event; fetching it once serves them all.
    let now = Purpose::Event(0);
    rooms.remote.prepare_keys(wanted.into_iter().map(|(server, id)| (server, id, now))).await;
    let mut batches = Vec::new();
    let mut pdus = pdus.into_iter().peekable();
    while pdus.peek().is_some() {
        let batch: Vec<Object> = pdus.by_ref().take(BATCH).collect();
        let size = batch.len();
        let remote = std::sync::Arc::clone(&rooms.remote);
        let check = move || batch.into_iter().map(|pdu| check(&remote, pdu, rules)).collect::<Vec<_>>();
        batches.push((size, tokio::task::spawn_blocking(check)));
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
