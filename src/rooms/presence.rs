//! Who is there: what the devices of local users claim becomes one picture of each of them, which those see who
//! share a room with them.
//!
//! Nothing of it is kept on the disk. Whoever changes something here wakes those who see it; what passes with time
//! is found by [`expire`], which costs nothing as long as nothing is due.
//!
//! Spec: client-server-api#presence, server-server-api#presence

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId, events::room::member::MembershipState};
use serde_json::{Value, json};

use super::{Rooms, access, ephemeral};
use crate::{
    error::{Error, Result},
    protocol::presence::{Device, State, merge},
    store::{
        live::Presence,
        schema::{
            UserNo, numbers,
            rooms::{USER_ROOMS, UserRoomRow},
        },
    },
};

/// How many bytes people may say of where they are.
const LONGEST_STATUS: usize = 1_024;
/// Of how many devices of one user presence is kept.
const MOST_DEVICES: usize = 100;
/// Of how many users of other servers it is remembered when they were last heard of.
const MOST_ELSEWHERE: usize = 10_000;
/// How many words of other servers wait for a join that is still going on here.
const MOST_EARLY: usize = 200;
/// How long they wait, in milliseconds.
const EARLY: u64 = 60_000;
/// How long the word of another server holds, in milliseconds.
const WORD_HOLDS: u64 = 30 * 60_000;
/// How often other servers are told that somebody is still there.
const REMINDER: u64 = 25 * 60_000;

/// What is known of the devices of local users, and when users of other servers were last heard of.
#[derive(Default)]
pub struct Tracker {
    inner: Mutex<Inner>,
    /// When something may be due, in milliseconds since the epoch.
    next: AtomicU64,
}

#[derive(Default)]
struct Inner {
    here: HashMap<UserNo, Person>,
    elsewhere: HashMap<UserNo, u64>,
    /// What was said, and when, of users whom nobody here sees yet: other servers learn of a join before the one
    /// that joins has taken in the room.
    early: VecDeque<(u64, OwnedUserId, Presence)>,
}

#[derive(Default)]
struct Person {
    devices: HashMap<OwnedDeviceId, Device>,
    active: u64,
    status: Option<String>,
    /// When others were last told.
    told: u64,
}

/// A request that waits for news; its device is there as long as this is held.
pub struct Waiting {
    rooms: Arc<Rooms>,
    user: UserNo,
    device: OwnedDeviceId,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let now = self.rooms.clock.now();
        let mut inner = self.rooms.presence.inner.lock();
        if let Some(device) = inner.here.get_mut(&self.user).and_then(|person| person.devices.get_mut(&self.device)) {
            device.waiting = device.waiting.saturating_sub(1);
            device.contact = now;
        }
        drop(inner);
        self.rooms.presence.look_at(now + crate::protocol::presence::GONE);
    }
}

impl Tracker {
    /// Something may be due then.
    fn look_at(&self, when: u64) {
        self.next.fetch_min(when, Ordering::AcqRel);
    }
}

/// Whether other servers hear of presence, and are heard.
pub fn over_federation(rooms: &Rooms) -> bool {
    rooms.config.presence.enabled && rooms.config.presence.over_federation && rooms.config.federation.enabled
}

/// A device asks for news. Without a `claim` of its own it is taken to be online, unless it was set to something
/// else that is not offline; one that claims to be offline leaves no trace.
///
/// Spec: client-server-api#get_matrixclientv3sync (`set_presence`)
pub fn asks(rooms: &Arc<Rooms>, user: UserNo, device: &DeviceId, claim: Option<State>) -> Result<Option<Waiting>> {
    if !rooms.config.presence.enabled || claim == Some(State::Offline) {
        return Ok(None);
    }
    let waiting = Waiting { rooms: Arc::clone(rooms), user, device: device.to_owned() };
    change(rooms, user, |person, now| {
        let known = person.device(device, now);
        let was = if known.is_there(now) { known.claim } else { State::Offline };
        known.claim = claim.unwrap_or(if was == State::Offline { State::Online } else { was });
        (known.contact, known.waiting) = (now, known.waiting + 1);
        if known.claim == State::Online && was != State::Online {
            person.active = now;
        }
    })?;
    Ok(Some(waiting))
}

