//! Registration tokens: who knows one may make an account.
//!
//! Tokens of the configuration hold without end; those in the store may have a number of uses and a day
//! on which they end.

use super::Users;
use crate::{
    error::{Error, Result},
    store::{
        StoreError, Write,
        schema::users::{REGISTRATION_TOKENS, RegistrationTokenRow},
    },
};

/// Whether accounts can be made with tokens here.
pub fn has_tokens(users: &Users) -> Result<bool, StoreError> {
    let kept = users.store.scan(REGISTRATION_TOKENS, &()).next().transpose()?;
    Ok(kept.is_some() || !users.config.registration.tokens.is_empty())
}

/// Whether an account can be made with this token.
pub fn is_valid(users: &Users, token: &str) -> Result<bool, StoreError> {
    if users.config.registration.tokens.iter().any(|known| known == token) {
        return Ok(true);
    }
    let row = users.store.get(REGISTRATION_TOKENS, &token.to_owned())?;
    Ok(row.is_some_and(|row| holds(users, &row)))
}

/// Counts one use of a token, in the `Write` that makes the account. Two people may have shown the last
/// use of a token at once: one of them is refused here.
pub fn consume(users: &Users, write: &mut Write, token: &str) -> Result<()> {
    if users.config.registration.tokens.iter().any(|known| known == token) {
        return Ok(());
    }
    match write.get(REGISTRATION_TOKENS, &token.to_owned())? {
        Some(mut row) if holds(users, &row) => {
            row.completed += 1;
            write.put(REGISTRATION_TOKENS, &token.to_owned(), &row);
            Ok(())
        }
        _ => Err(Error::forbidden("this registration token does not hold any more")),
    }
}

fn holds(users: &Users, row: &RegistrationTokenRow) -> bool {
    row.uses.is_none_or(|uses| row.completed < uses) && row.expires.is_none_or(|expires| users.clock.now() < expires)
}
