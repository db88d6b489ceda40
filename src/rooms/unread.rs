//! What the people of this server have not read yet: counted in memory, from one row per event for all of them and a
//! few marks of each. `projections::unread` and `ephemeral` write those rows.
//!
//! What was counted once is kept, and only what has come since is looked at; marks make it shorter.
//!
//! Spec: client-server-api#receiving-notifications

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use itertools::Itertools;
use quick_cache::{Weighter, sync::Cache};
use ruma::events::room::member::MembershipState;

use crate::{
    error::Result,
    store::{
        Position, Store, StoreError,
        schema::{
            EventNo, RoomNo, UserNo,
            push::{EVERY_THREAD, MAIN_TIMELINE, NOTIFIED, NotifiedRow, READ_TO, SPOKE_AT},
            rooms::{USER_ROOMS, UserRoomRow},
        },
    },
};

/// How much is counted of one user in one room: nobody looks at the number beyond that.
const MOST_COUNTED: usize = 2_000;
/// How many rows are looked at for that, when little of a room concerns a user.
const MOST_LOOKED_AT: usize = 20_000;
/// How far the marks of single threads run ahead before they are drawn together.
const SPREAD: u64 = if cfg!(test) { 3 } else { 1_000 };

/// An event that a user has not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// Its place in the log.
    pub at: Position,
    /// The root of its thread.
    pub thread: Option<EventNo>,
    /// Whether it is highlighted.
    pub highlight: bool,
    /// Whether it is a call.
    pub call: bool,
}

/// Up to where a user has read in a room.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Read {
    everything: Position,
    main: Position,
    threads: HashMap<EventNo, Position>,
}

impl Read {
    /// As it is now.
    pub fn of(store: &Store, user: UserNo, room: RoomNo) -> Result<Self, StoreError> {
        let mut read = Self::default();
        for marks in [READ_TO, SPOKE_AT] {
            for row in store.scan(marks, &(user, room)) {
                let ((.., thread), at) = row?;
                let mark = match thread {
                    EVERY_THREAD => &mut read.everything,
                    MAIN_TIMELINE => &mut read.main,
                    thread => read.threads.entry(thread).or_default(),
                };
                *mark = at.max(*mark);
            }
        }
        Ok(read)
    }

    /// Whether it includes an event at a place in the log.
    pub fn covers(&self, thread: Option<EventNo>, at: Position) -> bool {
        let mark = match thread {
            None => self.main,
            Some(thread) => self.threads.get(&thread).copied().unwrap_or_default(),
        };
        at <= self.everything.max(mark)
    }
}

/// What one user has not read in one room.
#[derive(Debug, Default)]
pub struct Tally {
    /// Everything up to here is counted.
    upto: Position,
    read: Read,
    items: VecDeque<Item>,
}

impl Tally {
    /// What is unread, oldest first.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.iter()
    }
}

#[derive(Clone)]
struct Size;

impl Weighter<(UserNo, RoomNo), Arc<Tally>> for Size {
    fn weight(&self, _: &(UserNo, RoomNo), tally: &Arc<Tally>) -> u64 {
        200 + 40 * (tally.items.capacity() + tally.read.threads.capacity()) as u64
    }
}

/// What was counted.
pub struct Unread {
    tallies: Cache<(UserNo, RoomNo), Arc<Tally>, Size>,
}

impl Unread {
    /// Keeps at most `bytes`.
    pub fn new(bytes: u64) -> Self {
        Self { tallies: Cache::with_weighter(200, bytes, Size) }
    }

    /// What a user has not read in a room, of what is published.
    pub fn of(&self, store: &Store, user: UserNo, room: RoomNo) -> Result<Arc<Tally>> {
        let kept = self.tallies.get(&(user, room));
        if let Some(tally) = kept.as_ref().filter(|tally| store.wakers().newest_in(room) <= tally.upto) {
            return Ok(Arc::clone(tally));
        }
        let upto = store.position();
        let read = Read::of(store, user, room)?;
        let after = kept.as_ref().map_or(read.everything, |tally| tally.upto.max(read.everything));
        let mut news = newest(store, user, room, (after, upto)).take(MOST_COUNTED).collect::<Result<Vec<_>, _>>()?;
        news.reverse();
        let known = kept.iter().flat_map(|tally| &tally.items).copied().chain(news);
        let mut items: VecDeque<Item> = known.filter(|item| !read.covers(item.thread, item.at)).collect();
        items.drain(..items.len().saturating_sub(MOST_COUNTED));
        let tally = Arc::new(Tally { upto, read, items });
        self.tallies.insert((user, room), Arc::clone(&tally));
        Ok(tally)
    }

