//! Follows what people are notified of, and tells their gateways: one task per pusher that has something to tell.
//!
//! How far a pusher has got is a row, so that a restart goes on where it stopped. What was read meanwhile is not
//! told any more; of what a gateway did not take for long, only the newest is. A gateway that does not answer costs
//! one timer.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::notice::{self, Counts, To};
use crate::{
    error::{Error, Result},
    remote::transport::WebRequest,
    rooms::{
        Rooms,
        unread::{self, News, Read},
    },
    store::{
        Position,
        schema::{
            RoomNo, UserNo,
            push::{NOTIFIED, PUSHED, PUSHERS, PushedRow, PusherRow},
            rooms::with_rows,
        },
    },
    users::pushers::{self, Key},
};

/// How many gateways are talked to at once.
const AT_ONCE: usize = 8;
/// How many notifications wait for a gateway; the oldest beyond that are not told.
const MOST_WAITING: usize = 20;
/// How long a notification is worth telling, in milliseconds.
const WORTH: u64 = 24 * 3_600_000;
/// How long a gateway may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long its answer may be, in bytes.
const LONGEST_ANSWER: usize = 64 << 10;
/// The first and the longest pause after a gateway did not take what it was told, in milliseconds.
const FIRST_PAUSE: u64 = 1_000;
const LONGEST_PAUSE: u64 = 3_600_000;
/// How long a pause is slept through at most before the clock is looked at again.
const NAP: Duration = Duration::from_secs(5);
/// How long notifications are kept that were read, in milliseconds, and after how many positions of the log the others
/// are removed.
const KEPT: u64 = 90 * 24 * 3_600_000;
const TIDY_AFTER: u64 = 2_000;
/// How many are removed in one go.
const STEP: usize = 1_000;

/// The sending side of push.
struct Push {
    rooms: Arc<Rooms>,
    workers: Mutex<HashMap<(UserNo, Key), Arc<Worker>>>,
    gateways: Semaphore,
}

/// Whoever tells one gateway of one user.
#[derive(Default)]
struct Worker {
    /// Whether a task is at work, and whether there may be more for it.
    state: Mutex<(bool, bool)>,
    wake: Notify,
}

/// How far a worker has got.
#[derive(Default)]
struct Progress {
    /// Everything up to here was told, or was read before it could be.
    at: Position,
    /// How often in a row the gateway did not take what it was told.
    failures: u32,
    /// When it was last asked, in milliseconds since the epoch.
    asked: u64,
}

/// What a worker does next.
enum Next {
    /// Nothing: everything is told.
    Rest,
    /// Nothing for ever: the pusher is gone.
    End,
    /// The same again, later.
    Again,
}

/// Follows the log until the task is dropped.
pub async fn run(rooms: Arc<Rooms>) -> Result<()> {
    let push = Arc::new(Push { rooms, workers: Mutex::default(), gateways: Semaphore::new(AT_ONCE) });
    let store = &push.rooms.store;
    let mut log = store.watch();
    let (mut looked_at, mut version, mut tidied) = (HashMap::<UserNo, Position>::new(), None, Position(0));
    loop {
        let published = *log.borrow_and_update();
        let newest_version = push.rooms.users.pushers_version();
        if version != Some(newest_version) {
            for row in store.scan(PUSHERS, &()) {
                looked_at.entry(row?.0.0).or_default();
            }
            version = Some(newest_version);
        }
        let mut idle = Vec::new();
        for (user, before) in &mut looked_at {
            // In memory: whether anything at all was written for the user.
            let newest = store.wakers().newest(*user);
            if newest <= *before {
                continue;
            }
            // It is known a moment before it can be read.
            *before = newest.min(published);
            let pushers = pushers::of_user(store, *user)?;
            if pushers.is_empty() {
                idle.push(*user);
            }
            for (key, _) in pushers {
                push.work(*user, key);
            }
        }
        looked_at.retain(|user, _| !idle.contains(user));
        if published.0 - tidied.0 >= TIDY_AFTER {
            tidied = published;
            let rooms = Arc::clone(&push.rooms);
            tokio::task::spawn_blocking(move || tidy(&rooms)).await.map_err(Error::internal)??;
        }
        if log.changed().await.is_err() {
            return Ok(());
        }
    }
}

