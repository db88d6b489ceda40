//! The push rules of a user: rows like other account data, and parsed in memory, because every message asks
//! for those of everybody in the room.
//!
//! Spec: client-server-api#push-rules

use std::{ops::Deref, sync::Arc};

use parking_lot::Mutex;
use quick_cache::sync;
use ruma::{UserId, events::push_rules::PushRulesEventContent, push::Ruleset};

use super::{Users, account_data};
use crate::{
    error::{Error, Result},
    protocol::push::{Asks, asks, default_rules},
    store::schema::UserNo,
};

/// The type of account data that holds the rules.
pub const KIND: &str = "m.push_rules";

/// What the rules of one user take in memory, roughly.
const RULES: u64 = 10 << 10;

/// The rules of a user, and what they ask for.
#[derive(Debug)]
pub struct Rules {
    set: Ruleset,
    /// What they ask for.
    pub asks: Asks,
}

impl Deref for Rules {
    type Target = Ruleset;

    fn deref(&self) -> &Ruleset {
        &self.set
    }
}

/// Parsed rules, by user.
pub(super) struct Cache {
    rules: sync::Cache<UserNo, Arc<Rules>>,
    /// How often rules have changed: what was read before the newest change is not kept.
    changes: Mutex<u64>,
}

impl Cache {
    /// A cache of about so many bytes.
    pub fn new(bytes: u64) -> Self {
        let rules = sync::Cache::new(usize::try_from(bytes / RULES).unwrap_or(usize::MAX));
        Self { rules, changes: Mutex::default() }
    }
}

/// The rules with which a user begins, as account data.
pub(super) fn initial(id: &UserId) -> Result<String> {
    serde_json::to_string(&PushRulesEventContent::new(default_rules(id))).map_err(Error::internal)
}

/// The rules of a local user: their own, or those with which everybody begins.
pub fn of(users: &Users, number: UserNo, id: &UserId) -> Result<Arc<Rules>> {
    let cache = &users.inner.push_rules;
    if let Some(rules) = cache.rules.get(&number) {
        return Ok(rules);
    }
    let before = *cache.changes.lock();
    let kept = account_data::find(users, number, None, KIND)?;
    let rules = kept.as_deref().and_then(|json| serde_json::from_str::<PushRulesEventContent>(json).ok());
    let set = rules.map_or_else(|| default_rules(id), |content| content.global);
    let rules = Arc::new(Rules { asks: asks(&set), set });
    let changes = cache.changes.lock();
    if *changes == before {
        cache.rules.insert(number, Arc::clone(&rules));
    }
    Ok(rules)
}

/// Changes the rules of a local user; `change` may refuse.
pub async fn edit(
    users: &Users,
    number: UserNo,
    id: &UserId,
    change: impl FnOnce(&mut Ruleset) -> Result<()>,
) -> Result<()> {
    let edited = account_data::edit(users, number, None, KIND, |before| {
        let before = before.and_then(|json| serde_json::from_value::<PushRulesEventContent>(json).ok());
        let mut rules = before.map_or_else(|| default_rules(id), |content| content.global);
        change(&mut rules)?;
        serde_json::to_value(PushRulesEventContent::new(rules)).map_err(Error::internal)
    });
    let done = edited.await;
    let cache = &users.inner.push_rules;
    let mut changes = cache.changes.lock();
    *changes += 1;
    cache.rules.remove(&number);
    done
}
