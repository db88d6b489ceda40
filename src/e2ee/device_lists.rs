//! Whose keys a client has to ask for again: `device_lists` of `/sync`, and `keys/changes`.
//!
//! Every change is one row of the log, whoever it concerns: a change of somebody's keys
//! ([`record`]), and everybody's joining and leaving of rooms (written by `rooms`). [`between`] finds
//! out whom of them a user shared a room with, before and after. A client follows the keys of those with
//! whom its user shares a room, encrypted or not: a room may become encrypted at any time.
//!
//! The rows of the log are also what tells a past state from the present one: who is joined is stored
//! as it is now, and every row turns it over.
//!
//! Spec: client-server-api#tracking-the-device-list-for-a-user

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ruma::{OwnedUserId, events::room::member::MembershipState};

use crate::{
    error::Result,
    store::{
        Position, Store, StoreError, Write,
        schema::{
            RoomNo, UserNo,
            e2ee::{LIST_CHANGES, ListChange, STREAMS, StreamRow},
            federation::{OUTBOX, OutboxRow},
            numbers,
            rooms::{LOCAL_MEMBERS, MEMBERS, USER_ROOMS},
        },
    },
};

/// Stands for "no room" in the keys of the log.
const NO_ROOM: RoomNo = RoomNo(0);

/// How far numbers of changes jump when newer ones than the newest known may have been given out.
const JUMP: u64 = 1 << 20;

/// Records, within a `Write`, that the keys or the name of a device of a user of this server changed, or that the
/// device is gone: everybody here who follows them wakes, and other servers will be told. The caller holds the
/// lock of the user's keys.
///
/// Spec: server-server-api#device-management
pub fn record_device(write: &mut Write, user: UserNo, device: &str) -> Result<(), StoreError> {
    record(write, user)?;
    let epoch = write.epoch();
    let (number, prev) = match write.get(STREAMS, &user)? {
        Some(row) if row.epoch == epoch => (row.number + 1, Some(row.number)),
        // A predecessor that was never told: whoever knew the lost future asks for the whole list.
        Some(row) => (row.number + JUMP, Some(row.number + JUMP - 1)),
        None => (1, None),
    };
    write.put(STREAMS, &user, &StreamRow { number, epoch });
    let row = OutboxRow::Device { user, device: device.to_owned(), stream: number, prev };
    let slot = write.slot();
    write.put_at(OUTBOX, slot, move |at| (at, row));
    Ok(())
}

/// Records the same of the master key or the self-signing key.
pub fn record_identity(write: &mut Write, user: UserNo) -> Result<(), StoreError> {
    record(write, user)?;
    let slot = write.slot();
    write.put_at(OUTBOX, slot, move |at| (at, OutboxRow::SigningKeys(user)));
    Ok(())
}

/// The number of the newest change of a local user's devices.
pub fn stream(store: &Store, user: UserNo) -> Result<u64, StoreError> {
    Ok(store.get(STREAMS, &user)?.unwrap_or_default().number)
}

/// Records, within a `Write`, that the devices or keys of a user of any server changed, for those who follow them
/// here.
pub fn record(write: &mut Write, user: UserNo) -> Result<(), StoreError> {
    let slot = write.slot();
    write.put_at(LIST_CHANGES, slot, move |at| ((at, user, NO_ROOM), ListChange::Keys));
    write.wake(user);
    let mut followers = BTreeSet::new();
    for ((_, room), row) in write.scan(USER_ROOMS, &user)? {
        if row.membership == MembershipState::Join {
            followers.extend(write.scan(LOCAL_MEMBERS, &room)?.into_iter().map(|((_, member), ())| member));
        }
    }
    followers.into_iter().for_each(|follower| write.wake(follower));
    Ok(())
}

/// Records that `signer` alone sees another signature on the master key of `user`.
pub(super) fn record_signature(write: &mut Write, user: UserNo, signer: UserNo) {
    let slot = write.slot();
    write.put_at(LIST_CHANGES, slot, move |at| ((at, user, NO_ROOM), ListChange::SignedBy(signer)));
    write.wake(signer);
}

/// Whose keys to look at again, and whose no longer to look at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Users whose keys changed, or with whom the user shares a room now and did not all the time.
    pub changed: Vec<OwnedUserId>,
    /// Users with whom the user shared a room and no longer does.
    pub left: Vec<OwnedUserId>,
}

