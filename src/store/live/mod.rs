//! What happens without leaving a trace on the disk: who is typing, who is there.
//!
//! A bounded bus in memory with a counter of its own. Readers remember the counter that they have seen
//! and ask what is newer; a restart begins again at 1 under another [`super::Store::boot`], so that they
//! ask for everything once more. Who is woken is the caller's to say.

mod presence;

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::sync::broadcast;

pub use self::presence::Presence;
use super::schema::{RoomNo, UserNo};

/// How many rooms may have typing people at once; beyond that the one that changed first is forgotten.
const MOST_TYPING_ROOMS: usize = 2_000;
/// How many people may be typing in one room at once.
const MOST_TYPING_USERS: usize = 50;

/// How many changes wait for whoever follows them; beyond that they miss some.
const WAITING: usize = 256;

/// How long other servers are not told again that somebody is still typing, in milliseconds. They forget it after
/// half a minute or a whole one.
const REMINDER: u64 = 25_000;

/// The bus.
pub struct Live {
    inner: Mutex<Inner>,
    outgoing: broadcast::Sender<Change>,
}

/// What whoever follows the bus is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Somebody began or stopped typing.
    Typing(TypingChange),
    /// Others are to hear (again) where somebody is.
    Presence(UserNo),
}

/// Somebody began or stopped typing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypingChange {
    /// Where.
    pub room: RoomNo,
    /// Who.
    pub user: UserNo,
    /// Which of the two.
    pub typing: bool,
}

impl Default for Live {
    fn default() -> Self {
        Self { inner: Mutex::default(), outgoing: broadcast::Sender::new(WAITING) }
    }
}

#[derive(Default)]
struct Inner {
    counter: u64,
    typing: HashMap<RoomNo, Typing>,
    /// The rooms of `typing` by their newest change.
    order: BTreeMap<u64, RoomNo>,
    presence: presence::Board,
}

#[derive(Default)]
struct Typing {
    changed: u64,
    people: BTreeMap<UserNo, Typist>,
}

/// Somebody who is typing; times are milliseconds since the epoch.
struct Typist {
    /// Until when they are taken to be.
    until: u64,
    /// When other servers were last to be told.
    told: u64,
}

impl Live {
    /// The newest value of the counter.
    pub fn counter(&self) -> u64 {
        self.inner.lock().counter
    }

    /// Notes that a user is typing until `until` (milliseconds since the epoch, like `now`), or has stopped. Returns
    /// whether that is news.
    pub fn typing(&self, room: RoomNo, user: UserNo, until: Option<u64>, now: u64) -> bool {
        let mut inner = self.inner.lock();
        let counter = inner.counter + 1;
        if until.is_none() && !inner.typing.contains_key(&room) {
            return false;
        }
        let entry = inner.typing.entry(room).or_default();
        let (changed, told) = entry.note(user, until, now);
        if changed {
            let before = std::mem::replace(&mut entry.changed, counter);
            inner.counter = counter;
            inner.order.remove(&before);
            inner.order.insert(counter, room);
            inner.forget_oldest();
        }
        if told {
            // Nobody follows where there is no federation.
            let change = TypingChange { room, user, typing: until.is_some() };
            drop(self.outgoing.send(Change::Typing(change)));
        }
        changed
    }

    /// What changes from now on, for federation.
    pub fn outgoing(&self) -> broadcast::Receiver<Change> {
        self.outgoing.subscribe()
    }

    /// Who is typing in a room, if that changed after `since`.
    pub fn typing_since(&self, room: RoomNo, since: u64) -> Option<Vec<UserNo>> {
        let inner = self.inner.lock();
        let entry = inner.typing.get(&room).filter(|entry| entry.changed > since)?;
        Some(entry.people.keys().copied().collect())
    }

    /// The rooms in which somebody began or stopped typing after `since`.
    pub fn changed_since(&self, since: u64) -> Vec<RoomNo> {
        self.inner.lock().order.range(since.saturating_add(1)..).map(|(_, room)| *room).collect()
    }

    /// Puts down where somebody is, as a change that others hear of: those on other servers only if it is `told`.
    pub fn set_presence(&self, user: UserNo, presence: Presence, told: bool) {
        let mut inner = self.inner.lock();
        inner.counter += 1;
        let counter = inner.counter;
        inner.presence.put(counter, user, presence);
        drop(inner);
        if told {
            self.remind(user);
        }
    }

    /// Lets other servers hear again where somebody is, although nothing has changed.
    pub fn remind(&self, user: UserNo) {
        // Nobody follows where there is no federation.
        drop(self.outgoing.send(Change::Presence(user)));
    }

