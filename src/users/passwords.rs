//! Passwords: hashed with argon2id on the blocking threads, a few at a time.
//!
//! A wrong password costs as much time as a right one, and an account that is not there as much as one
//! that is. `Guesses` slows down whoever tries many.

use std::{net::IpAddr, time::Duration};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash},
};
use tokio::sync::Semaphore;

use super::Users;
use crate::{
    config::PasswordCost,
    error::{Error, Result},
    heavy,
    limits::{Buckets, Rate},
    store::schema::UserNo,
};

/// How many hashes are made at once: each holds its memory for as long as it takes.
const AT_ONCE: usize = 2;
/// How many requests may wait for one.
const WAITING: usize = 64;
/// How long a password may be, in bytes.
const LONGEST: usize = 1024;

/// Wrong passwords for one account from one address.
const PER_ACCOUNT: Rate = Rate { burst: 6.0, per_second: 1.0 / 20.0 };
/// Wrong passwords from one address, for whatever accounts.
const PER_ADDRESS: Rate = Rate { burst: 20.0, per_second: 1.0 / 10.0 };
/// Wrong passwords for one account from everywhere: many machines may take turns.
const FROM_EVERYWHERE: Rate = Rate { burst: 60.0, per_second: 1.0 / 10.0 };

pub(super) struct Passwords {
    at_once: Semaphore,
    waiting: Semaphore,
    guesses: Guesses,
}

/// Who guessed wrong how often.
struct Guesses {
    accounts: Buckets<(UserNo, Option<IpAddr>)>,
    addresses: Buckets<Option<IpAddr>>,
    everywhere: Buckets<UserNo>,
}

impl Guesses {
    fn take(&self, account: UserNo, from: Option<IpAddr>, now: u64) -> Result<(), Duration> {
        self.accounts.take(&(account, from), now)?;
        self.addresses.take(&from, now)?;
        self.everywhere.take(&account, now)
    }

    fn forgive(&self, account: UserNo, from: Option<IpAddr>) {
        self.accounts.forgive(&(account, from));
        self.addresses.put_back(&from);
        self.everywhere.put_back(&account);
    }
}

impl Passwords {
    pub fn new() -> Self {
        Self {
            at_once: Semaphore::new(AT_ONCE),
            waiting: Semaphore::new(WAITING),
            guesses: Guesses {
                accounts: Buckets::new(PER_ACCOUNT, 4096),
                addresses: Buckets::new(PER_ADDRESS, 4096),
                everywhere: Buckets::new(FROM_EVERYWHERE, 4096),
            },
        }
    }
}

/// The hash of a new password, as a PHC string.
pub async fn hash(users: &Users, password: &str) -> Result<String> {
    if password.is_empty() {
        return Err(Error::bad_request("M_WEAK_PASSWORD", "a password cannot be empty"));
    }
    if password.len() > LONGEST {
        return Err(Error::invalid_param(format!("a password has at most {LONGEST} bytes")));
    }
    let (password, salt, argon2) = (password.to_owned(), users.chance.bytes::<16>(), argon2(users)?);
    let hash = blocking(users, move || {
        argon2.hash_password_with_salt(password.as_bytes(), &salt).map(|hash| hash.to_string())
    });
    hash.await?.map_err(|error| Error::internal(error.to_string()))
}

/// Whether this is the password of an account; `from` is the address of whoever tries.
pub async fn check(users: &Users, account: Option<UserNo>, from: Option<IpAddr>, password: &str) -> Result<bool> {
    // An account that is not there has number 0, which no account has.
    let number = account.unwrap_or_default();
    let guesses = &users.inner.passwords.guesses;
    if users.config.limits.enabled {
        // Taken before the answer is known, so that guesses at the same time count too.
        guesses.take(number, from, users.clock.now()).map_err(Error::limit_exceeded)?;
    }
    let known = match account {
        Some(number) => super::accounts::find(users, number)?.and_then(|account| account.password),
        None => None,
    };
    let right = match known {
        _ if password.len() > LONGEST => false,
        Some(known) => verify(users, known, password).await?,
        None => {
            // As slow as the others.
            hash(users, if password.is_empty() { "-" } else { password }).await?;
            false
        }
    };
    if right {
        guesses.forgive(number, from);
    }
    Ok(right)
}

/// Forgets wrong guesses for an account, whose password is a new one.
pub(super) fn forgive(users: &Users, account: UserNo) {
    users.inner.passwords.guesses.everywhere.forgive(&account);
}

async fn verify(users: &Users, known: String, password: &str) -> Result<bool> {
    let password = password.to_owned();
    let right = blocking(users, move || {
        let known = PasswordHash::new(&known)?;
        // The cost is that of the stored hash.
        Ok::<_, argon2::password_hash::phc::Error>(
            Argon2::default().verify_password(password.as_bytes(), &known).is_ok(),
        )
    });
    right.await?.map_err(|error| Error::internal(error.to_string()))
}

async fn blocking<T: Send + 'static>(users: &Users, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    let passwords = &users.inner.passwords;
    let _waiting = match passwords.waiting.try_acquire() {
        Err(_) if users.config.limits.enabled => return Err(Error::limit_exceeded(Duration::from_secs(2))),
        waiting => waiting.ok(),
    };
    let _turn = passwords.at_once.acquire().await.map_err(Error::internal)?;
    heavy::run(work).await
}

/// 19 MiB and two passes; for test beds, as little as argon2 takes.
fn argon2(users: &Users) -> Result<Argon2<'static>> {
    let (memory, passes) = match users.config.registration.password_cost {
        PasswordCost::Normal => (19 * 1024, 2),
        PasswordCost::Minimal => (Params::MIN_M_COST, 1),
    };
    let params = Params::new(memory, passes, 1, None).map_err(|error| Error::internal(error.to_string()))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}
