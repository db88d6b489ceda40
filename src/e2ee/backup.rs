//! Backups of room keys, encrypted by the client. Keys are written to the newest version only; which of
//! two keys for the same session stays is decided by what is said of them in the clear.
//!
//! Spec: client-server-api#server-side-key-backups

use std::cmp::Reverse;

use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{E2ee, published};
use crate::{
    error::{Error, Result},
    store::{
        Rows, Store, StoreError, Ticket, Write,
        schema::{
            UserNo,
            e2ee::{BACKUP_COUNTS, BACKUP_KEYS, BACKUPS, BackupRow},
        },
    },
};

/// How long the data of an algorithm may be, in bytes.
const MOST_AUTH_DATA: usize = 32 * 1024;
/// How long the data of a key may be, in bytes.
const MOST_KEY: usize = 32 * 1024;
/// How long IDs of rooms and sessions may be, in bytes.
const MOST_ID: usize = 512;
/// How many keys are removed in one `Write`.
const REMOVED_AT_ONCE: usize = 1_000;

/// A backup and how much is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backup {
    /// Its version.
    pub version: u64,
    /// How its keys are encrypted.
    pub algorithm: String,
    /// What goes with the algorithm, as JSON text.
    pub auth_data: String,
    /// What it holds.
    pub contents: Contents,
}

/// How much is in a backup, and something that is different after every change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Contents {
    /// The number of keys.
    pub count: u64,
    /// The number of changes.
    pub etag: u64,
}

/// A key for a session, with what is said of it in the clear.
#[derive(Debug, Clone)]
pub struct SessionKey {
    /// The room.
    pub room: String,
    /// The session.
    pub session: String,
    /// The key data as JSON text.
    pub json: String,
}

/// Which keys of a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All.
    All,
    /// Those of a room.
    Room(String),
    /// That of a session.
    Session(String, String),
}

fn no_backup() -> Error {
    Error::not_found("you have no backup of this version")
}

/// Reads a version as clients name it.
fn number(version: &str) -> Result<u64> {
    version.parse().map_err(|_| no_backup())
}

/// Begins a new backup and returns its version. The one before stays as it is.
pub async fn create(e2ee: &E2ee, user: UserNo, algorithm: String, auth_data: String) -> Result<u64> {
    check_auth_data(&algorithm, &auth_data)?;
    let (version, ticket) = {
        let _deciding = e2ee.decide(user);
        let mut write = e2ee.store.write();
        let version = write.scan(BACKUPS, &user)?.last().map_or(1, |((_, newest), _)| newest + 1);
        write.put(BACKUPS, &(user, version), &BackupRow { algorithm, auth_data, deleted: false });
        write.put(BACKUP_COUNTS, &(user, version), &(0, 0));
        (version, write.commit()?)
    };
    published([ticket]).await?;
    Ok(version)
}

fn check_auth_data(algorithm: &str, auth_data: &str) -> Result<()> {
    if algorithm.is_empty() || algorithm.len() > MOST_ID {
        return Err(Error::invalid_param("the algorithm of a backup is a short text"));
    }
    if auth_data.len() > MOST_AUTH_DATA {
        return Err(Error::too_large(format!("`auth_data` has at most {MOST_AUTH_DATA} bytes")));
    }
    match serde_json::from_str::<Value>(auth_data) {
        Ok(Value::Object(_)) => Ok(()),
        _ => Err(Error::bad_json("`auth_data` must be an object")),
    }
}

/// A backup: the one of this version, or the newest.
///
/// Errors: 404 `M_NOT_FOUND`.
pub fn find(store: &Store, user: UserNo, version: Option<&str>) -> Result<Backup> {
    let version = match version {
        Some(version) => number(version)?,
        None => newest(store, user)?.ok_or_else(|| Error::not_found("you have no backup"))?,
    };
    let row = row(store, user, version)?;
    let contents = contents(store, user, version)?;
    Ok(Backup { version, algorithm: row.algorithm, auth_data: row.auth_data, contents })
}

