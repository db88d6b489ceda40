//! The log: one number that only grows, and who waits for it.
//!
//! Every [`super::Write`] takes the next positions; readers see a position once all that came
//! before it is durable and applied. Followers watch the position; a waiting `/sync` registers for
//! its user and is woken only by a `Write` that names that user.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified};

use super::schema::{RoomNo, UserNo};
use crate::number;

number!(
    /// A place in the log. 0 is before everything.
    Position
);

/// Who waits for news, by local user, and how new the news of each user and room is.
///
/// Bounded by the number of local users and known rooms. After a start the newest positions are unknown
/// and taken to be the position of the start: one look too many, never one too few.
#[derive(Default)]
pub struct Wakers {
    users: Mutex<HashMap<UserNo, Waiting>>,
    rooms: Mutex<Touched>,
    started: Position,
}

/// The newest position of each room, by room and by position.
#[derive(Default)]
struct Touched {
    newest: HashMap<RoomNo, Position>,
    order: BTreeSet<(Position, RoomNo)>,
}

#[derive(Default)]
struct Waiting {
    notify: Arc<Notify>,
    newest: Position,
}

impl Wakers {
    /// Nobody waits, and everything up to `started` may be news.
    pub(super) fn new(started: Position) -> Self {
        Self { started, ..Self::default() }
    }

    /// A wait that ends with the next news for `user`. Make it, then look for news, then await it:
    /// nothing that happens in between is missed.
    pub fn listen(&self, user: UserNo) -> OwnedNotified {
        Arc::clone(&self.users.lock().entry(user).or_default().notify).notified_owned()
    }

    /// The newest position at which a `Write` named `user`, or an upper bound of it.
    pub fn newest(&self, user: UserNo) -> Position {
        self.users.lock().get(&user).map_or(self.started, |waiting| waiting.newest.max(self.started))
    }

    /// The newest position at which a `Write` named `room`, or an upper bound of it.
    pub fn newest_in(&self, room: RoomNo) -> Position {
        self.rooms.lock().newest.get(&room).map_or(self.started, |newest| (*newest).max(self.started))
    }

    /// The rooms that a `Write` named after `since`; nothing if `since` is before the start, because then
    /// it may be any room.
    pub fn touched_since(&self, since: Position) -> Option<Vec<RoomNo>> {
        if since < self.started {
            return None;
        }
        let after = (Position(since.0.saturating_add(1)), RoomNo(0));
        Some(self.rooms.lock().order.range(after..).map(|(_, room)| *room).collect())
    }

    /// Ends the waits of `users`.
    pub fn wake<'a>(&self, users: impl IntoIterator<Item = &'a UserNo>) {
        let waiting = self.users.lock();
        for user in users {
            if let Some(entry) = waiting.get(user) {
                entry.notify.notify_waiters();
            }
        }
    }

    /// Notes what a `Write` named, before its position is published: whoever sees the position sees
    /// that there is news. The waits end afterwards.
    pub(super) fn note(&self, users: &[UserNo], rooms: &[RoomNo], position: Position) {
        let mut waiting = self.users.lock();
        for user in users {
            let entry = waiting.entry(*user).or_default();
            entry.newest = entry.newest.max(position);
        }
        drop(waiting);
        let mut touched = self.rooms.lock();
        for room in rooms {
            match touched.newest.insert(*room, position) {
                Some(before) if before > position => {
                    touched.newest.insert(*room, before);
                }
                before => {
                    before.map(|before| touched.order.remove(&(before, *room)));
                    touched.order.insert((position, *room));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_known_by_their_newest_position() {
        let wakers = Wakers::new(Position(3));
        wakers.note(&[], &[RoomNo(1), RoomNo(2)], Position(4));
        wakers.note(&[], &[RoomNo(1)], Position(6));
        assert_eq!(wakers.touched_since(Position(3)), Some(vec![RoomNo(2), RoomNo(1)]));
        assert_eq!(wakers.touched_since(Position(4)), Some(vec![RoomNo(1)]));
        assert_eq!(wakers.touched_since(Position(6)), Some(vec![]));
        assert_eq!(wakers.touched_since(Position(2)), None);
    }
}