/// Somebody says where they are, and maybe more of it in words.
///
/// Errors: 400 `M_INVALID_PARAM` for too many words.
pub fn set(rooms: &Rooms, user: UserNo, device: &DeviceId, state: State, status: Option<String>) -> Result<()> {
    if status.as_ref().is_some_and(|status| status.len() > LONGEST_STATUS) {
        return Err(Error::invalid_param(format!("status_msg may have at most {LONGEST_STATUS} bytes")));
    }
    if !rooms.config.presence.enabled {
        return Ok(());
    }
    change(rooms, user, |person, now| {
        let known = person.device(device, now);
        (known.claim, known.contact) = (state, now);
        person.active = now;
        person.status = status.filter(|status| !status.is_empty());
    })
}

/// Somebody does something on a device. Of one that is not there, or hides, nobody hears.
pub fn acts(rooms: &Rooms, user: UserNo, device: &DeviceId) -> Result<()> {
    if !rooms.config.presence.enabled {
        return Ok(());
    }
    change(rooms, user, |person, now| {
        if let Some(known) = person.devices.get_mut(device)
            && known.is_there(now)
            && known.claim != State::Offline
        {
            (known.claim, known.contact) = (State::Online, now);
            person.active = now;
        }
    })
}

impl Person {
    fn device(&mut self, device: &DeviceId, now: u64) -> &mut Device {
        if self.devices.len() >= MOST_DEVICES {
            self.devices.retain(|_, device| device.is_there(now));
        }
        self.devices.entry(device.to_owned()).or_default()
    }
}

/// Changes something about a local user, and lets others know if they see a difference.
fn change(rooms: &Rooms, user: UserNo, change: impl FnOnce(&mut Person, u64)) -> Result<()> {
    expire(rooms)?;
    let now = rooms.clock.now();
    let mut inner = rooms.presence.inner.lock();
    let person = inner.here.entry(user).or_default();
    change(person, now);
    let news = show(rooms, user, person, now);
    drop(inner);
    if news { wake(rooms, user) } else { Ok(()) }
}

/// Puts down what others see of a user, and says whether that is news.
fn show(rooms: &Rooms, user: UserNo, person: &mut Person, now: u64) -> bool {
    let live = rooms.store.live();
    let merged = merge(person.devices.values(), person.active, now);
    let before = live.presence(user).unwrap_or_default();
    let (state, is_active, status) = (merged.state, merged.active, person.status.clone());
    let news = (before.state, before.is_active, &before.status) != (state, is_active, &status);
    if news {
        // Other servers need not hear each time that somebody pauses: they would be many requests.
        let told = (before.state, &before.status) != (state, &status);
        live.set_presence(user, Presence { state, active_at: person.active, is_active, status }, told);
        if told {
            person.told = now;
        }
    } else if state != State::Offline && now >= person.told + REMINDER {
        live.remind(user);
        person.told = now;
    } else {
        live.acted(user, person.active);
    }
    let reminder = (state != State::Offline).then_some(person.told + REMINDER);
    if let Some(next) = merged.until.into_iter().chain(reminder).min() {
        rooms.presence.look_at(next);
    }
    news
}

/// Finds what has changed because time has passed.
pub fn expire(rooms: &Rooms) -> Result<()> {
    let (now, tracker) = (rooms.clock.now(), &rooms.presence);
    if now < tracker.next.load(Ordering::Acquire) {
        return Ok(());
    }
    let mut changed = Vec::new();
    let mut inner = tracker.inner.lock();
    tracker.next.store(u64::MAX, Ordering::Release);
    let early = std::mem::take(&mut inner.early);
    let Inner { here, elsewhere, .. } = &mut *inner;
    for (user, person) in here.iter_mut() {
        if show(rooms, *user, person, now) {
            changed.push(*user);
        }
        person.devices.retain(|_, device| device.is_there(now));
    }
    elsewhere.retain(|user, heard| {
        let until = *heard + WORD_HOLDS;
        if until > now {
            tracker.look_at(until);
            return true;
        }
        if let Some(before) = rooms.store.live().presence(*user) {
            let gone = Presence { state: State::Offline, is_active: false, ..before };
            rooms.store.live().set_presence(*user, gone, false);
            changed.push(*user);
        }
        false
    });
    drop(inner);
    changed.into_iter().try_for_each(|user| wake(rooms, user))?;
    early
        .into_iter()
        .filter(|(at, ..)| now < at + EARLY)
        .try_for_each(|(at, user, said)| listen(rooms, &user, said, at))
}

/// Takes in what another server says of one of its users, if anybody here sees them. The caller has checked that
/// the user is one of theirs.
pub fn hear(rooms: &Rooms, id: &UserId, said: Presence) -> Result<()> {
    let status = said.status.filter(|status| !status.is_empty() && status.len() <= LONGEST_STATUS);
    let now = rooms.clock.now();
    listen(rooms, id, Presence { status, active_at: said.active_at.min(now), ..said }, now)
}