    /// Notes that somebody did something, which is no news as long as they are known to be active.
    pub fn acted(&self, user: UserNo, at: u64) {
        if let Some(presence) = self.inner.lock().presence.get_mut(user) {
            presence.active_at = presence.active_at.max(at);
        }
    }

    /// Where somebody is, if that is known.
    pub fn presence(&self, user: UserNo) -> Option<Presence> {
        self.inner.lock().presence.get(user).map(|(_, presence)| presence.clone())
    }

    /// Who came, went or changed after `since`, oldest first.
    pub fn presence_since(&self, since: u64) -> Vec<(UserNo, Presence)> {
        self.inner.lock().presence.since(since).map(|(user, presence)| (user, presence.clone())).collect()
    }

    /// Ends what has lasted too long, and returns the rooms in which somebody stopped typing.
    pub fn expire(&self, now: u64) -> Vec<RoomNo> {
        let mut inner = self.inner.lock();
        let Inner { counter, typing, order, .. } = &mut *inner;
        let mut rooms = Vec::new();
        for (room, entry) in typing {
            let before = entry.people.len();
            entry.people.retain(|user, typist| {
                let types = typist.until > now;
                if !types {
                    let change = TypingChange { room: *room, user: *user, typing: false };
                    drop(self.outgoing.send(Change::Typing(change)));
                }
                types
            });
            if entry.people.len() < before {
                *counter += 1;
                order.remove(&entry.changed);
                entry.changed = *counter;
                order.insert(*counter, *room);
                rooms.push(*room);
            }
        }
        rooms
    }

    /// When the next typing notice ends, in milliseconds since the epoch.
    pub fn next_expiry(&self) -> Option<u64> {
        self.inner.lock().typing.values().flat_map(|entry| entry.people.values().map(|typist| typist.until)).min()
    }
}

impl Typing {
    /// Whether something has changed, and whether other servers are to be told.
    fn note(&mut self, user: UserNo, until: Option<u64>, now: u64) -> (bool, bool) {
        let Some(until) = until else {
            let typed = self.people.remove(&user).is_some();
            return (typed, typed);
        };
        let full = self.people.len() >= MOST_TYPING_USERS;
        match self.people.get_mut(&user) {
            Some(typist) => {
                typist.until = until;
                let told = now >= typist.told + REMINDER;
                if told {
                    typist.told = now;
                }
                (false, told)
            }
            None if full => (false, false),
            None => {
                self.people.insert(user, Typist { until, told: now });
                (true, true)
            }
        }
    }
}

impl Inner {
    fn forget_oldest(&mut self) {
        if self.typing.len() <= MOST_TYPING_ROOMS {
            return;
        }
        if let Some((_, room)) = self.order.pop_first() {
            self.typing.remove(&room);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: RoomNo = RoomNo(1);
    const ANN: UserNo = UserNo(2);

    #[test]
    fn typing_is_news_once() {
        let live = Live::default();
        assert!(live.typing(ROOM, ANN, Some(1_000), 0));
        assert!(!live.typing(ROOM, ANN, Some(2_000), 0));
        assert_eq!(live.typing_since(ROOM, 0), Some(vec![ANN]));
        assert_eq!(live.typing_since(ROOM, live.counter()), None);
    }

    #[test]
    fn typing_ends_by_itself() {
        let live = Live::default();
        live.typing(ROOM, ANN, Some(1_000), 0);
        let seen = live.counter();
        assert_eq!(live.expire(999), []);
        assert_eq!(live.expire(1_000), [ROOM]);
        assert_eq!(live.typing_since(ROOM, seen), Some(vec![]));
        assert_eq!(live.changed_since(seen), [ROOM]);
        assert_eq!(live.changed_since(live.counter()), []);
    }

    #[test]
    fn other_servers_are_reminded_and_told_of_the_end() {
        let live = Live::default();
        let mut outgoing = live.outgoing();
        let mut told = || match outgoing.try_recv() {
            Ok(Change::Typing(change)) => Some(change.typing),
            _ => None,
        };
        live.typing(ROOM, ANN, Some(30_000), 0);
        live.typing(ROOM, ANN, Some(50_000), 20_000);
        assert_eq!((told(), told()), (Some(true), None));
        live.typing(ROOM, ANN, Some(70_000), 40_000);
        assert_eq!((told(), told()), (Some(true), None));
        live.expire(70_000);
        assert_eq!((told(), told()), (Some(false), None));
    }

    #[test]
    fn memory_is_bounded() {
        let live = Live::default();
        for room in 0..3_000 {
            live.typing(RoomNo(room), ANN, Some(1_000), 0);
        }
        let inner = live.inner.lock();
        assert_eq!((inner.typing.len(), inner.order.len()), (MOST_TYPING_ROOMS, MOST_TYPING_ROOMS));
    }
}
