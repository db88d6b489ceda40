//! Who is there, as others see it: the newest of each user, by the counter at which it changed.

use std::collections::{BTreeMap, HashMap};

use crate::{protocol::presence::State, store::schema::UserNo};

/// Of how many users of all servers presence is remembered; beyond that the one that changed first is forgotten.
const MOST: usize = 10_000;

/// What is known of somebody's presence.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Presence {
    /// Where they are.
    pub state: State,
    /// When they last did something, in milliseconds since the epoch.
    pub active_at: u64,
    /// Whether they are doing something now.
    pub is_active: bool,
    /// What they say of it.
    pub status: Option<String>,
}

/// Everybody's presence.
#[derive(Default)]
pub(super) struct Board {
    rows: HashMap<UserNo, (u64, Presence)>,
    order: BTreeMap<u64, UserNo>,
}

impl Board {
    /// Puts down what is known of a user as the change with this number.
    pub fn put(&mut self, counter: u64, user: UserNo, presence: Presence) {
        if let Some((before, _)) = self.rows.insert(user, (counter, presence)) {
            self.order.remove(&before);
        }
        self.order.insert(counter, user);
        if self.rows.len() > MOST
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.rows.remove(&oldest);
        }
    }

    /// What is known of a user, and at which change it was put down.
    pub fn get(&self, user: UserNo) -> Option<&(u64, Presence)> {
        self.rows.get(&user)
    }

    /// The same, to be corrected in silence.
    pub fn get_mut(&mut self, user: UserNo) -> Option<&mut Presence> {
        self.rows.get_mut(&user).map(|(_, presence)| presence)
    }

    /// What was put down after a change, oldest first.
    pub fn since(&self, counter: u64) -> impl Iterator<Item = (UserNo, &Presence)> {
        let changed = self.order.range(counter.saturating_add(1)..);
        changed.filter_map(|(_, user)| self.rows.get(user).map(|(_, presence)| (*user, presence)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_bounded() {
        let mut board = Board::default();
        for user in 0..MOST as u64 + 100 {
            board.put(user + 1, UserNo(user), Presence::default());
        }
        assert_eq!((board.rows.len(), board.order.len()), (MOST, MOST));
        assert!(board.get(UserNo(0)).is_none());
    }
}
