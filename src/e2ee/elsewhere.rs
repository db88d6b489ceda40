//! The devices and keys of other servers' users, kept as long as their servers tell this one of every change.
//!
//! They do so while somebody here shares a room with the user. A list is kept when it was asked for
//! ([`keep`]), shown while it is [`fresh`], changed by what its server tells ([`update`], [`identity`]), and
//! asked for again when a change was missed: such a list is in [`lost`]. Who asks is not here.
//!
//! Spec: server-server-api#device-management

use std::collections::BTreeMap;

use ruma::{UserId, events::room::member::MembershipState};

use super::{E2ee, delete_all, device_lists, published, signed};
use crate::{
    error::Result,
    protocol::canonical::{self, Object, Value},
    store::{
        Position, Rows, Store, StoreError, Ticket, Write,
        schema::{
            UserNo,
            e2ee::{
                LIST_CHANGES, LOST_LISTS, ListChange, MASTER_SIGNATURES, REMOTE_DEVICES, REMOTE_IDENTITIES,
                REMOTE_LISTS, RemoteListRow, SignedRow, usage,
            },
            numbers,
            rooms::{LOCAL_MEMBERS, USER_ROOMS},
        },
    },
};

/// How many devices of one user are kept.
const MOST_DEVICES: usize = 500;
/// How long the ID or the name of a device may be, in bytes.
const MOST_NAME: usize = 255;
/// How many lost lists of one server are looked at in one go.
const MOST_LOST: usize = 100;

/// Keys of a user, as JSON texts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct List {
    /// The identity keys by device.
    pub devices: BTreeMap<String, String>,
    /// The master key.
    pub master: Option<String>,
    /// The self-signing key.
    pub self_signing: Option<String>,
}

impl List {
    /// Adds the keys of a device, if they are those of this user and device.
    pub fn add_device(&mut self, user: &UserId, device: &str, name: Option<&str>, json: &str) {
        if self.devices.len() < MOST_DEVICES
            && let Some(keys) = device_keys(user, device, name, json)
        {
            self.devices.insert(device.to_owned(), keys);
        }
    }

    /// Adds a cross-signing key, if it is one of this user.
    pub fn add_identity(&mut self, user: &UserId, kind: u8, json: &str) {
        let place = match kind {
            usage::MASTER => &mut self.master,
            _ => &mut self.self_signing,
        };
        *place = identity_key(user, kind, json);
    }

    fn identities(&self) -> impl Iterator<Item = (u8, &String)> {
        let master = self.master.iter().map(|json| (usage::MASTER, json));
        master.chain(self.self_signing.iter().map(|json| (usage::SELF_SIGNING, json)))
    }
}

/// The keys of a device as they are kept: theirs, with a name that has no more than one.
fn device_keys(user: &UserId, device: &str, name: Option<&str>, json: &str) -> Option<String> {
    let mut keys = signed::object(json).ok()?;
    if device.len() > MOST_NAME || !is_text(&keys, "user_id", user.as_str()) || !is_text(&keys, "device_id", device) {
        return None;
    }
    let told =
        keys.remove("unsigned").and_then(|unsigned| Some(unsigned.get("device_display_name")?.as_str()?.to_owned()));
    if let Some(name) = name.map(str::to_owned).or(told).filter(|name| name.len() <= MOST_NAME) {
        let unsigned = Object::from([("device_display_name".to_owned(), name.into())]);
        keys.insert("unsigned".to_owned(), Value::Object(unsigned));
    }
    Some(canonical::write_object(&keys))
}

fn identity_key(user: &UserId, kind: u8, json: &str) -> Option<String> {
    let key = signed::object(json).ok()?;
    let kind = if kind == usage::MASTER { "master" } else { "self_signing" };
    let usages = key.get("usage").and_then(Value::as_array)?;
    let fits = usages.iter().any(|usage| usage.as_str() == Some(kind)) && is_text(&key, "user_id", user.as_str());
    fits.then(|| canonical::write_object(&key))
}

fn is_text(object: &Object, field: &str, text: &str) -> bool {
    object.get(field).and_then(Value::as_str) == Some(text)
}

