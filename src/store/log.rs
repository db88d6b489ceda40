//! The log: one number that only grows, and who waits for it.
//!
//! Every [`super::Write`] takes the next positions; readers see a position once all that came
//! before it is durable and applied. Followers watch the position; a waiting `/sync` registers for
//! its user and is woken only by a `Write` that names that user.

use std::{collections::HashMap, sync::Arc};

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
    rooms: Mutex<HashMap<RoomNo, Position>>,
    started: Position,
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
        self.rooms.lock().get(&room).map_or(self.started, |newest| (*newest).max(self.started))
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
        let mut newest = self.rooms.lock();
        for room in rooms {
            let entry = newest.entry(*room).or_default();
            *entry = (*entry).max(position);
        }
    }
}