/// Takes in what was said at some time, or keeps it for a moment.
fn listen(rooms: &Rooms, id: &UserId, said: Presence, now: u64) -> Result<()> {
    let user = numbers::find_user(&rooms.store, id)?;
    let seen = user.map(|user| watchers(rooms, user)).transpose()?.is_some_and(|watchers| !watchers.is_empty());
    let mut inner = rooms.presence.inner.lock();
    let Some(user) = user.filter(|_| seen) else {
        inner.early.push_back((now, id.to_owned(), said));
        if inner.early.len() > MOST_EARLY {
            inner.early.pop_front();
        }
        rooms.presence.look_at(rooms.clock.now() + 1_000);
        return Ok(());
    };
    if inner.elsewhere.len() >= MOST_ELSEWHERE && !inner.elsewhere.contains_key(&user) {
        return Ok(());
    }
    inner.elsewhere.insert(user, now);
    if said.state == State::Offline {
        inner.elsewhere.remove(&user);
    }
    rooms.presence.look_at(now + WORD_HOLDS);
    let before = rooms.store.live().presence(user).unwrap_or_default();
    let news = (before.state, before.is_active, &before.status) != (said.state, said.is_active, &said.status);
    if news {
        // Not every server says when somebody was last active.
        let active_at = said.active_at.max(before.active_at);
        rooms.store.live().set_presence(user, Presence { active_at, ..said }, false);
    } else {
        rooms.store.live().acted(user, said.active_at);
    }
    drop(inner);
    if news { wake(rooms, user) } else { Ok(()) }
}

/// The local users who see a user: those who share a room, and the user.
fn watchers(rooms: &Rooms, user: UserNo) -> Result<BTreeSet<UserNo>> {
    let mut watchers = BTreeSet::new();
    for room in access::rooms_of(rooms, user, &MembershipState::Join)? {
        watchers.extend(ephemeral::locals(rooms, room)?);
    }
    Ok(watchers)
}

fn wake(rooms: &Rooms, user: UserNo) -> Result<()> {
    let mut watchers = watchers(rooms, user)?;
    watchers.insert(user);
    rooms.store.wakers().wake(&watchers);
    Ok(())
}

/// Whether two users are in one room, or are the same.
pub fn sees(rooms: &Rooms, one: UserNo, other: UserNo) -> Result<bool> {
    if one == other {
        return Ok(true);
    }
    let joined = |row: &UserRoomRow| row.membership == MembershipState::Join;
    for row in rooms.store.scan(USER_ROOMS, &(other,)) {
        let ((_, room), row) = row?;
        if joined(&row) && rooms.store.get(USER_ROOMS, &(one, room))?.is_some_and(|row| joined(&row)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where somebody is, for somebody who may know.
///
/// Errors: 403 `M_FORBIDDEN` for those who share no room with them, 404 `M_NOT_FOUND` where presence is off.
pub fn find(rooms: &Rooms, observer: UserNo, observed: &UserId) -> Result<Presence> {
    if !rooms.config.presence.enabled {
        return Err(Error::not_found("this server does not show who is there"));
    }
    expire(rooms)?;
    let user = numbers::find_user(&rooms.store, observed)?;
    match user {
        Some(user) if sees(rooms, observer, user)? => Ok(rooms.store.live().presence(user).unwrap_or_default()),
        _ => Err(Error::forbidden("you share no room with this user, and so cannot see whether they are there")),
    }
}

/// What is known of somebody's presence, as the content of an event.
pub fn content(rooms: &Rooms, presence: &Presence) -> Value {
    let mut content = json!({ "presence": presence.state.name() });
    if presence.active_at > 0 {
        content["last_active_ago"] = rooms.clock.now().saturating_sub(presence.active_at).into();
    }
    if presence.state == State::Online {
        content["currently_active"] = presence.is_active.into();
    }
    if let Some(status) = &presence.status {
        content["status_msg"] = status.as_str().into();
    }
    content
}

/// The ephemeral event that tells other servers where some users are.
pub fn edu(rooms: &Rooms, people: &[(OwnedUserId, Presence)]) -> String {
    let push = people.iter().map(|(user, presence)| {
        let mut update = content(rooms, presence);
        update["user_id"] = user.as_str().into();
        if presence.active_at == 0 {
            update["last_active_ago"] = rooms.clock.now().into();
        }
        update
    });
    json!({ "edu_type": "m.presence", "content": { "push": push.collect::<Vec<_>>() } }).to_string()
}
