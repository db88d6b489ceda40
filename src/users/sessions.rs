//! Access tokens: from a token to the user behind it, and how tokens begin and end.
//!
//! Only hashes of tokens are stored. A bounded cache holds who is behind the tokens in use, so that a
//! request costs no disk read.

use quick_cache::sync;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId};
use sha2::{Digest, Sha256};

use super::Users;
use crate::{
    e2ee::cross_signing,
    error::{Error, Result},
    store::{
        StoreError, Write,
        schema::{
            UserNo,
            devices::{ACCESS_TOKENS, DEVICES, DeviceRow, REFRESH_TOKENS, TokenKey, TokenRow},
            numbers,
            users::ACCOUNTS,
        },
    },
};

/// What a token that is known without a look at the rows takes in memory, roughly.
const CACHED: u64 = 600;
/// How long an access token holds that can be refreshed: a day, in milliseconds.
const SHORT: u64 = 24 * 3600 * 1000;
/// How long device IDs and their names may be, in bytes.
pub(super) const NAME: usize = 255;

/// A local user who has shown an access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Who it is.
    pub id: OwnedUserId,
    /// The same as a number.
    pub number: UserNo,
    /// The device to which the token was given.
    pub device: OwnedDeviceId,
    /// Whether this user runs the server.
    pub admin: bool,
    /// Whether this is a guest.
    pub guest: bool,
    /// Whether the account is locked: `http` lets such a user do nothing but log out.
    pub locked: bool,
    /// Whether the account is suspended: see [`User::may_act`].
    pub suspended: bool,
    /// The token.
    pub token: TokenKey,
    /// Until when the token holds.
    pub expires: Option<u64>,
}

impl User {
    /// Refuses suspended users, who may read and leave but not speak.
    ///
    /// Spec: client-server-api#account-suspension
    pub fn may_act(&self) -> Result<()> {
        match self.suspended {
            false => Ok(()),
            true => Err(Error::new(
                http::StatusCode::FORBIDDEN,
                "M_USER_SUSPENDED",
                "this account is suspended: it may read and leave rooms, but not do this",
            )),
        }
    }
}

/// Who is behind the tokens in use.
pub(super) struct Cache(sync::Cache<TokenKey, User>);

impl Cache {
    /// A cache of about so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(sync::Cache::new(usize::try_from(bytes / CACHED).unwrap_or(usize::MAX)))
    }

    pub fn forget(&self, key: &TokenKey) {
        self.0.remove(key);
    }
}

/// What a client gets when it logs in.
#[derive(Debug, Clone)]
pub struct Login {
    /// The device.
    pub device: OwnedDeviceId,
    /// Its access token.
    pub access_token: String,
    /// Its refresh token, if it asked for one.
    pub refresh_token: Option<String>,
    /// How long the access token holds, in milliseconds.
    pub expires_in: Option<u64>,
}

/// What a client says of its device when it logs in.
#[derive(Debug, Clone, Default)]
pub struct NewDevice {
    /// The device ID it had before, or would like.
    pub id: Option<OwnedDeviceId>,
    /// The name for a device that is new.
    pub name: Option<String>,
    /// Whether it can refresh its access token.
    pub refresh: bool,
}

impl Users {
    /// Who shows this access token; an error if it is not, or no longer, valid.
    pub fn identify(&self, token: &str) -> Result<User> {
        let key = key(token);
        let user = match self.inner.sessions.0.get(&key) {
            Some(user) => user,
            None => self.look_up(key)?.ok_or_else(|| Error::unknown_token(false))?,
        };
        match user.expires {
            Some(expires) if expires <= self.clock.now() => Err(Error::unknown_token(true)),
            _ => Ok(user),
        }
    }

