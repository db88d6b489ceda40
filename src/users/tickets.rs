//! Secrets that are given out for a short while and kept in memory: login tokens, OpenID tokens, nonces,
//! sessions of user-interactive authentication.
//!
//! Bounded: when too many are out, those that end soonest end at once. A restart ends all of them.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;

use crate::chance::Chance;

/// Secrets that each stand for a value.
pub struct Tickets<T> {
    lifetime: u64,
    capacity: usize,
    out: Mutex<HashMap<String, (T, u64)>>,
}

impl<T: Clone> Tickets<T> {
    /// At most `capacity` secrets that hold for `lifetime`.
    pub fn new(lifetime: Duration, capacity: usize) -> Self {
        let lifetime = u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX);
        Self { lifetime, capacity, out: Mutex::default() }
    }

    /// How long a new secret holds.
    pub fn lifetime(&self) -> Duration {
        Duration::from_millis(self.lifetime)
    }

    /// A new secret for a value.
    pub fn issue(&self, chance: &Chance, now: u64, value: T) -> String {
        let secret = chance.secret();
        let mut out = self.out.lock();
        if out.len() >= self.capacity {
            out.retain(|_, (_, until)| *until > now);
        }
        if out.len() >= self.capacity {
            let soonest = out.iter().min_by_key(|(_, (_, until))| *until).map(|(secret, _)| secret.clone());
            soonest.map(|secret| out.remove(&secret));
        }
        out.insert(secret.clone(), (value, now.saturating_add(self.lifetime)));
        secret
    }

    /// What a secret stands for.
    pub fn find(&self, now: u64, secret: &str) -> Option<T> {
        self.out.lock().get(secret).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// What a secret stood for: it ends with this.
    pub fn take(&self, now: u64, secret: &str) -> Option<T> {
        self.out.lock().remove(secret).filter(|(_, until)| *until > now).map(|(value, _)| value)
    }

    /// Changes what a secret stands for.
    pub fn change(&self, secret: &str, change: impl FnOnce(&mut T)) {
        if let Some((value, _)) = self.out.lock().get_mut(secret) {
            change(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_taken_once_and_not_too_late() {
        let (tickets, chance) = (Tickets::new(Duration::from_millis(10), 2), Chance::seeded(1));
        let one = tickets.issue(&chance, 0, 1);
        assert_eq!(tickets.find(9, &one), Some(1));
        assert_eq!(tickets.find(10, &one), None);
        assert_eq!((tickets.take(9, &one), tickets.take(9, &one)), (Some(1), None));
    }

    #[test]
    fn the_soonest_to_end_makes_room() {
        let (tickets, chance) = (Tickets::new(Duration::from_millis(10), 2), Chance::seeded(1));
        let [one, two, three] = [0, 1, 2].map(|now| tickets.issue(&chance, now, now));
        assert_eq!([one, two, three].map(|secret| tickets.find(3, &secret)), [None, Some(1), Some(2)]);
    }
}