    /// If single threads are read far beyond the mark of all threads: up to where nothing is unread, apart from
    /// what is read just now. Nothing if that is not known without looking.
    pub fn all_read(&self, user: UserNo, room: RoomNo, just_read: impl Fn(&Item) -> bool) -> Option<Position> {
        let tally = self.tallies.get(&(user, room))?;
        let oldest = tally.items().find(|item| !just_read(item));
        let read = oldest.map_or(tally.upto, |item| Position(item.at.0 - 1));
        (read.0 > tally.read.everything.0 + SPREAD).then_some(read)
    }

    /// Counts again in a room out of which events were taken.
    pub fn forget(&self, room: RoomNo) {
        self.tallies.retain(|(_, of), _| *of != room);
    }
}

/// What a user was told of in a room after one place and up to another, newest first.
fn newest(
    store: &Store,
    user: UserNo,
    room: RoomNo,
    (after, upto): (Position, Position),
) -> impl Iterator<Item = Result<Item, StoreError>> {
    let rows = store.range(NOTIFIED, &(room, Position(after.0 + 1)), &(room, Position(upto.0 + 1))).rev();
    rows.take(MOST_LOOKED_AT).filter_map(move |row| {
        let ((_, at), row) = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        let highlight = row.to(user)?.highlight;
        Some(Ok(Item { at, thread: row.thread, highlight, call: row.call }))
    })
}

/// Something that a user was told of.
#[derive(Debug)]
pub struct News {
    /// Its place in the log.
    pub at: Position,
    /// Where.
    pub room: RoomNo,
    /// What, and all who were told.
    pub row: NotifiedRow,
}

/// What a user was told of after one place in the log and up to another, in the rooms where their membership is
/// `among`: newest first.
pub fn told(
    store: &Store,
    user: UserNo,
    (after, upto): (Position, Position),
    among: impl Fn(&UserRoomRow) -> bool,
) -> Result<impl Iterator<Item = Result<News, StoreError>>> {
    let mut rooms = Vec::new();
    for row in store.scan(USER_ROOMS, &(user,)) {
        let ((_, room), row) = row?;
        if among(&row) && store.wakers().newest_in(room) > after {
            let (from, to) = ((room, Position(after.0 + 1)), (room, Position(upto.0.saturating_add(1))));
            rooms.push(store.range(NOTIFIED, &from, &to).rev());
        }
    }
    let newer = |one: &Result<_, StoreError>, other: &Result<((_, Position), _), StoreError>| match (one, other) {
        (Ok(((_, one), _)), Ok(((_, other), _))) => one > other,
        (one, _) => one.is_err(),
    };
    let rows = rooms.into_iter().kmerge_by(newer);
    Ok(rows.filter_map_ok(move |((room, at), row)| row.to(user).is_some().then_some(News { at, room, row })))
}