    fn look_up(&self, key: TokenKey) -> Result<Option<User>, StoreError> {
        let Some(user) = self.behind(key)? else { return Ok(None) };
        self.inner.sessions.0.insert(key, user.clone());
        // The token may have ended while it was looked up. Whoever ends it removes the row first and
        // then the cached user, so that one of the two sees the other.
        match self.behind(key)? {
            Some(now) if now == user => Ok(Some(user)),
            now => {
                self.inner.sessions.forget(&key);
                Ok(now)
            }
        }
    }

    /// Who is behind a token, according to the rows.
    fn behind(&self, key: TokenKey) -> Result<Option<User>, StoreError> {
        let Some(token) = self.store.get(ACCESS_TOKENS, &key)? else { return Ok(None) };
        let (Some(account), Some(id)) =
            (self.store.get(ACCOUNTS, &token.user)?, numbers::user_id(&self.store, token.user)?)
        else {
            return Ok(None);
        };
        if token.fresh {
            self.settle(&key, &token)?;
        }
        Ok((!account.deactivated).then(|| User {
            id,
            number: token.user,
            device: token.device.into(),
            admin: account.admin,
            guest: account.guest,
            locked: account.locked,
            suspended: account.suspended,
            token: key,
            expires: token.expires,
        }))
    }

    /// The tokens of a refresh are used for the first time: those before them end.
    ///
    /// Spec: client-server-api#refreshing-access-tokens
    fn settle(&self, key: &TokenKey, token: &TokenRow) -> Result<(), StoreError> {
        let done = {
            let _lock = self.lock(token.user);
            let mut write = self.store.write();
            let place = (token.user, token.device.clone());
            let Some(mut row) = write.get(DEVICES, &place)? else { return Ok(()) };
            let closed = settle(&mut write, &mut row, key)?;
            write.put(DEVICES, &place, &row);
            self.commit(write, closed)
        };
        // Whoever showed the token need not wait until the old ones have ended.
        tokio::spawn(done);
        Ok(())
    }

    /// Makes the server look again at who is behind the tokens of a user, after the account has changed.
    pub fn forget_sessions(&self, user: UserNo) {
        self.inner.sessions.0.retain(|_, cached| cached.number != user);
    }
}

/// Logs a device in: gives it tokens, and ends those it had. The caller holds the user's lock and
/// passes the ended tokens to [`Users::commit`].
///
/// Errors: 400 `M_INVALID_PARAM` for IDs and names that are too long, 403 `M_FORBIDDEN` for the ID of a key.
/// Spec: client-server-api#relationship-between-access-tokens-and-devices
pub fn open(users: &Users, write: &mut Write, user: UserNo, new: NewDevice) -> Result<(Login, Vec<TokenKey>)> {
    let device = new.id.unwrap_or_else(|| users.chance.letters(10).into());
    if device.as_str().is_empty() || device.as_str().len() > NAME {
        return Err(Error::invalid_param(format!("a device ID has between 1 and {NAME} bytes")));
    }
    if new.name.as_ref().is_some_and(|name| name.len() > NAME) {
        return Err(Error::invalid_param(format!("the name of a device has at most {NAME} bytes")));
    }
    if cross_signing::is_public_key(write, user, device.as_str())? {
        return Err(Error::forbidden("a device cannot be called like one of your cross-signing keys"));
    }
    let place = (user, device.to_string());
    let fresh = || DeviceRow { name: new.name, created: users.clock.now(), ..Default::default() };
    let mut row = write.get(DEVICES, &place)?.unwrap_or_else(fresh);
    let closed = end(write, &mut row);
    let login = begin(users, write, user, &device, &mut row, new.refresh, false);
    write.put(DEVICES, &place, &row);
    Ok((login, closed))
}

