//! Accounts: which names may be taken, how an account begins, changes and ends.

use std::collections::HashSet;

use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use super::{
    Users, account_data, devices, passwords, push_rules,
    sessions::{self, Login, NewDevice},
};
use crate::{
    e2ee::backup,
    error::{Error, Result},
    store::{
        StoreError, Write,
        schema::{
            UserNo, numbers,
            users::{ACCOUNT_DATA, ACCOUNT_DATA_CHANGES, ACCOUNTS, AccountRow, FILTERS, PROFILES},
        },
    },
};

/// What is known of an account that is about to be made.
#[derive(Debug, Clone, Default)]
pub struct NewAccount {
    /// Its password; without one nobody can log in by password.
    pub password: Option<String>,
    /// Whether its owner runs the server.
    pub admin: bool,
    /// Whether it is a guest's.
    pub guest: bool,
    /// The application service that it belongs to.
    pub bridge: Option<String>,
}

/// The account behind a number.
pub fn find(users: &Users, number: UserNo) -> Result<Option<AccountRow>, StoreError> {
    users.store.get(ACCOUNTS, &number)
}

/// The number of a local user who has an account, and the account.
pub fn by_id(users: &Users, id: &UserId) -> Result<Option<(UserNo, AccountRow)>, StoreError> {
    let Some(number) = numbers::find_user(&users.store, id)? else { return Ok(None) };
    Ok(find(users, number)?.map(|account| (number, account)))
}

/// The user ID that a new account of this name would have. Capitals become small: whoever writes `Ann` means
/// `ann`, and login takes both.
///
/// Errors: 400 `M_INVALID_USERNAME`.
///
/// Spec: appendices#user-identifiers
pub fn new_id(users: &Users, localpart: &str) -> Result<OwnedUserId> {
    let invalid = |message: &'static str| Err(Error::bad_request("M_INVALID_USERNAME", message));
    let allowed = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/' | b'+');
    let localpart = localpart.to_ascii_lowercase();
    if localpart.is_empty() || !localpart.as_bytes().iter().all(allowed) {
        return invalid("a name is made of a-z, 0-9 and the signs . _ = - / +");
    }
    if localpart.starts_with('_') {
        return invalid("names that begin with _ are for bridges");
    }
    let id = format!("@{localpart}:{}", users.server_name);
    match UserId::parse(&id) {
        Ok(user) if id.len() <= 255 => Ok(user.to_owned()),
        _ => invalid("this name is too long"),
    }
}

/// Refuses a name that is taken.
pub fn check_free(users: &Users, id: &UserId) -> Result<()> {
    match by_id(users, id)? {
        Some(_) => Err(Error::bad_request("M_USER_IN_USE", "this name is taken")),
        None => Ok(()),
    }
}

/// A name that nobody has.
pub fn free_id(users: &Users) -> Result<OwnedUserId> {
    new_id(users, &users.chance.word(12))
}

/// Makes an account and, if a device is given, logs it in; `also` may add to the `Write`.
pub async fn create(
    users: &Users,
    id: &UserId,
    new: NewAccount,
    device: Option<NewDevice>,
    also: impl FnOnce(&mut Write) -> Result<()>,
) -> Result<Option<Login>> {
    let password = match &new.password {
        Some(password) => Some(passwords::hash(users, password).await?),
        None => None,
    };
    let (done, login) = {
        let _lock = users.lock(id);
        let mut write = users.store.write();
        let number = numbers::user(&mut write, id)?;
        if write.get(ACCOUNTS, &number)?.is_some() {
            return Err(Error::bad_request("M_USER_IN_USE", "this name is taken"));
        }
        let NewAccount { admin, guest, bridge, .. } = new;
        let created = users.clock.now();
        write.put(ACCOUNTS, &number, &AccountRow { password, created, admin, guest, bridge, ..Default::default() });
        account_data::put(&mut write, number, None, push_rules::KIND, push_rules::initial(id)?)?;
        also(&mut write)?;
        let login = device.map(|device| sessions::open(users, &mut write, number, device)).transpose()?;
        (users.commit(write, vec![]), login.map(|(login, _)| login))
    };
    done.await?;
    Ok(login)
}

/// Changes an account; what its tokens allow changes with it.
pub async fn change(users: &Users, number: UserNo, change: impl FnOnce(&mut AccountRow)) -> Result<()> {
    let done = {
        let _lock = users.lock(number);
        let mut write = users.store.write();
        let mut account = write.get(ACCOUNTS, &number)?.ok_or_else(|| Error::not_found("there is no such account"))?;
        change(&mut account);
        write.put(ACCOUNTS, &number, &account);
        users.commit(write, vec![])
    };
    done.await?;
    users.forget_sessions(number);
    Ok(())
}