/// Whether somebody here shares a room with a user of another server; with `since`, and has done so ever since.
pub fn is_shared(store: &Store, user: UserNo, since: Option<Position>) -> Result<bool, StoreError> {
    let upto = since.unwrap_or(Position(u64::MAX));
    for row in store.scan(USER_ROOMS, &user) {
        let ((_, room), row) = row?;
        if row.membership != MembershipState::Join || row.since > upto {
            continue;
        }
        for local in store.scan(LOCAL_MEMBERS, &room) {
            let ((_, local), ()) = local?;
            if since.is_none() || store.get(USER_ROOMS, &(local, room))?.is_some_and(|row| row.since <= upto) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// What is kept of a user, if nothing can have been missed.
pub fn fresh(e2ee: &E2ee, user: &UserId) -> Result<Option<List>> {
    let store = &e2ee.store;
    let Some(number) = numbers::find_user(store, user)? else { return Ok(None) };
    let Some(row) = store.get(REMOTE_LISTS, &number)?.filter(|row| !row.stale) else { return Ok(None) };
    if !is_shared(store, number, Some(row.since))? {
        return Ok(None);
    }
    let mut list = List::default();
    for row in store.scan(REMOTE_DEVICES, &number) {
        let ((_, device), json) = row?;
        list.devices.insert(device, json);
    }
    list.master = store.get(REMOTE_IDENTITIES, &(number, usage::MASTER))?;
    list.self_signing = store.get(REMOTE_IDENTITIES, &(number, usage::SELF_SIGNING))?;
    Ok(Some(list))
}

/// The master key of another server's user, if it is kept, with the signatures of its owner.
pub(super) fn master(write: &Write, user: &UserId, number: UserNo) -> Result<Option<SignedRow>> {
    let Some(json) = write.get(REMOTE_IDENTITIES, &(number, usage::MASTER))? else { return Ok(None) };
    let key = signed::object(&json)?;
    Ok(Some(SignedRow { json: signed::without_signatures(&key), signatures: signed::signatures_of(&key, user)? }))
}

/// Adds to a list what only `asker` sees: that they have signed the master key.
pub fn add_own_signature(e2ee: &E2ee, user: &UserId, list: &mut List, asker: (&UserId, UserNo)) -> Result<()> {
    let Some(number) = numbers::find_user(&e2ee.store, user)? else { return Ok(()) };
    let (Some(master), Some((id, signature))) =
        (&mut list.master, e2ee.store.get(MASTER_SIGNATURES, &(number, asker.1))?)
    else {
        return Ok(());
    };
    let mut key = signed::object(master)?;
    let signatures = key.entry("signatures".to_owned()).or_insert_with(|| Value::Object(Object::new()));
    if let Value::Object(signatures) = signatures {
        signatures.insert(asker.0.to_string(), Value::Object(Object::from([(id, signature.into())])));
    }
    *master = canonical::write_object(&key);
    Ok(())
}

/// Signatures of others are gone with the master key that they are on.
fn change_master(write: &mut Write, user: UserNo, new: Option<&str>) -> Result<()> {
    let bare = |json: &str| signed::object(json).map(|key| signed::without_signatures(&key));
    let old = write.get(REMOTE_IDENTITIES, &(user, usage::MASTER))?.map(|json| bare(&json)).transpose()?;
    match old.is_some() && old != new.map(bare).transpose()? {
        true => Ok(delete_all(write, MASTER_SIGNATURES, &user)?),
        false => Ok(()),
    }
}

/// What became of a list that a server gave.
pub enum Kept {
    /// It is kept, and on the disk with this ticket.
    Here(Ticket),
    /// Nobody here needs it.
    Needless,
    /// Something has changed meanwhile: it must be asked for again.
    Outdated,
}

/// Keeps a list that a server gave when the log stood at `asked`; `stream` is the number of its newest change.
///
/// Whoever follows the user is told if the list is not what was shown before.
pub fn keep(e2ee: &E2ee, user: &UserId, list: &List, stream: Option<u64>, asked: Position) -> Result<Kept> {
    let Some(number) = numbers::find_user(&e2ee.store, user)? else { return Ok(Kept::Needless) };
    let ticket = decide_to_keep(e2ee, user, number, list, stream, asked)?;
    Ok(ticket.map_or(Kept::Outdated, Kept::Here))
}

fn decide_to_keep(
    e2ee: &E2ee,
    user: &UserId,
    number: UserNo,
    list: &List,
    stream: Option<u64>,
    asked: Position,
) -> Result<Option<Ticket>> {
    let _deciding = e2ee.decide(number);
    let mut write = e2ee.store.write();
    if !is_shared(&e2ee.store, number, None)? {
        forget_in(&mut write, user, number)?;
        return Ok(Some(write.commit()?));
    }
    let later = write.range(LIST_CHANGES, &Position(asked.0 + 1), &Position(u64::MAX))?;
    if later.iter().any(|((_, changed, _), change)| *changed == number && *change == ListChange::Keys) {
        return Ok(None);
    }
    let before = write.get(REMOTE_LISTS, &number)?;
    let mut known = write.scan(REMOTE_DEVICES, &number)?.into_iter().map(|((_, device), json)| (device, json));
    let mut same = known.by_ref().eq(list.devices.iter().map(|(device, json)| (device.clone(), json.clone())));
    let identities = write.scan(REMOTE_IDENTITIES, &number)?.into_iter().map(|((_, kind), json)| (kind, json));
    same &= identities.eq(list.identities().map(|(kind, json)| (kind, json.clone())));
    if !same {
        change_master(&mut write, number, list.master.as_deref())?;
        delete_all(&mut write, REMOTE_DEVICES, &number)?;
        delete_all(&mut write, REMOTE_IDENTITIES, &number)?;
        for (device, json) in &list.devices {
            write.put(REMOTE_DEVICES, &(number, device.clone()), json);
        }
        for (kind, json) in list.identities() {
            write.put(REMOTE_IDENTITIES, &(number, kind), json);
        }
    }
    write.put(REMOTE_LISTS, &number, &RemoteListRow { stream, since: asked, stale: false });
    write.delete(LOST_LISTS, &(user.server_name().to_string(), number));
    if before.is_some() && !same {
        device_lists::record(&mut write, number)?;
    }
    Ok(Some(write.commit()?))
}

/// One change of a device of another server's user.
#[derive(Debug, Clone, Default)]
pub struct Update<'a> {
    /// The device.
    pub device: &'a str,
    /// The number of the change.
    pub stream: u64,
    /// The numbers of those before it.
    pub prev: Vec<u64>,
    /// Whether the device is gone.
    pub deleted: bool,
    /// Its name.
    pub name: Option<&'a str>,
    /// Its keys, as JSON text.
    pub keys: Option<&'a str>,
}

/// Takes in a change of a device. Where changes before it were missed, the whole list is lost.
pub async fn update(e2ee: &E2ee, user: &UserId, update: &Update<'_>) -> Result<()> {
    change(e2ee, user, |write, number, row| {
        if row.stream == Some(update.stream) {
            // The same once more.
            return Ok(Known::Already);
        }
        let follows = !update.prev.is_empty() && update.prev.iter().all(|prev| row.stream == Some(*prev));
        if !follows {
            return Ok(Known::Not);
        }
        let place = (number, update.device.to_owned());
        let keys = update.keys.filter(|_| !update.deleted);
        match keys.and_then(|keys| device_keys(user, update.device, update.name, keys)) {
            Some(keys) => {
                let known = write.get(REMOTE_DEVICES, &place)?.is_some();
                if !known && write.scan(REMOTE_DEVICES, &number)?.len() >= MOST_DEVICES {
                    return Ok(Known::Not);
                }
                write.put(REMOTE_DEVICES, &place, &keys);
            }
            None => write.delete(REMOTE_DEVICES, &place),
        }
        row.stream = Some(update.stream);
        Ok(Known::Now)
    })
    .await
}

/// Takes in new cross-signing keys, as JSON texts.
///
/// Spec: server-server-api#edus, of the type m.signing_key_update
pub async fn identity(e2ee: &E2ee, user: &UserId, master: Option<&str>, self_signing: Option<&str>) -> Result<()> {
    change(e2ee, user, |write, number, _| {
        for (kind, json) in [(usage::MASTER, master), (usage::SELF_SIGNING, self_signing)] {
            match json.and_then(|json| identity_key(user, kind, json)) {
                Some(json) => {
                    if kind == usage::MASTER {
                        change_master(write, number, Some(&json))?;
                    }
                    write.put(REMOTE_IDENTITIES, &(number, kind), &json);
                }
                None if json.is_some() => return Ok(Known::Not),
                None => {}
            }
        }
        Ok(Known::Now)
    })
    .await
}

/// What became of a change.
enum Known {
    /// It was there before.
    Already,
    /// It is there now.
    Now,
    /// It cannot be made sense of without those before it.
    Not,
}

async fn change(
    e2ee: &E2ee,
    user: &UserId,
    apply: impl FnOnce(&mut Write, UserNo, &mut RemoteListRow) -> Result<Known>,
) -> Result<()> {
    let Some(number) = numbers::find_user(&e2ee.store, user)? else { return Ok(()) };
    let mut is_lost = false;
    let ticket = {
        let _deciding = e2ee.decide(number);
        let mut write = e2ee.store.write();
        let row = write.get(REMOTE_LISTS, &number)?;
        if !is_shared(&e2ee.store, number, None)? {
            if row.is_some() {
                forget_in(&mut write, user, number)?;
                drop(write.commit()?);
            }
            return Ok(());
        }
        if let Some(mut row) = row.filter(|row| !row.stale) {
            let known = apply(&mut write, number, &mut row)?;
            match known {
                Known::Already => return Ok(()),
                Known::Now => {}
                Known::Not => {
                    (row.stale, is_lost) = (true, true);
                    write.put(LOST_LISTS, &(user.server_name().to_string(), number), &());
                }
            }
            write.put(REMOTE_LISTS, &number, &row);
        }
        device_lists::record(&mut write, number)?;
        write.commit()?
    };
    published([ticket]).await?;
    if is_lost {
        e2ee.lost.notify_one();
    }
    Ok(())
}

/// Users whose lists must be asked for again, by server.
pub fn lost(store: &Store) -> Result<BTreeMap<String, Vec<UserNo>>, StoreError> {
    let mut lost: BTreeMap<String, Vec<UserNo>> = BTreeMap::new();
    for row in store.scan(LOST_LISTS, &()) {
        let ((server, user), ()) = row?;
        let users = lost.entry(server).or_default();
        if users.len() < MOST_LOST {
            users.push(user);
        }
    }
    Ok(lost)
}

/// Forgets what is kept of a user: it is asked for when somebody needs it.
pub fn forget(e2ee: &E2ee, user: &UserId, number: UserNo) -> Result<()> {
    let _deciding = e2ee.decide(number);
    let mut write = e2ee.store.write();
    forget_in(&mut write, user, number)?;
    drop(write.commit()?);
    Ok(())
}

fn forget_in(write: &mut Write, user: &UserId, number: UserNo) -> Result<(), StoreError> {
    write.delete(REMOTE_LISTS, &number);
    write.delete(LOST_LISTS, &(user.server_name().to_string(), number));
    delete_all(write, REMOTE_DEVICES, &number)?;
    delete_all(write, REMOTE_IDENTITIES, &number)
}

/// Forgets what is kept of users with whom nobody here shares a room any more.
pub fn sweep(e2ee: &E2ee) -> Result<()> {
    let mut gone = Vec::new();
    for row in e2ee.store.scan(REMOTE_LISTS, &()) {
        let (user, row) = row?;
        if !is_shared(&e2ee.store, user, Some(row.since))? {
            gone.push(user);
        }
    }
    for number in gone {
        if let Some(user) = e2ee.store.row(numbers::USERS, &number)? {
            forget(e2ee, &user, number)?;
        }
    }
    Ok(())
}