/// New tokens for a device that shows its refresh token. The old ones hold until the new ones are used.
///
/// Spec: client-server-api#refreshing-access-tokens
pub async fn refresh(users: &Users, token: &str) -> Result<Login> {
    let key = key(token);
    let unknown = || Error::unknown_token(false);
    let (done, login) = {
        let found = users.store.get(REFRESH_TOKENS, &key)?.ok_or_else(unknown)?;
        let _lock = users.lock(found.user);
        let mut write = users.store.write();
        // It may have ended in between.
        let found = write.get(REFRESH_TOKENS, &key)?.ok_or_else(unknown)?;
        let place = (found.user, found.device.clone());
        let mut row = write.get(DEVICES, &place)?.ok_or_else(unknown)?;
        let mut closed = match found.fresh {
            true => settle(&mut write, &mut row, &key)?,
            false => vec![],
        };
        // The client asks again because it has lost an earlier answer.
        closed.extend(keep(&mut write, &mut row, |at| at == 0));
        let login = begin(users, &mut write, found.user, found.device.as_str().into(), &mut row, true, true);
        write.put(DEVICES, &place, &row);
        (users.commit(write, closed), login)
    };
    done.await?;
    Ok(login)
}

/// Ends the tokens before those of a refresh.
fn settle(write: &mut Write, row: &mut DeviceRow, used: &TokenKey) -> Result<Vec<TokenKey>, StoreError> {
    let place = row.access.iter().chain(&row.refresh).position(|key| key == used).unwrap_or(0);
    let place = place % row.access.len().max(1);
    let closed = keep(write, row, |at| at == place);
    for key in &row.access {
        if let Some(token) = write.get(ACCESS_TOKENS, key)? {
            write.put(ACCESS_TOKENS, key, &TokenRow { fresh: false, ..token });
        }
    }
    for key in &row.refresh {
        if let Some(token) = write.get(REFRESH_TOKENS, key)? {
            write.put(REFRESH_TOKENS, key, &TokenRow { fresh: false, ..token });
        }
    }
    Ok(closed)
}

/// Ends the tokens of a device but those at some places; returns the access tokens that end.
fn keep(write: &mut Write, row: &mut DeviceRow, keep: impl Fn(usize) -> bool) -> Vec<TokenKey> {
    let sort = |keys: &mut Vec<TokenKey>| -> Vec<TokenKey> {
        let (kept, ended): (Vec<_>, Vec<_>) = keys.drain(..).enumerate().partition(|(at, _)| keep(*at));
        keys.extend(kept.into_iter().map(|(_, key)| key));
        ended.into_iter().map(|(_, key)| key).collect()
    };
    sort(&mut row.refresh).iter().for_each(|key| write.delete(REFRESH_TOKENS, key));
    let closed = sort(&mut row.access);
    closed.iter().for_each(|key| write.delete(ACCESS_TOKENS, key));
    closed
}

/// Gives a device new tokens besides those it has.
fn begin(
    users: &Users,
    write: &mut Write,
    user: UserNo,
    device: &DeviceId,
    row: &mut DeviceRow,
    refresh: bool,
    fresh: bool,
) -> Login {
    let expires_in = refresh.then_some(SHORT);
    let expires = expires_in.map(|time| users.clock.now() + time);
    let access_token = format!("igl_{}", users.chance.secret());
    let token = TokenRow { user, device: device.to_string(), expires, fresh };
    write.put(ACCESS_TOKENS, &key(&access_token), &token);
    row.access.push(key(&access_token));
    let refresh_token = refresh.then(|| format!("igr_{}", users.chance.secret()));
    if let Some(refresh_token) = &refresh_token {
        write.put(REFRESH_TOKENS, &key(refresh_token), &TokenRow { expires: None, ..token });
        row.refresh.push(key(refresh_token));
    }
    Login { device: device.to_owned(), access_token, refresh_token, expires_in }
}

/// Ends the tokens of a device; returns the access tokens among them.
pub(super) fn end(write: &mut Write, row: &mut DeviceRow) -> Vec<TokenKey> {
    keep(write, row, |_| false)
}

/// What is stored of a token.
pub(super) fn key(token: &str) -> TokenKey {
    Sha256::digest(token.as_bytes()).into()
}
