//! Profiles of local users: display name, avatar, and whatever other fields their clients keep there.
//!
//! A change here is not yet one in the rooms that somebody is in: `rooms::profile` brings it there.

use std::collections::BTreeMap;

use ruma::{OwnedMxcUri, UserId};
use serde_json::Value;

use super::Users;
use crate::{
    error::{Error, Result},
    store::{
        StoreError, Write,
        schema::{UserNo, numbers, users::PROFILES},
    },
};

/// How large a profile may be as canonical JSON.  Spec: client-server-api#profiles
const LARGEST: usize = 64 << 10;
/// How long the name of a field may be, in bytes.
const LONGEST_NAME: usize = 255;

/// What a member event says of its user.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// The display name.
    pub displayname: Option<String>,
    /// The avatar.
    pub avatar_url: Option<OwnedMxcUri>,
}

impl Users {
    /// Display name and avatar of a local user; empty for whoever is not known.
    pub fn profile(&self, user: &UserId) -> Result<Profile> {
        let Some(number) = numbers::find_user(&self.store, user)? else { return Ok(Profile::default()) };
        let text = |name: &str| -> Result<Option<String>> {
            Ok(field(self, number, name)?.and_then(|value| value.as_str().map(str::to_owned)))
        };
        Ok(Profile { displayname: text("displayname")?, avatar_url: text("avatar_url")?.map(Into::into) })
    }
}

/// All fields of a profile.
pub fn all(users: &Users, user: UserNo) -> Result<BTreeMap<String, Value>> {
    let rows = users.store.scan(PROFILES, &user);
    rows.map(|row| row.map_err(Error::from).and_then(|((_, name), json)| Ok((name, value(&json)?)))).collect()
}

/// A field of a profile.
pub fn field(users: &Users, user: UserNo, name: &str) -> Result<Option<Value>> {
    users.store.get(PROFILES, &(user, name.to_owned()))?.map(|json| value(&json)).transpose()
}

fn value(json: &str) -> Result<Value, Error> {
    serde_json::from_str(json).map_err(|_| StoreError::BadRow { table: PROFILES.name }.into())
}

/// Sets a field, or removes it when there is no value, within a `Write`. The caller holds the user's
/// lock.
pub fn put(write: &mut Write, user: UserNo, name: &str, value: Option<&Value>) -> Result<()> {
    if name.is_empty() {
        return Err(Error::invalid_param("a field of a profile has a name"));
    }
    if name.len() > LONGEST_NAME {
        let message = format!("the name of a field has at most {LONGEST_NAME} bytes");
        return Err(Error::bad_request("M_KEY_TOO_LARGE", message));
    }
    let place = (user, name.to_owned());
    let Some(value) = value else {
        write.delete(PROFILES, &place);
        return Ok(());
    };
    check(name, value)?;
    let json = value.to_string();
    // Quotes, colon and comma count too.
    let mut size = name.len() + json.len() + 6;
    for ((_, other), json) in write.scan(PROFILES, &user)? {
        if other != name {
            size += other.len() + json.len() + 4;
        }
    }
    if size > LARGEST {
        let message = format!("a profile has at most {LARGEST} bytes, all fields together");
        return Err(Error::bad_request("M_PROFILE_TOO_LARGE", message));
    }
    write.put(PROFILES, &place, &json);
    Ok(())
}

fn check(name: &str, value: &Value) -> Result<()> {
    match (name, value) {
        ("displayname", Value::String(text)) if text.len() > 255 => {
            Err(Error::invalid_param("a display name has at most 255 bytes"))
        }
        ("avatar_url", Value::String(text)) if text.len() > 1000 || !text.starts_with("mxc://") => {
            Err(Error::invalid_param("an avatar_url is that of an uploaded file, mxc://…"))
        }
        ("displayname" | "avatar_url" | "m.tz", Value::String(_)) => Ok(()),
        ("displayname" | "avatar_url" | "m.tz", _) => Err(Error::bad_json(format!("{name} must be a text"))),
        _ => Ok(()),
    }
}

/// Sets a field, or removes it when there is no value.
pub async fn set(users: &Users, user: UserNo, name: &str, value: Option<&Value>) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        put(&mut write, user, name, value)?;
        users.commit(write, vec![])
    };
    done.await
}
