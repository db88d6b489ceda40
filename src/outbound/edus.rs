//! Ephemeral events as they go out, made from rows of the outbox when they are sent: what has changed since is
//! in them already.
//!
//! Spec: server-server-api#edus

use std::collections::BTreeMap;

use ruma::{OwnedServerName, UserId, events::room::member::MembershipState};
use serde_json::{Value, json, value::RawValue};

use crate::{
    e2ee::{
        device_lists,
        query::{self, Keys},
    },
    error::{Error, Result},
    rooms::{Rooms, forks},
    store::schema::{UserNo, devices::DEVICES, e2ee::DEVICE_KEYS, federation::OutboxRow, numbers, rooms::USER_ROOMS},
};

/// The JSON text of a row; nothing for a row that is no ephemeral event, or that has lost its meaning.
pub fn write(rooms: &Rooms, row: &OutboxRow) -> Result<Option<String>> {
    match row {
        OutboxRow::Pdu(_) | OutboxRow::Moved(..) => Ok(None),
        OutboxRow::ToRoom(_, json) | OutboxRow::ToServers(_, json) => Ok(Some(json.clone())),
        OutboxRow::Device { user, device, stream, prev } => device_update(rooms, *user, device, *stream, *prev),
        OutboxRow::SigningKeys(user) => signing_keys(rooms, *user),
    }
}

/// The servers that share a room with a user of this one, one with at most so many servers.
pub fn sharing(rooms: &Rooms, user: UserNo, most: usize) -> Result<Vec<OwnedServerName>> {
    let mut servers = std::collections::BTreeSet::new();
    for row in rooms.store.scan(USER_ROOMS, &(user,)) {
        let ((_, room), row) = row?;
        if row.membership == MembershipState::Join {
            let there = forks::servers(rooms, room)?;
            if there.len() <= most {
                servers.extend(there);
            }
        }
    }
    Ok(servers.into_iter().collect())
}

/// Spec: server-server-api#device-management
fn device_update(rooms: &Rooms, user: UserNo, device: &str, stream: u64, prev: Option<u64>) -> Result<Option<String>> {
    let Some(id) = numbers::user_id(&rooms.store, user)? else { return Ok(None) };
    let mut content = json!({
        "user_id": id,
        "device_id": device,
        "stream_id": stream,
        "prev_id": prev.as_slice(),
    });
    match keys(rooms, &id, vec![device.into()])?.devices.get(&id).and_then(|devices| devices.get(device)) {
        Some(keys) => {
            content["keys"] = value(keys)?;
            if let Some(name) = rooms.store.get(DEVICES, &(user, device.to_owned()))?.and_then(|row| row.name) {
                content["device_display_name"] = name.into();
            }
        }
        None => content["deleted"] = true.into(),
    }
    Ok(Some(json!({ "edu_type": "m.device_list_update", "content": content }).to_string()))
}

/// An update that follows none, which lets a server ask for all devices of a user unless it knows the newest change.
pub fn all_devices(rooms: &Rooms, user: UserNo) -> Result<Option<String>> {
    let Some(row) = rooms.store.scan(DEVICE_KEYS, &user).next() else { return Ok(None) };
    let ((_, device), _) = row?;
    device_update(rooms, user, &device, device_lists::stream(&rooms.store, user)?, None)
}

/// Spec: server-server-api#definition-msigning_key_update
fn signing_keys(rooms: &Rooms, user: UserNo) -> Result<Option<String>> {
    let Some(id) = numbers::user_id(&rooms.store, user)? else { return Ok(None) };
    let keys = keys(rooms, &id, Vec::new())?;
    let mut content = json!({ "user_id": id });
    for (field, key) in [("master_key", keys.master.get(&id)), ("self_signing_key", keys.self_signing.get(&id))] {
        if let Some(key) = key {
            content[field] = value(key)?;
        }
    }
    Ok(Some(json!({ "edu_type": "m.signing_key_update", "content": content }).to_string()))
}

fn keys(rooms: &Rooms, user: &UserId, devices: Vec<ruma::OwnedDeviceId>) -> Result<Keys> {
    query::query(&rooms.users.e2ee, None, BTreeMap::from([(user.to_owned(), devices)]))
}

fn value(json: &str) -> Result<Value> {
    serde_json::from_str(json).map_err(Error::internal)
}

/// A text as JSON that is copied as it stands.
pub fn raw(json: String) -> Option<Box<RawValue>> {
    RawValue::from_string(json).ok()
}