/// What changed for a user after `since`, up to and with `upto`.
///
/// Nothing is missing from `changed`, ever. What happens after `upto` and is visible already may be told
/// now, and is told again.
pub fn between(store: &Store, user: UserNo, since: Position, upto: Position) -> Result<Changes> {
    let history = History::read(store, since, upto)?;
    if history.is_empty() {
        return Ok(Changes::default());
    }
    let mut changes = Changes::default();
    let mut put = |list: fn(&mut Changes) -> &mut Vec<OwnedUserId>, other| -> Result<()> {
        list(&mut changes).extend(numbers::user_id(store, other)?);
        Ok(())
    };
    for other in history.concerned(store, user)? {
        if other == user {
            // One's own other devices matter without any room.
            if history.keys.contains(&user) {
                put(|changes| &mut changes.changed, user)?;
            }
            continue;
        }
        let sharing = history.sharing(store, user, other)?;
        let news = history.keys.contains(&other) || history.signed.contains(&(other, user)) || !sharing.always;
        if sharing.after && news {
            put(|changes| &mut changes.changed, other)?;
        } else if sharing.before && !sharing.after {
            put(|changes| &mut changes.left, other)?;
        }
    }
    Ok(changes)
}

/// What the log says of a stretch of time.
struct History {
    since: Position,
    upto: Position,
    /// Whose keys changed.
    keys: BTreeSet<UserNo>,
    /// On whose master key whom sees another signature.
    signed: BTreeSet<(UserNo, UserNo)>,
    /// Who joined and left in this time.
    moves: BTreeSet<(RoomNo, UserNo)>,
    /// All joins (true) and leaves after `since`, also those after `upto`, in their order.
    turns: HashMap<(RoomNo, UserNo), Vec<(Position, bool)>>,
}

impl History {
    fn read(store: &Store, since: Position, upto: Position) -> Result<Self> {
        let (keys, signed, moves, turns) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new(), HashMap::new());
        let mut history = Self { since, upto, keys, signed, moves, turns };
        let from = Position(since.0.saturating_add(1));
        for row in store.range(LIST_CHANGES, &from, &Position(u64::MAX)) {
            let ((at, user, room), change) = row?;
            let joined = match change {
                ListChange::Keys if at <= upto => {
                    history.keys.insert(user);
                    continue;
                }
                ListChange::SignedBy(signer) if at <= upto => {
                    history.signed.insert((user, signer));
                    continue;
                }
                ListChange::Keys | ListChange::SignedBy(_) => continue,
                ListChange::Joined => true,
                ListChange::Left => false,
            };
            if at <= upto {
                history.moves.insert((room, user));
            } else if history.is_empty() {
                // Nothing happened up to `upto`, and what comes later does not matter then.
                break;
            }
            history.turns.entry((room, user)).or_default().push((at, joined));
        }
        Ok(history)
    }

    fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.signed.is_empty() && self.moves.is_empty()
    }

    /// Everybody about whom there may be something to say to `user`.
    fn concerned(&self, store: &Store, user: UserNo) -> Result<BTreeSet<UserNo>> {
        let mut concerned = self.keys.clone();
        concerned.extend(self.signed.iter().filter(|(_, signer)| *signer == user).map(|(signed, _)| *signed));
        for &(room, mover) in &self.moves {
            if mover != user {
                concerned.insert(mover);
                continue;
            }
            for row in store.scan(MEMBERS, &room) {
                concerned.insert(row?.0.1);
            }
            concerned.extend(self.turns.keys().filter(|(other, _)| *other == room).map(|(_, member)| *member));
        }
        Ok(concerned)
    }

    /// Whether two users shared a room.
    fn sharing(&self, store: &Store, user: UserNo, other: UserNo) -> Result<Sharing> {
        let mut rooms = BTreeMap::new();
        for row in store.scan(USER_ROOMS, &other) {
            let ((_, room), row) = row?;
            rooms.insert(room, row.membership == MembershipState::Join);
        }
        for (room, mover) in self.turns.keys() {
            if *mover == other {
                rooms.entry(*room).or_insert(false);
            }
        }
        let mut sharing = Sharing::default();
        for (room, joined) in rooms {
            let theirs = self.turns.get(&(room, other));
            if !joined && theirs.is_none() {
                continue;
            }
            let ours = self.turns.get(&(room, user));
            let mine = store.contains(LOCAL_MEMBERS, &(room, user))?;
            if !mine && ours.is_none() {
                continue;
            }
            let at = |position| joined_at(theirs, joined, position) && joined_at(ours, mine, position);
            let (before, after) = (at(self.since), at(self.upto));
            let moved = self.moves.contains(&(room, other)) || self.moves.contains(&(room, user));
            sharing.before |= before;
            sharing.after |= after;
            sharing.always |= before && after && !moved;
            if sharing.always {
                break;
            }
        }
        Ok(sharing)
    }
}

/// Whether two users share a room.
#[derive(Default)]
struct Sharing {
    before: bool,
    after: bool,
    /// The same room from the beginning to the end.
    always: bool,
}

/// Whether somebody was joined at a position, from how it is now and what happened since.
fn joined_at(turns: Option<&Vec<(Position, bool)>>, now: bool, position: Position) -> bool {
    let next = turns.and_then(|turns| turns.iter().find(|(at, _)| *at > position));
    next.map_or(now, |(_, joined)| !joined)
}