/// The newest version that was not deleted.
fn newest(store: &Store, user: UserNo) -> Result<Option<u64>, StoreError> {
    for row in store.scan(BACKUPS, &user).rev() {
        let ((_, version), row) = row?;
        if !row.deleted {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

fn row(rows: &impl Rows, user: UserNo, version: u64) -> Result<BackupRow> {
    rows.row(BACKUPS, &(user, version))?.filter(|row| !row.deleted).ok_or_else(no_backup)
}

fn contents(rows: &impl Rows, user: UserNo, version: u64) -> Result<Contents, StoreError> {
    let (count, etag) = rows.row(BACKUP_COUNTS, &(user, version))?.unwrap_or_default();
    Ok(Contents { count, etag })
}

/// Replaces what goes with the algorithm of a backup. `body` is the version that the body names, if any.
///
/// Errors: 400 `M_INVALID_PARAM` for another algorithm or version, 404 `M_NOT_FOUND`.
pub async fn update(
    e2ee: &E2ee,
    user: UserNo,
    version: &str,
    body: Option<&str>,
    algorithm: &str,
    auth_data: String,
) -> Result<()> {
    check_auth_data(algorithm, &auth_data)?;
    let ticket = {
        let _deciding = e2ee.decide(user);
        let mut write = e2ee.store.write();
        let place = (user, number(version)?);
        let old = row(&write, user, place.1)?;
        if body.is_some_and(|body| body != version) {
            return Err(Error::invalid_param("the version in the body is not that in the path"));
        }
        if old.algorithm != algorithm {
            return Err(Error::invalid_param("the algorithm of a backup does not change; make a new one"));
        }
        write.put(BACKUPS, &place, &BackupRow { auth_data, ..old });
        write.commit()?
    };
    published([ticket]).await
}

/// Deletes a backup with all its keys. Deleting it again does nothing.
///
/// Errors: 404 `M_NOT_FOUND` for one that never was.
pub async fn delete(e2ee: &E2ee, user: UserNo, version: &str) -> Result<()> {
    let version = number(version)?;
    let ticket = {
        let _deciding = e2ee.decide(user);
        let mut write = e2ee.store.write();
        let old = write.get(BACKUPS, &(user, version))?.ok_or_else(no_backup)?;
        write.put(BACKUPS, &(user, version), &BackupRow { deleted: true, ..old });
        write.delete(BACKUP_COUNTS, &(user, version));
        write.commit()?
    };
    published([ticket]).await?;
    sweep(e2ee, user).await
}

/// Removes the keys of a user's deleted backups. Nobody reads or adds to them any more, so they go piece
/// by piece; what a crash leaves goes the next time that something is deleted.
pub async fn sweep(e2ee: &E2ee, user: UserNo) -> Result<()> {
    let backups = e2ee.store.scan(BACKUPS, &user).collect::<Result<Vec<_>, _>>()?;
    for ((_, version), _) in backups.into_iter().filter(|(_, row)| row.deleted) {
        while let Some(ticket) = delete_some(e2ee, user, version)? {
            published([ticket]).await?;
        }
    }
    Ok(())
}

fn delete_some(e2ee: &E2ee, user: UserNo, version: u64) -> Result<Option<Ticket>> {
    let mut write = e2ee.store.write();
    let mut any = false;
    for row in e2ee.store.scan(BACKUP_KEYS, &(user, version)).take(REMOVED_AT_ONCE) {
        write.delete(BACKUP_KEYS, &row?.0);
        any = true;
    }
    Ok(if any { Some(write.commit()?) } else { None })
}

/// What decides which of two keys is the better one: the smaller is.
///
/// Spec: client-server-api#server-side-key-backups
#[derive(Deserialize)]
struct Worth {
    first_message_index: u64,
    forwarded_count: u64,
    is_verified: bool,
    #[serde(rename = "session_data")]
    _session_data: serde_json::Map<String, Value>,
}

impl Worth {
    fn rank(&self) -> impl Ord + use<> {
        (Reverse(self.is_verified), self.first_message_index, self.forwarded_count)
    }
}

fn worth(json: &str) -> Result<Worth> {
    if json.len() > MOST_KEY {
        return Err(Error::too_large(format!("the data of a key has at most {MOST_KEY} bytes")));
    }
    serde_json::from_str(json).map_err(|error| Error::bad_json(format!("this is not the data of a key: {error}")))
}

/// Adds keys to the newest backup, where they are better than those it has.
///
/// Errors: 403 `M_WRONG_ROOM_KEYS_VERSION` with `current_version` for an older one, 404 `M_NOT_FOUND`.
pub async fn put_keys(e2ee: &E2ee, user: UserNo, version: &str, keys: Vec<SessionKey>) -> Result<Contents> {
    let keys = keys
        .into_iter()
        .map(|key| match key.room.len() > MOST_ID || key.session.len() > MOST_ID {
            true => Err(Error::invalid_param(format!("IDs of rooms and sessions have at most {MOST_ID} bytes"))),
            false => Ok((worth(&key.json)?, key)),
        })
        .collect::<Result<Vec<_>>>()?;
    let (contents, ticket) = {
        let _deciding = e2ee.decide(user);
        let mut write = e2ee.store.write();
        let version = writable(&write, user, version)?;
        let contents = add(&mut write, user, version, keys)?;
        (contents, write.commit()?)
    };
    published([ticket]).await?;
    Ok(contents)
}

/// The version, if keys may be written to it.
fn writable(write: &Write, user: UserNo, version: &str) -> Result<u64> {
    let all = write.scan(BACKUPS, &user)?;
    let current = all.iter().rev().find(|(_, row)| !row.deleted).map(|((_, version), _)| *version);
    let current = current.ok_or_else(|| Error::not_found("you have no backup"))?;
    let version = number(version)?;
    if version == current {
        return Ok(version);
    }
    row(write, user, version)?;
    let message = "keys can only be added to your newest backup";
    let error = Error::new(StatusCode::FORBIDDEN, "M_WRONG_ROOM_KEYS_VERSION", message);
    Err(error.with("current_version", current.to_string()))
}

fn add(write: &mut Write, user: UserNo, version: u64, keys: Vec<(Worth, SessionKey)>) -> Result<Contents> {
    let mut contents = contents(write, user, version)?;
    let mut changed = false;
    for (new, key) in keys {
        let place = (user, version, key.room, key.session);
        match write.get(BACKUP_KEYS, &place)? {
            // A row that is no key data (any more) is worth less than anything.
            Some(old) if worth(&old).is_ok_and(|old| old.rank() <= new.rank()) => continue,
            Some(_) => {}
            None => contents.count += 1,
        }
        write.put(BACKUP_KEYS, &place, &key.json);
        changed = true;
    }
    if changed {
        contents.etag += 1;
        write.put(BACKUP_COUNTS, &(user, version), &(contents.count, contents.etag));
    }
    Ok(contents)
}

/// Deletes keys of a backup.
///
/// Errors: 404 `M_NOT_FOUND` if there is no such backup.
pub async fn delete_keys(e2ee: &E2ee, user: UserNo, version: &str, part: Part) -> Result<Contents> {
    let version = number(version)?;
    loop {
        let (contents, ticket) = {
            let _deciding = e2ee.decide(user);
            let mut write = e2ee.store.write();
            row(&write, user, version)?;
            let mut contents = contents(&write, user, version)?;
            let places = places(&e2ee.store, &write, user, version, &part)?;
            if places.is_empty() {
                return Ok(contents);
            }
            contents.count = contents.count.saturating_sub(places.len() as u64);
            contents.etag += 1;
            places.iter().for_each(|place| write.delete(BACKUP_KEYS, place));
            write.put(BACKUP_COUNTS, &(user, version), &(contents.count, contents.etag));
            (contents, write.commit()?)
        };
        published([ticket]).await?;
        if let Part::Session(..) = part {
            return Ok(contents);
        }
    }
}

type Place = (UserNo, u64, String, String);

/// Some of the keys that are meant; none if none are left.
fn places(store: &Store, write: &Write, user: UserNo, version: u64, part: &Part) -> Result<Vec<Place>> {
    let published = match part {
        Part::All => store.scan(BACKUP_KEYS, &(user, version)),
        Part::Room(room) => store.scan(BACKUP_KEYS, &(user, version, room.clone())),
        Part::Session(room, session) => {
            let place = (user, version, room.clone(), session.clone());
            return Ok(write.get(BACKUP_KEYS, &place)?.map(|_| place).into_iter().collect());
        }
    };
    let mut places = Vec::new();
    for row in published {
        let (place, _) = row?;
        if write.get(BACKUP_KEYS, &place)?.is_some() {
            places.push(place);
        }
        if places.len() >= REMOVED_AT_ONCE {
            break;
        }
    }
    Ok(places)
}

/// The data of one key as JSON text.
///
/// Errors: 404 `M_NOT_FOUND` for an unknown version or session.
pub fn key(store: &Store, user: UserNo, version: &str, room: &str, session: &str) -> Result<Box<RawValue>> {
    let version = number(version)?;
    row(store, user, version)?;
    let json = store.get(BACKUP_KEYS, &(user, version, room.to_owned(), session.to_owned()))?;
    let json = json.ok_or_else(|| Error::not_found("the backup has no key for this session"))?;
    RawValue::from_string(json).map_err(Error::internal)
}

/// Where a walk over the keys of a backup has come to.
#[derive(Debug, Clone)]
pub struct Walk {
    user: UserNo,
    version: u64,
    /// The room of the last key, and its session.
    last: Option<(String, String)>,
    /// The room, if only its keys are wanted.
    room: Option<String>,
}

/// Begins to read the keys of a backup, or of one of its rooms.
///
/// Errors: 404 `M_NOT_FOUND`.
pub fn walk(store: &Store, user: UserNo, version: &str, room: Option<String>) -> Result<Walk> {
    let version = number(version)?;
    row(store, user, version)?;
    Ok(Walk { user, version, last: None, room })
}

impl Walk {
    /// The next keys, in the order of rooms and sessions, at most `limit` of them; none at the end.
    pub fn next(&mut self, store: &Store, limit: usize) -> Result<Vec<SessionKey>, StoreError> {
        let (user, version) = (self.user, self.version);
        let end = (user, version + 1);
        // The smallest key that is greater than the last one has one more zero byte in its session.
        let rows = match (&self.last, &self.room) {
            (Some((room, session)), _) => {
                store.range(BACKUP_KEYS, &(user, version, room.clone(), format!("{session}\0")), &end)
            }
            (None, Some(room)) => store.range(BACKUP_KEYS, &(user, version, room.clone()), &end),
            (None, None) => store.range(BACKUP_KEYS, &(user, version), &end),
        };
        let mut keys = Vec::new();
        for row in rows.take(limit) {
            let ((_, _, room, session), json) = row?;
            if self.room.as_ref().is_some_and(|wanted| *wanted != room) {
                break;
            }
            keys.push(SessionKey { room, session, json });
        }
        if let Some(key) = keys.last() {
            self.last = Some((key.room.clone(), key.session.clone()));
        }
        Ok(keys)
    }
}