/// Sets the password. With `logout_others`, all devices but that one are logged out.
pub async fn set_password(
    users: &Users,
    number: UserNo,
    password: &str,
    logout_others: Option<&ruma::DeviceId>,
) -> Result<()> {
    let password = passwords::hash(users, password).await?;
    let done = {
        let _lock = users.lock(number);
        let removing = users.e2ee.removing();
        let mut write = users.store.write();
        let mut account = write.get(ACCOUNTS, &number)?.ok_or_else(|| Error::not_found("there is no such account"))?;
        account.password = Some(password);
        write.put(ACCOUNTS, &number, &account);
        let closed = match logout_others {
            Some(keep) => devices::forget_all(users, &removing, &mut write, number, Some(keep))?,
            None => vec![],
        };
        users.commit(write, closed)
    };
    done.await
}

/// Makes a guest a full user with a password, and logs a device in.
///
/// Spec: client-server-api#guest-access
pub async fn promote(users: &Users, guest: UserNo, password: &str, device: Option<NewDevice>) -> Result<Option<Login>> {
    let password = passwords::hash(users, password).await?;
    let (done, login) = {
        let _lock = users.lock(guest);
        let mut write = users.store.write();
        let account = write.get(ACCOUNTS, &guest)?.filter(|account| account.guest && !account.deactivated);
        let account = account.ok_or_else(|| Error::forbidden("this is no guest (any more)"))?;
        write.put(ACCOUNTS, &guest, &AccountRow { guest: false, password: Some(password), ..account });
        let login = device.map(|device| sessions::open(users, &mut write, guest, device)).transpose()?;
        let (login, closed) = login.map_or((None, vec![]), |(login, closed)| (Some(login), closed));
        (users.commit(write, closed), login)
    };
    done.await?;
    users.forget_sessions(guest);
    Ok(login)
}

/// Gives an account up for ever: nobody can log in any more, and the name stays taken. Leaving rooms is
/// for whoever sees rooms.
///
/// Spec: client-server-api#account-deactivation
pub async fn deactivate(users: &Users, number: UserNo, erase: bool) -> Result<()> {
    let done = {
        let _lock = users.lock(number);
        let removing = users.e2ee.removing();
        let mut write = users.store.write();
        let mut account = write.get(ACCOUNTS, &number)?.ok_or_else(|| Error::not_found("there is no such account"))?;
        account.password = None;
        account.deactivated = true;
        account.erased |= erase;
        account.admin = false;
        write.put(ACCOUNTS, &number, &account);
        let closed = devices::forget_all(users, &removing, &mut write, number, None)?;
        users.e2ee.forget_user(&removing, &mut write, number)?;
        if erase {
            erase_rows(&mut write, number)?;
        }
        users.commit(write, closed)
    };
    done.await?;
    users.forget_sessions(number);
    users.inner.erased.0.lock().take();
    backup::sweep(&users.e2ee, number).await
}

/// Who has asked to be erased, once somebody has looked.
#[derive(Default)]
pub(super) struct Erased(Mutex<Option<HashSet<OwnedUserId>>>);

impl Users {
    /// Whether a user of this server has asked that what they sent be hidden from whoever came later.
    pub fn is_erased(&self, user: &UserId) -> Result<bool, StoreError> {
        let mut erased = self.inner.erased.0.lock();
        if let Some(erased) = &*erased {
            return Ok(erased.contains(user));
        }
        let mut found = HashSet::new();
        for row in self.store.scan(ACCOUNTS, &()) {
            let (number, account) = row?;
            if account.erased {
                found.extend(numbers::user_id(&self.store, number)?);
            }
        }
        Ok(erased.insert(found).contains(user))
    }
}

/// Removes what somebody kept in the account.
fn erase_rows(write: &mut Write, user: UserNo) -> Result<()> {
    for (place, _) in write.scan(PROFILES, &user)? {
        write.delete(PROFILES, &place);
    }
    for (place, row) in write.scan(ACCOUNT_DATA, &user)? {
        write.delete(ACCOUNT_DATA, &place);
        write.delete(ACCOUNT_DATA_CHANGES, &(user, row.position));
    }
    for (place, _) in write.scan(FILTERS, &user)? {
        write.delete(FILTERS, &place);
    }
    Ok(())
}

/// Logs a device of an account in.
pub async fn log_in(users: &Users, number: UserNo, device: NewDevice) -> Result<Login> {
    let (done, login) = {
        let _lock = users.lock(number);
        let mut write = users.store.write();
        let (login, closed) = sessions::open(users, &mut write, number, device)?;
        (users.commit(write, closed), login)
    };
    done.await?;
    Ok(login)
}
