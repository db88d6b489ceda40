//! What changed for this device since it last asked.
//!
//! An answer is made in one look: fix the published position, see which rooms and rows of the user are
//! newer than what the reader has, and write those as JSON text. When there is nothing, [`wait`] sleeps
//! until something concerns the user. [`v3`] writes answers in the shape of `/sync`, [`sliding`] in that of
//! simplified sliding sync, [`v1`] in those from before `/sync`.
//!
//! History (timelines, changes of state) is told exactly once, up to the fixed position. What is a newest
//! value only (receipts, counts, account data) may be newer than that position; then it is told again.
//! Nothing here writes to the store.
//!
//! Spec: client-server-api#syncing

mod account;
mod devices;
mod ephemeral;
pub mod filter;
mod lazy;
mod places;
mod presence;
mod room;
pub mod sliding;
mod state;
mod stripped;
mod summary;
mod timeline;
pub mod v1;
pub mod v3;

use std::{collections::HashSet, sync::Arc, time::Duration};

use ruma::{OwnedDeviceId, OwnedUserId};
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    heavy,
    rooms::{Rooms, token::SyncToken, view::Viewer},
    store::{
        Position, Store,
        schema::{UserNo, devices::DEVICES},
    },
};

/// The longest time that a request waits for news.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many answers from the beginning are made at once; they read much.
const HEAVY: usize = 4;

/// The context of this module.
pub struct Sync {
    /// The rooms that are read.
    pub rooms: Arc<Rooms>,
    /// Cancelled when the server stops: then nobody waits for news any more.
    stop: CancellationToken,
    sent: lazy::Sent,
    heavy: Semaphore,
    sliding: sliding::Memory,
}

/// Who asks.
#[derive(Debug, Clone)]
pub struct Reader {
    /// The user.
    pub user: OwnedUserId,
    /// The same as a number.
    pub number: UserNo,
    /// The device.
    pub device: OwnedDeviceId,
}

/// What a look found.
enum Found {
    /// Something to tell.
    Told(String),
    /// Nothing new up to this moment, and how to say so.
    Nothing(String, SyncToken),
    /// Rows that are newer than what is published; look again when this is.
    Behind(Position),
}

impl Sync {
    /// Syncs over the room core, until `stop`.
    pub fn new(rooms: Arc<Rooms>, stop: CancellationToken) -> Self {
        Self {
            rooms,
            stop,
            sent: lazy::Sent::default(),
            heavy: Semaphore::new(HEAVY),
            sliding: sliding::Memory::default(),
        }
    }
}

/// Looks until there is something to tell, or the time is over.
///
/// `look` is asked for what is new since a token; when it found nothing, it is asked again from there on.
/// A look that is `heavy` is made on a thread where it may take its time.
async fn wait(
    sync: &Sync,
    reader: &Reader,
    mut since: Option<SyncToken>,
    timeout: Duration,
    mut heavy: bool,
    look: impl Fn(Option<SyncToken>) -> Result<Found> + Clone + Send + 'static,
) -> Result<String> {
    let store = &sync.rooms.store;
    let deadline = Instant::now() + timeout.min(LONGEST_WAIT);
    loop {
        let news = store.wakers().listen(reader.number);
        let found = match heavy {
            true => {
                let _permit = sync.heavy.acquire().await.map_err(Error::internal)?;
                let look = look.clone();
                heavy::run(move || look(since)).await??
            }
            false => look(since)?,
        };
        match found {
            Found::Told(text) => return Ok(text),
            Found::Behind(position) => published(store, position).await?,
            Found::Nothing(text, _) if timeout.is_zero() => return Ok(text),
            Found::Nothing(text, now) => {
                let place = (reader.number, reader.device.to_string());
                let logged_in = store.contains(DEVICES, &place)?;
                tokio::select! {
                    biased;
                    () = sync.stop.cancelled() => return Ok(text),
                    () = sleep_until(deadline) => return Ok(text),
                    () = news => {}
                }
                if logged_in && !store.contains(DEVICES, &place)? {
                    return Err(Error::unknown_token(false));
                }
                since = Some(now);
                heavy = false;
            }
        }
    }
}

/// Whether there may be anything to tell to who has been told up to `since`.
fn is_news(store: &Store, reader: &Reader, since: Option<SyncToken>) -> bool {
    let Some(since) = since else { return true };
    let live = since.boot != store.boot() || since.live != store.live().counter();
    live || store.wakers().newest(reader.number) > since.position || since.inbox < since.position
}

/// Waits until a position is published.
async fn published(store: &Store, position: Position) -> Result<()> {
    store.watch().wait_for(|published| *published >= position).await.map_err(Error::internal)?;
    Ok(())
}

/// One look through the eyes of one reader.
struct Look<'a> {
    sync: &'a Sync,
    rooms: &'a Rooms,
    reader: &'a Reader,
    viewer: Viewer<'a>,
    /// This moment: history is told up to here.
    now: SyncToken,
    /// Whom the reader does not want to hear.
    ignored: HashSet<OwnedUserId>,
}

impl<'a> Look<'a> {
    fn new(sync: &'a Sync, reader: &'a Reader, now: SyncToken) -> Result<Self> {
        let rooms = &*sync.rooms;
        let viewer = Viewer::new(rooms, &reader.user, Some(&reader.device))?;
        let ignored = account::ignored(rooms, reader.number)?;
        Ok(Self { sync, rooms, reader, viewer, now, ignored })
    }

    fn store(&self) -> &'a Store {
        &self.rooms.store
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
