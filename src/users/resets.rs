//! Links with which somebody who has forgotten their password sets a new one: made by an admin, good once and for a
//! day.
//!
//! Only the hash of the secret in a link is stored. A user has one link at a time. The page behind the link is in
//! `api::pages`.

use ruma::OwnedUserId;

use super::{Users, devices, passwords, sessions};
use crate::{
    error::{Error, Result},
    store::schema::{
        UserNo, numbers,
        users::{ACCOUNTS, PASSWORD_RESETS, ResetRow},
    },
};

/// How long a link holds: a day, in milliseconds.
const LIFETIME: u64 = 24 * 3600 * 1000;

/// Makes a link for an account; gives its secret. Links made before end, whosever they are if their time is over.
///
/// Errors: 404 `M_NOT_FOUND` if there is no such account (any more), or a guest's.
pub async fn issue(users: &Users, user: UserNo) -> Result<String> {
    let secret = users.chance.secret();
    let done = {
        let _lock = users.lock(user);
        let mut write = users.store.write();
        let account = write.get(ACCOUNTS, &user)?.filter(|account| !account.deactivated && !account.guest);
        account.ok_or_else(|| Error::not_found("there is no account that could have a password"))?;
        let now = users.clock.now();
        for (key, row) in write.scan(PASSWORD_RESETS, &())? {
            if row.user == user || row.expires <= now {
                write.delete(PASSWORD_RESETS, &key);
            }
        }
        write.put(PASSWORD_RESETS, &sessions::key(&secret), &ResetRow { user, expires: now + LIFETIME });
        users.commit(write, vec![])
    };
    done.await?;
    Ok(secret)
}

/// Whose password a link sets; nobody's if it does not hold (any more).
pub fn find(users: &Users, secret: &str) -> Result<Option<OwnedUserId>> {
    match holding(users, users.store.get(PASSWORD_RESETS, &sessions::key(secret))?) {
        Some(row) => Ok(numbers::user_id(&users.store, row.user)?),
        None => Ok(None),
    }
}

fn holding(users: &Users, row: Option<ResetRow>) -> Option<ResetRow> {
    row.filter(|row| users.clock.now() < row.expires)
}

/// Sets the password, which uses the link up; logs all devices out if asked to. Returns whether the link held.
pub async fn set_password(users: &Users, secret: &str, password: &str, log_out: bool) -> Result<bool> {
    let key = sessions::key(secret);
    let Some(ResetRow { user, .. }) = holding(users, users.store.get(PASSWORD_RESETS, &key)?) else {
        return Ok(false);
    };
    let password = passwords::hash(users, password).await?;
    let done = {
        let _lock = users.lock(user);
        let removing = users.e2ee.removing();
        let mut write = users.store.write();
        let account = write.get(ACCOUNTS, &user)?.filter(|account| !account.deactivated);
        // Of two who come at once, one sets the password.
        let (Some(_), Some(mut account)) = (holding(users, write.get(PASSWORD_RESETS, &key)?), account) else {
            return Ok(false);
        };
        account.password = Some(password);
        write.put(ACCOUNTS, &user, &account);
        write.delete(PASSWORD_RESETS, &key);
        let closed = match log_out {
            true => devices::forget_all(users, &removing, &mut write, user, None)?,
            false => vec![],
        };
        users.commit(write, closed)
    };
    done.await?;
    passwords::forgive(users, user);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Clock, config::Config, store::Store, users::accounts};

    #[tokio::test]
    async fn a_link_is_good_once_and_not_too_late() {
        let (store, clock) = (Store::in_memory(), Clock::by_hand(1));
        let users = Users::for_tests(&store, &clock, &std::sync::Arc::new(Config::for_tests()));
        let id = accounts::new_id(&users, "ann").expect("a name");
        let new = accounts::NewAccount { password: Some("old".into()), ..Default::default() };
        accounts::create(&users, &id, new, None, |_| Ok(())).await.expect("an account");
        let (user, _) = accounts::by_id(&users, &id).expect("a store").expect("an account");
        let first = issue(&users, user).await.expect("a link");
        let second = issue(&users, user).await.expect("a link");
        let holds = |secret: &str| find(&users, secret).expect("a store").is_some();
        assert!(!holds(&first) && holds(&second) && !holds("guessed"));
        assert!(set_password(&users, &second, "new", false).await.expect("a password"));
        assert!(!set_password(&users, &second, "newer", false).await.expect("no password"));
        assert!(passwords::check(&users, Some(user), None, "new").await.expect("a check"));
        let late = issue(&users, user).await.expect("a link");
        clock.advance(std::time::Duration::from_millis(LIFETIME));
        assert!(!holds(&late));
    }
}
