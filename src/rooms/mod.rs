//! What happens in rooms: the only writer of events.
//!
//! Whoever wants to change a room takes [`Rooms::decide`]: the room is locked, its newest state is in
//! the hand, and every event that is added joins one [`crate::store::Write`]. Readers use
//! [`Rooms::known`], [`Rooms::state`] and [`Rooms::current`], which show what is published.
//!
//! Nothing here waits for the network under a room's lock, and nobody is called about an event:
//! `/sync`, push, bridges and federation sending follow the log.

pub mod access;
pub mod admit;
pub mod aliases;
pub mod append;
pub mod arriving;
pub mod backfill;
pub mod cache;
pub mod completing;
pub mod create;
pub mod delayed;
pub mod directory;
pub mod doors;
pub mod early;
pub mod ephemeral;
pub mod filter;
pub mod forks;
pub mod guests;
mod handshake;
pub mod history;
pub mod inbox;
pub mod intake;
pub mod inviting;
pub mod joining;
mod knocking;
pub mod late;
pub mod leaving;
pub mod membership;
pub mod notices;
pub mod onlooker;
pub mod outside;
pub mod partial;
pub mod people;
pub mod policy;
pub mod presence;
pub mod profile;
pub mod projections;
pub mod read;
pub mod receipts;
mod redaction;
pub mod relations;
pub mod reports;
pub mod resident;
pub mod restricted;
pub mod retention;
pub mod search;
pub mod send;
pub mod spaces;
pub mod staged;
pub mod state;
pub mod summary;
pub mod third_party;
pub mod token;
pub mod unread;
pub mod upgrade;
pub mod view;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use imbl::OrdSet;
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, UserId, events::room::member::MembershipState};

use self::{
    append::Deciding,
    cache::{Cache, Known},
    state::State,
};
use crate::{
    clock::Clock,
    config::{Config, memory},
    error::{Error, Result},
    protocol::{
        event::Event,
        sign::KeyPair,
        version::{self, Rules},
    },
    remote::Remote,
    store::{
        Rows, Store,
        schema::{
            EventNo, RoomNo, StateKeyNo, StateNo, UserNo,
            events::{self, EventRow, HeadRow},
            numbers,
            rooms::{self, LOCAL_MEMBERS},
        },
    },
    users::Users,
};

/// How many rooms stay open in memory when nobody is using them.
const IDLE_ROOMS: usize = 1_000;

/// Everything that the room core works with.
pub struct Rooms {
    /// Where events and rows are kept.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// The configuration.
    pub config: Arc<Config>,
    /// The accounts of this server.
    pub users: Users,
    /// Other servers.
    pub remote: Arc<Remote>,
    /// The key that signs this server's events.
    pub key: Arc<KeyPair>,
    cache: Cache,
    open: Mutex<HashMap<RoomNo, Arc<Room>>>,
    /// Held while aliases change, and while a room begins.
    aliases: Mutex<()>,
    /// Held while receipts change.
    receipts: Mutex<()>,
    /// What other servers have shown of rooms that this server is not in.
    heard: outside::Heard,
    /// What no other server had of a room's past.
    in_vain: backfill::InVain,
    /// Events that wait to be sent.
    pub delayed: delayed::Delayed,
    /// What the people of this server have not read.
    pub unread: unread::Unread,
    /// Who is there.
    presence: presence::Tracker,
    /// Events of other servers that wait to be taken in.
    pub inbox: inbox::Inbox,
    /// Rooms whose members are on their way.
    pub partial: partial::Partials,
    /// Rooms that are being entered, whose events wait.
    pub early: early::Early,
    /// Rooms that are being entered with the help of another server: one at a time goes through a door.
    entering: Mutex<HashMap<OwnedRoomId, Arc<tokio::sync::Mutex<()>>>>,
}

