//! The log: one number that only grows, and who waits for it.
//!
//! Every [`super::Write`] takes the next positions; readers see a position once all that came
//! before it is durable and applied. Followers watch the position; a waiting `/sync` registers for
//! its user and is woken only by a `Write` that names that user.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Notify, futures::OwnedNotified};

use super::schema::UserNo;
use crate::number;

number!(
    /// A place in the log. 0 is before everything.
    Position
);

/// Who waits for news, by local user, and the position of each user's newest news.
///
/// Bounded by the number of local users. After a start the newest position is unknown and taken to
/// be the position of the start: one look too many per user, never one too few.
#[derive(Default)]
pub struct Wakers {
    users: Mutex<HashMap<UserNo, Waiting>>,
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
        Self { users: Mutex::default(), started }
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

    /// Ends the waits of `users` for something that has no position (typing, presence).
    pub fn wake(&self, users: impl IntoIterator<Item = UserNo>) {
        self.publish(users, Position(0));
    }

    /// Ends the waits of `users`: there is news for them at `position`.
    pub(super) fn publish(&self, users: impl IntoIterator<Item = UserNo>, position: Position) {
        let mut waiting = self.users.lock();
        for user in users {
            let entry = waiting.entry(user).or_default();
            entry.newest = entry.newest.max(position);
            entry.notify.notify_waiters();
        }
    }
}