impl Push {
    /// Makes sure that somebody works for a pusher.
    fn work(self: &Arc<Self>, user: UserNo, key: Key) {
        let worker = Arc::clone(self.workers.lock().entry((user, key.clone())).or_default());
        let mut state = worker.state.lock();
        if state.0 {
            state.1 = true;
            worker.wake.notify_one();
            return;
        }
        *state = (true, false);
        drop(state);
        let push = Arc::clone(self);
        tokio::spawn(async move { push.serve(user, &key, &worker).await });
    }

    /// Tells a gateway until there is nothing more to tell.
    async fn serve(&self, user: UserNo, key: &Key, worker: &Worker) {
        let mut progress = Progress::default();
        loop {
            progress.asked = self.rooms.clock.now();
            let next = self.step(user, key, &mut progress).await.unwrap_or_else(|error| {
                tracing::warn!(app = key.app_id, ?error, "a push notification cannot be made");
                Next::Again
            });
            match next {
                Next::Again => {
                    progress.failures = progress.failures.saturating_add(1);
                    self.pause(worker, &progress).await;
                }
                Next::End => {
                    self.workers.lock().remove(&(user, key.clone()));
                    return;
                }
                Next::Rest => {
                    let mut state = worker.state.lock();
                    if !std::mem::take(&mut state.1) {
                        state.0 = false;
                        return;
                    }
                }
            }
        }
    }

    /// Tells what there is, as far as the gateway takes it.
    async fn step(&self, user: UserNo, key: &Key, progress: &mut Progress) -> Result<Next> {
        let store = &self.rooms.store;
        let place = (user, key.app_id.clone(), key.pushkey.clone());
        let published = store.position();
        let Some(pusher) = store.get(PUSHERS, &place)? else { return Ok(Next::End) };
        let mut pushed = store.get(PUSHED, &place)?.unwrap_or_default();
        let to = To { user, key, pusher: &pusher };
        progress.at = progress.at.max(pushed.at);
        for news in self.due(user, progress.at, published)? {
            let is_read = Read::of(store, user, news.room)?.covers(news.row.thread, news.at);
            let counts = if is_read { Counts::default() } else { Counts::of(&self.rooms, user)? };
            if !is_read && let Some(notice) = notice::event(&self.rooms, &to, &news, counts)? {
                match self.tell(&to, notice).await? {
                    Some(true) => pushed = self.told(&to, news.at, counts)?,
                    Some(false) => return Ok(Next::End),
                    None => return Ok(Next::Again),
                }
                (progress.failures, progress.asked) = (0, self.rooms.clock.now());
            }
            progress.at = news.at;
        }
        let counts = Counts::of(&self.rooms, user)?;
        if counts.unread < pushed.unread || counts.missed_calls < pushed.missed_calls {
            match self.tell(&to, notice::badge(&to, counts)).await? {
                Some(true) => drop(self.told(&to, published, counts)?),
                Some(false) => return Ok(Next::End),
                None => return Ok(Next::Again),
            }
        }
        progress.failures = 0;
        progress.at = progress.at.max(published);
        Ok(Next::Rest)
    }

    /// What is worth telling after a position: the newest, oldest first.
    fn due(&self, user: UserNo, after: Position, until: Position) -> Result<Vec<News>> {
        let oldest = self.rooms.clock.now().saturating_sub(WORTH);
        let news = unread::told(&self.rooms.store, user, (after, until), unread::is_open)?;
        let news = news.take(MOST_WAITING).take_while(|news| news.as_ref().map_or(true, |news| news.row.ts >= oldest));
        let mut due = news.collect::<Result<Vec<_>, _>>()?;
        due.reverse();
        Ok(due)
    }

    /// Notes what a gateway was told.
    fn told(&self, to: &To<'_>, at: Position, counts: Counts) -> Result<PushedRow> {
        let pushed = PushedRow { at, unread: counts.unread, missed_calls: counts.missed_calls };
        pushers::advance(&self.rooms.users, to.user, to.key, &pushed)?;
        Ok(pushed)
    }