/// A room that is in memory. There is never more than one of these per room.
pub struct Room {
    /// Its number.
    pub number: RoomNo,
    /// Its ID.
    pub id: OwnedRoomId,
    /// Its version.
    pub version: RoomVersionId,
    /// The rules of that version.
    pub rules: &'static Rules,
    head: Mutex<Head>,
    /// Held while an event from another server is taken in; it may be awaited under.
    intake: tokio::sync::Mutex<()>,
    /// Held while the past is fetched from another server, likewise.
    filling: tokio::sync::Mutex<()>,
    /// Whether most members are still on their way. Changes only with the head locked.
    partial: AtomicBool,
    /// Events that the room's policy server has signed, for those who are about to send them.
    approved: Mutex<Vec<Arc<Event>>>,
    /// How much stands in the search index and not yet in a block.
    search_tail: projections::search::Tail,
}

/// Where a room ends: what the next event builds on. It may be ahead of what is published.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// The forward extremities.
    pub extremities: Vec<(EventNo, OwnedEventId)>,
    /// The greatest depth among them.
    pub depth: u64,
    /// The depth at which this server has come into the room.
    pub floor: u64,
    /// The current state.
    pub state: State,
    /// The joined users of this server.
    pub locals: OrdSet<UserNo>,
    /// How many users are joined, and how many are invited.
    pub members: (u64, u64),
}

impl Room {
    fn new(number: RoomNo, id: OwnedRoomId, rules: &'static Rules, head: Head) -> Self {
        let (intake, filling, approved, search_tail, partial) = Default::default();
        let (version, head) = (rules.id(), Mutex::new(head));
        Self { number, id, version, rules, head, intake, filling, approved, partial, search_tail }
    }

    /// Whether this server has joined the room and most of its members are still on their way.
    pub fn is_partial(&self) -> bool {
        self.partial.load(Ordering::Acquire)
    }

    fn set_partial(&self, partial: bool) {
        self.partial.store(partial, Ordering::Release);
    }
}

impl Rooms {
    /// The room core over the store that `remote` has. `cache` is its share of the memory budget, in bytes.
    pub fn new(users: Users, remote: Arc<Remote>, cache: u64) -> Self {
        let heard = memory::share(&remote.config, memory::Share::Remote) / 4;
        Self {
            store: remote.store.clone(),
            clock: remote.clock.clone(),
            config: Arc::clone(&remote.config),
            key: Arc::clone(&remote.key),
            users,
            remote,
            cache: Cache::new(cache / 16 * 15),
            open: Mutex::default(),
            aliases: Mutex::default(),
            receipts: Mutex::default(),
            heard: outside::Heard::new(heard),
            in_vain: backfill::InVain::default(),
            delayed: delayed::Delayed::default(),
            unread: unread::Unread::new(cache / 16),
            presence: presence::Tracker::default(),
            inbox: inbox::Inbox::default(),
            partial: partial::Partials::default(),
            early: early::Early::default(),
            entering: Mutex::default(),
        }
    }