/// Whether somebody is in a room, or asked in.
pub fn is_open(row: &UserRoomRow) -> bool {
    matches!(row.membership, MembershipState::Join | MembershipState::Invite)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ruma::{OwnedEventId, UserId, api::client::room::create_room::v3::Request};
    use serde_json::json;

    use super::*;
    use crate::{
        protocol::canonical,
        rooms::{
            Room, Rooms,
            append::NewEvent,
            ephemeral::{self, NewReceipt},
            tests::{new_room, rooms, user},
        },
        store::schema::numbers,
    };

    /// Something that happens in the room, by one of its two people.
    #[derive(Debug, Clone)]
    enum Step {
        /// They say something, in the main timeline (0) or in a thread.
        Say(usize, usize),
        /// They read up to one of the events so far: everything, or (0) the main timeline, or a thread.
        Read(usize, Option<usize>, prop::sample::Index),
        /// They ask what is unread.
        Ask(usize),
        /// What was counted is forgotten, as after a start.
        Forget,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => (0..2_usize, 0..3_usize).prop_map(|(who, thread)| Step::Say(who, thread)),
            3 => (0..2_usize, prop::option::of(0..3_usize), any::<prop::sample::Index>())
                .prop_map(|(who, thread, upto)| Step::Read(who, thread, upto)),
            4 => (0..2_usize).prop_map(Step::Ask),
            1 => Just(Step::Forget),
        ]
    }

    fn say(rooms: &Rooms, room: &Room, sender: &UserId, root: Option<&OwnedEventId>) -> OwnedEventId {
        let mut content = json!({ "msgtype": "m.text", "body": "hello" });
        if let Some(root) = root {
            content["m.relates_to"] = json!({ "rel_type": "m.thread", "event_id": root });
        }
        let mut deciding = rooms.decide(room);
        let new = NewEvent::message(sender, "m.room.message", canonical::to_object(&content).unwrap());
        let event = deciding.send(new).unwrap();
        drop(deciding.commit().unwrap());
        event.event_id.clone()
    }

    proptest! {
        /// What is counted is what a list of everything says, each with its own mark.
        #[test]
        fn nothing_is_counted_twice_or_forgotten(steps in prop::collection::vec(step(), 1..60)) {
            let rooms = rooms();
            let people = [user(&rooms, "ann"), user(&rooms, "bob")];
            let room = new_room(&rooms, &people[0], Request::new());
            let mut deciding = rooms.decide(&room);
            deciding.invite(&people[0], &people[1], Default::default(), None).unwrap();
            deciding.join(&people[1], None, Default::default()).unwrap();
            drop(deciding.commit().unwrap());
            let roots = [say(&rooms, &room, &people[0], None), say(&rooms, &room, &people[0], None)];
            let numbers = [0, 1].map(|who| numbers::find_user(&rooms.store, &people[who]).unwrap().unwrap());
            // Each event with its thread, and for whom it is unread.
            let mut all: Vec<(OwnedEventId, usize, [bool; 2])> =
                roots.iter().map(|root| (root.clone(), 0, [false, true])).collect();
            for step in steps {
                match step {
                    Step::Say(who, thread) => {
                        let root = thread.checked_sub(1).map(|thread| &roots[thread]);
                        let event = say(&rooms, &room, &people[who], root);
                        all.iter_mut().filter(|(_, of, _)| *of == thread).for_each(|(.., unread)| unread[who] = false);
                        all.push((event, thread, [who != 0, who != 1]));
                    }
                    Step::Read(who, thread, upto) => {
                        let upto = upto.index(all.len());
                        let root = thread.map(|thread| match thread.checked_sub(1) {
                            Some(thread) => roots[thread].to_string(),
                            None => "main".to_owned(),
                        });
                        let new = NewReceipt {
                            user: &people[who],
                            kind: "m.read",
                            thread: root.as_deref(),
                            event: &all[upto].0.clone(),
                            ts: 5,
                        };
                        let covered = all[..=upto].iter_mut();
                        covered
                            .filter(|(_, of, _)| thread.is_none_or(|thread| thread == *of))
                            .for_each(|(.., unread)| unread[who] = false);
                        drop(ephemeral::receipt(&rooms, &room, &new).unwrap());
                    }
                    Step::Ask(who) => {
                        let tally = rooms.unread.of(&rooms.store, numbers[who], room.number).unwrap();
                        let counted = tally.items().map(|item| rooms.store.get(NOTIFIED, &(room.number, item.at)));
                        let counted = counted.map(|row| rooms.known(row.unwrap().unwrap().event).unwrap());
                        let counted: Vec<_> = counted.map(|known| known.event.event_id.clone()).collect();
                        let model = all.iter().filter(|(.., unread)| unread[who]);
                        let model: Vec<_> = model.map(|(event, ..)| event.clone()).collect();
                        prop_assert_eq!(counted, model);
                    }
                    Step::Forget => rooms.unread.forget(room.number),
                }
            }
        }
    }
}