    /// Tells a gateway something. Nothing if it did not take it; and whether it still knows the push key.
    async fn tell(&self, to: &To<'_>, notice: String) -> Result<Option<bool>> {
        let PusherRow { url, .. } = to.pusher;
        let uri = url.parse().map_err(Error::internal)?;
        let _permit = self.gateways.acquire().await.map_err(Error::internal)?;
        let request = WebRequest::post_json(uri, notice, PATIENCE, LONGEST_ANSWER);
        let answer = match self.rooms.remote.web(request).await {
            Ok(answer) if answer.status.is_success() => answer,
            Ok(answer) => {
                tracing::info!(%url, "the push gateway {url} answers {}; it is told again later", answer.status);
                return Ok(None);
            }
            Err(failure) => {
                tracing::info!(%url, "the push gateway {url} does not answer ({failure}); it is told again later");
                return Ok(None);
            }
        };
        if rejects(&answer.body, &to.key.pushkey) {
            tracing::info!(%url, app = to.key.app_id, "the push gateway {url} has given up a device; so does this server");
            pushers::remove(&self.rooms.users, to.user, to.key).await?;
            return Ok(Some(false));
        }
        Ok(Some(true))
    }

    /// Waits until a gateway is worth another try.
    async fn pause(&self, worker: &Worker, progress: &Progress) {
        let clock = &self.rooms.clock;
        let jitter = u64::from_le_bytes(self.rooms.remote.chance.bytes());
        let until = progress.asked + pause(progress.failures, jitter);
        while clock.now() < until {
            let nap = Duration::from_millis(until - clock.now().min(until)).min(NAP);
            // Both ends lead to the same: another look at the clock.
            drop(tokio::time::timeout(nap, worker.wake.notified()).await);
        }
    }
}

/// The pause after this many failures in a row, in milliseconds: doubled each time, give or take a tenth.
fn pause(failures: u32, jitter: u64) -> u64 {
    let pause = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST_PAUSE);
    pause - pause / 10 + jitter % (pause / 5)
}

/// Whether a gateway says that it does not know a push key (any more).
fn rejects(answer: &[u8], pushkey: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Answer {
        #[serde(default)]
        rejected: Vec<String>,
    }
    let answer = serde_json::from_slice::<Answer>(answer);
    answer.is_ok_and(|answer| answer.rejected.iter().any(|rejected| rejected == pushkey))
}

/// Removes what was long ago and is read by all who were told of it.
pub fn tidy(rooms: &Rooms) -> Result<()> {
    let oldest = rooms.clock.now().saturating_sub(KEPT);
    with_rows(&rooms.store, NOTIFIED).try_for_each(|room| tidy_room(rooms, room?, oldest))
}

fn tidy_room(rooms: &Rooms, room: RoomNo, oldest: u64) -> Result<()> {
    let (mut done, mut read) = (Vec::new(), HashMap::new());
    for row in rooms.store.scan(NOTIFIED, &(room,)) {
        let (key, row) = row?;
        if row.ts >= oldest {
            break;
        }
        let mut is_read = true;
        for user in row.told.iter().flat_map(|told| &told.users) {
            let read = match read.entry(*user) {
                Entry::Occupied(entry) => entry.into_mut(),
                Entry::Vacant(entry) => entry.insert(Read::of(&rooms.store, *user, room)?),
            };
            is_read &= read.covers(row.thread, key.1);
        }
        if is_read {
            done.push(key);
        }
    }
    for keys in done.chunks(STEP) {
        let mut write = rooms.store.write();
        keys.iter().for_each(|key| write.delete(NOTIFIED, key));
        drop(write.commit()?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert!((900..=1_100).contains(&pause(1, 77)));
        assert!((1_800..=2_200).contains(&pause(2, 77)));
        assert!(pause(1_000, u64::MAX) <= LONGEST_PAUSE + LONGEST_PAUSE / 10);
    }

    #[test]
    fn only_a_list_with_the_key_is_a_refusal() {
        assert!(rejects(br#"{"rejected":["a","b"]}"#, "b"));
        assert!(!rejects(br#"{"rejected":["a"]}"#, "b"));
        assert!(!rejects(b"{}", "b"));
        assert!(!rejects(b"fine", "b"));
    }
}