    /// Whether a user has an account on this server.
    pub fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.config.server_name
    }

    /// A room that this server knows; 404 `M_NOT_FOUND` otherwise.
    pub fn find(&self, id: &RoomId) -> Result<Arc<Room>> {
        let number = numbers::find_room(&self.store, id)?;
        match number.map(|number| self.open(number)).transpose()?.flatten() {
            Some(room) if self.store.contains(events::HEADS, &room.number)? => Ok(room),
            _ => Err(Error::not_found("this server does not know the room")),
        }
    }

    /// The room with this number, if its create event is known.
    pub fn open(&self, number: RoomNo) -> Result<Option<Arc<Room>>> {
        let mut open = self.open.lock();
        if let Some(room) = open.get(&number) {
            return Ok(Some(Arc::clone(room)));
        }
        let Some(row) = rooms::find(&self.store, number)? else { return Ok(None) };
        let Some(rules) = version::rules(&row.version) else {
            return Err(Error::internal(format!("room {} has the unknown version {}", row.id, row.version)));
        };
        if open.len() >= IDLE_ROOMS {
            open.retain(|_, room| Arc::strong_count(room) > 1);
        }
        let room = Arc::new(Room::new(number, row.id, rules, self.load_head(number)?));
        room.set_partial(self.store.write().get(rooms::PARTIAL_ROOMS, &number)?.is_some());
        open.insert(number, Arc::clone(&room));
        Ok(Some(room))
    }

    /// The end of a room as the newest committed `Write` left it.
    fn load_head(&self, room: RoomNo) -> Result<Head> {
        let queued = self.store.write();
        let row = queued.get(events::HEADS, &room)?.unwrap_or_default();
        let extremities = row
            .extremities
            .iter()
            .map(|&number| Ok((number, self.known_in(&queued, number)?.event.event_id.clone())))
            .collect::<Result<_>>()?;
        let locals = queued.scan(LOCAL_MEMBERS, &(room,))?.into_iter().map(|((_, user), ())| user).collect();
        let state = self.state_in(&queued, row.state)?;
        Ok(Head { extremities, depth: row.depth, floor: row.floor, state, locals, members: row.members })
    }

    /// Locks a room in order to add events to it.
    pub fn decide<'a>(&'a self, room: &'a Room) -> Deciding<'a> {
        Deciding::new(self, room, room.head.lock())
    }

    /// A room that nobody knows yet. Its number becomes known with its first events.
    fn begin_new(&self, id: OwnedRoomId, rules: &'static Rules) -> Arc<Room> {
        let number = RoomNo(self.store.write().number());
        let room = Arc::new(Room::new(number, id, rules, Head::default()));
        self.open.lock().insert(number, Arc::clone(&room));
        room
    }

    /// A room that is about to get its first events, or to be entered anew.
    fn begin(&self, id: OwnedRoomId, rules: &'static Rules) -> Result<Arc<Room>> {
        let mut write = self.store.write();
        let number = numbers::room(&mut write, &id)?;
        drop(write.commit()?);
        if let Some(room) = self.open(number)? {
            if room.rules.version == rules.version {
                return Ok(room);
            }
            // Whoever has invited somebody may have named another version.
            if self.store.contains(events::HEADS, &number)? {
                return Err(Error::bad_json("the room has another version than this server knows"));
            }
        }
        let room = Arc::new(Room::new(number, id, rules, Head::default()));
        self.open.lock().insert(number, Arc::clone(&room));
        Ok(room)
    }

    /// Waits for a turn to enter a room.
    async fn entering(&self, room: &RoomId) -> tokio::sync::OwnedMutexGuard<()> {
        let turn = {
            let mut entering = self.entering.lock();
            entering.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(entering.entry(room.to_owned()).or_default())
        };
        turn.lock_owned().await
    }

    /// An event with what the store knows of it.
    pub fn known(&self, number: EventNo) -> Result<Arc<Known>> {
        self.known_in(&self.store, number)
    }

    /// An event by its ID, if this server has it.
    pub fn by_id(&self, id: &EventId) -> Result<Option<Arc<Known>>> {
        let Some(number) = numbers::find_event(&self.store, id)? else { return Ok(None) };
        match self.store.contains(events::EVENTS, &number)? {
            true => self.known(number).map(Some),
            false => Ok(None),
        }
    }

    fn known_in(&self, rows: &impl Rows, number: EventNo) -> Result<Arc<Known>> {
        if let Some(known) = self.cache.event(number) {
            return Ok(known);
        }
        let commits = self.cache.commits();
        // Something newer may be on its way, and the memory of it gone already.
        let is_old = self.store.is_queued(events::EVENTS, &number);
        let row: EventRow =
            rows.row(events::EVENTS, &number)?.ok_or_else(|| Error::internal(format!("event {number} is missing")))?;
        let room = rooms::find(rows, row.room)?
            .ok_or_else(|| Error::internal(format!("room {} of event {number} is missing", row.room)))?;
        let event = Event::from_stored(row.id, room.id, row.json.into_boxed_str()).map_err(Error::internal)?;
        let known = Arc::new(Known {
            number,
            room: row.room,
            event: Arc::new(event),
            standing: row.standing,
            before: row.before,
            replaces: row.replaces,
            redacted_by: row.redacted_by,
        });
        if !is_old {
            self.cache.keep_read(Arc::clone(&known), commits);
        }
        Ok(known)
    }

    /// The state behind a number.
    pub fn state(&self, number: StateNo) -> Result<State> {
        self.state_in(&self.store, number)
    }

    fn state_in(&self, rows: &impl Rows, number: StateNo) -> Result<State> {
        if let Some(state) = self.cache.state(number) {
            return Ok(state);
        }
        let state = State::load(rows, number, |number| self.cache.state(number))?;
        self.cache.keep_state(&state, state.len());
        Ok(state)
    }

    /// The published end of a room: extremities, depth, state and counts.
    pub fn published(&self, room: RoomNo) -> Result<HeadRow> {
        Ok(self.store.get(events::HEADS, &room)?.unwrap_or_default())
    }

    /// The published current state of a room.
    pub fn current(&self, room: RoomNo) -> Result<State> {
        self.state(self.published(room)?.state)
    }

    /// The state after an event: the one before it, and what the event itself changes.
    pub fn state_after(&self, known: &Known) -> Result<Option<State>> {
        let Some(before) = known.before else { return Ok(None) };
        let before = self.state(before)?;
        let Some((kind, state_key)) = known.event.key().filter(|_| known.standing != events::Standing::Rejected) else {
            return Ok(Some(before));
        };
        Ok(self.state_key(kind, state_key)?.map(|key| before.with(key, known.number)))
    }

    /// The number of a state key, if it ever occurred.
    pub fn state_key(&self, kind: &str, state_key: &str) -> Result<Option<StateKeyNo>> {
        self.state_key_in(&self.store, kind, state_key)
    }

    fn state_key_in(&self, rows: &impl Rows, kind: &str, state_key: &str) -> Result<Option<StateKeyNo>> {
        if let Some(number) = self.cache.state_key(kind, state_key) {
            return Ok(Some(number));
        }
        let number = rows.row(numbers::STATE_KEY_NUMBERS, &(kind.to_owned(), state_key.to_owned()))?;
        if let Some(number) = number {
            self.cache.keep_state_key(kind, state_key, number);
        }
        Ok(number)
    }

    /// The event that stands for a state key in a state.
    pub fn in_state(&self, state: &State, kind: &str, state_key: &str) -> Result<Option<Arc<Known>>> {
        let Some(key) = self.state_key(kind, state_key)? else { return Ok(None) };
        state.get(key).map(|number| self.known(number)).transpose()
    }

    /// Somebody's published membership in a room; `leave` for those who never were in it.
    pub fn membership(&self, room: RoomNo, user: &UserId) -> Result<MembershipState> {
        let Some(user) = numbers::find_user(&self.store, user)? else { return Ok(MembershipState::Leave) };
        Ok(rooms::member(&self.store, room, user)?.map_or(MembershipState::Leave, |row| row.membership))
    }

    /// The room, if the user is joined to it; 403 `M_FORBIDDEN` otherwise.
    pub fn joined(&self, id: &RoomId, user: &UserId) -> Result<Arc<Room>> {
        let forbidden = || Error::forbidden("you are not in this room");
        let Some(room) = numbers::find_room(&self.store, id)?.map(|number| self.open(number)).transpose()?.flatten()
        else {
            return Err(forbidden());
        };
        match self.membership(room.number, user)? {
            MembershipState::Join => Ok(room),
            _ => Err(forbidden()),
        }
    }
}

#[cfg(test)]
mod tests;
