//! Rooms that this server has just joined and whose members are still on their way.
//!
//! Of such a room the state without most of its members is known: enough to speak and to listen. What needs to
//! know everybody waits ([`whole`]). An event whose sender is not known yet is judged by the member events that it
//! names itself, and judged again when the members are there. How they are fetched is [`super::completing`].
//!
//! Spec: server-server-api#put_matrixfederationv2send_joinroomideventid (`omit_members`)

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use ruma::{OwnedServerName, RoomId, ServerName, events::room::member::MembershipState};
use tokio::sync::{Notify, watch};

use super::{Room, Rooms, append::Deciding, cache::Known, state::State};
use crate::{
    error::{Error, Result},
    protocol::event::Event,
    store::{
        Position, Store,
        schema::{
            EventNo, RoomNo, StateKeyNo,
            events::{HISTORY, Standing, TIMELINE},
            numbers,
            rooms::{ARRIVED, PARTIAL_EVENTS, PARTIAL_ROOMS, PartialRow, ROOM_SERVERS},
        },
    },
};

/// How long somebody waits for the members of a room.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// How many servers of a room are believed to be in it before their users are known.
const MOST_SERVERS: usize = 50_000;

/// Who waits for what in such rooms.
#[derive(Default)]
pub struct Partials {
    /// Told when there is one more such room.
    pub(super) begun: Notify,
    /// Changes when there is one less.
    over: watch::Sender<()>,
}

impl Partials {
    pub(super) fn tell_over(&self) {
        self.over.send_replace(());
    }
}

/// Waits until everybody in a room is known. At once for nearly all rooms.
///
/// Errors: 504 `M_UNKNOWN` if that takes too long.
pub async fn whole(rooms: &Rooms, room: &Room) -> Result<()> {
    let mut over = rooms.partial.over.subscribe();
    let wait = async {
        // The row is there until the last of them can be read.
        while room.is_partial() || rooms.store.contains(PARTIAL_ROOMS, &room.number)? {
            if over.changed().await.is_err() {
                break;
            }
        }
        Ok::<_, Error>(())
    };
    tokio::time::timeout(LONGEST_WAIT, wait).await.unwrap_or_else(|_| {
        let message = "the members of this room are still on their way from other servers; try again later";
        Err(Error::new(StatusCode::GATEWAY_TIMEOUT, "M_UNKNOWN", message))
    })
}

/// The same for a room that is named by its ID; at once for one that this server does not know.
pub async fn whole_by_id(rooms: &Rooms, room: &RoomId) -> Result<()> {
    match numbers::find_room(&rooms.store, room)?.map(|number| rooms.open(number)).transpose()?.flatten() {
        Some(room) => whole(rooms, &room).await,
        None => Ok(()),
    }
}

/// Fails with 404 `M_NOT_FOUND` while this server cannot help others with a room.
pub fn check_whole(room: &Room) -> Result<()> {
    match room.is_partial() {
        true => Err(Error::not_found("this server has only just joined the room and does not know its members yet")),
        false => Ok(()),
    }
}

/// Whether everybody in a room is known by now, and if that was not so from the beginning, since when.
pub fn arrived(rooms: &Rooms, room: RoomNo) -> Result<(bool, Option<Position>)> {
    let partial = rooms.store.contains(PARTIAL_ROOMS, &room)?;
    Ok((!partial, if partial { None } else { rooms.store.get(ARRIVED, &room)? }))
}

/// The member event of its sender that an event names, for a reader of a room in which the sender is unknown.
pub fn claimed_sender(rooms: &Rooms, known: &Known) -> Result<Option<Arc<Known>>> {
    for id in &known.event.auth_events {
        let claimed = rooms.by_id(id)?.filter(|auth| auth.event.is("m.room.member", known.event.sender.as_str()));
        if claimed.is_some() {
            return Ok(claimed);
        }
    }
    Ok(None)
}

/// Such rooms, as they stand on the disk.
pub fn all(store: &Store) -> Result<Vec<(RoomNo, PartialRow)>> {
    Ok(store.scan(PARTIAL_ROOMS, &()).collect::<Result<_, _>>()?)
}

impl Deciding<'_> {
    /// Notes that the room is entered without most of its members, through `via`, and which servers are in it.
    pub(super) fn begin_partial(&mut self, join: EventNo, via: &ServerName, servers: &[OwnedServerName]) -> Result<()> {
        let room = self.room.number;
        for (key, _) in self.write.scan(PARTIAL_EVENTS, &(room,))? {
            self.write.delete(PARTIAL_EVENTS, &key);
        }
        self.write.delete(ARRIVED, &room);
        self.write.put(PARTIAL_ROOMS, &room, &PartialRow { join, via: via.to_owned() });
        for server in servers.iter().take(MOST_SERVERS) {
            let key = (room, server.as_str().to_owned());
            if self.write.get(ROOM_SERVERS, &key)?.is_none() {
                self.write.put(ROOM_SERVERS, &key, &0);
            }
        }
        Ok(())
    }

    /// Notes that nobody waits for the members any more: they are there, or nobody of this server is.
    pub(super) fn end_partial(&mut self, arrived: bool) -> Result<()> {
        let room = self.room.number;
        self.write.delete(PARTIAL_ROOMS, &room);
        for (key, _) in self.write.scan(PARTIAL_EVENTS, &(room,))? {
            self.write.delete(PARTIAL_EVENTS, &key);
        }
        for (key, count) in self.write.scan(ROOM_SERVERS, &(room,))? {
            if count == 0 {
                self.write.delete(ROOM_SERVERS, &key);
            }
        }
        if arrived {
            let slot = self.write.slot();
            self.write.put_at(ARRIVED, slot, move |at| (room, at));
        }
        Ok(())
    }

    /// What is on the disk about the room's missing members; nothing if none are missing.
    pub(super) fn partial(&self) -> Result<Option<PartialRow>> {
        Ok(self.write.get(PARTIAL_ROOMS, &self.room.number)?)
    }

    /// Members take their place in the current state unless something newer is there already. There is no row
    /// for readers about each: whoever loads members on demand sees no change, and whoever does not has not seen
    /// the room yet.
    pub(super) fn arrive(&mut self, members: &[(StateKeyNo, EventNo)]) -> Result<()> {
        let missing = members.iter().filter(|(key, _)| self.head().state.get(*key).is_none());
        let changes: Vec<_> = missing.map(|(key, event)| (*key, Some(*event))).collect();
        let before = self.head().state.clone();
        self.head_mut().state = before.derive(&mut self.write, &changes)?;
        let slot = self.write.slot();
        for (_, event) in changes {
            self.tell_state(slot, None, event)?;
        }
        Ok(())
    }

    /// Gives an event the state that was really before it, and judges it again. `whole` is the state before the
    /// join with which this server came in.
    pub(super) fn judge_again(&mut self, number: EventNo, row: &PartialRow, whole: &State) -> Result<()> {
        let known = self.known(number)?;
        let before = match number == row.join {
            true => whole.clone(),
            false => self.state_before_again(&known)?,
        };
        let mut known = Known { before: Some(before.number), ..(*known).clone() };
        known.replaces = match known.event.key() {
            Some((kind, key)) => self.rooms.state_key_in(&self.write, kind, key)?.and_then(|key| before.get(key)),
            None => None,
        };
        if known.standing == Standing::Accepted
            && number != row.join
            && let Err(refusal) = self.check_at(&before, &known.event)
        {
            tracing::info!(event = %known.event.event_id, room = %self.room.id, "an event is withdrawn: {refusal}");
            known.standing = Standing::Rejected;
            self.withdraw(&known)?;
        }
        self.replace(known);
        Ok(())
    }

    fn state_before_again(&mut self, known: &Known) -> Result<State> {
        let mut states = Vec::new();
        let mut complete = true;
        for prev in &known.event.prev_events {
            match self.by_id(prev)?.filter(|prev| prev.before.is_some()) {
                Some(prev) => states.push(self.state_after(&prev)?),
                None => complete = false,
            }
        }
        if let Some(given) = known.before.filter(|_| !complete) {
            // Another server has said what was before it: all of it, also who was in the room then.
            states.push(self.rooms.state_in(&self.write, given)?);
        }
        self.resolve(&states)
    }

    /// Takes an event out of what people see, and out of the ends of the room.
    fn withdraw(&mut self, known: &Known) -> Result<()> {
        let place = (known.room, known.event.depth, known.number);
        if let Some(at) = self.write.get(HISTORY, &place)? {
            self.write.delete(TIMELINE, &(known.room, at));
            self.write.delete(HISTORY, &place);
        }
        self.head_mut().extremities.retain(|(number, _)| *number != known.number);
        if self.head().extremities.is_empty() {
            let mut ends = Vec::new();
            for prev in &known.event.prev_events {
                let prev = self.by_id(prev)?.filter(|prev| prev.before.is_some());
                ends.extend(prev.map(|prev| (prev.number, prev.event.event_id.clone())));
            }
            self.head_mut().extremities = ends;
        }
        Ok(())
    }

    /// Whether a state allows an event, where members that the state lacks are those that the event names.
    pub fn check_claimed(&self, state: &State, event: &Event) -> Result<()> {
        self.check_with(state, event, true)
    }
}

/// Whether a member event is of somebody who is present.
pub(super) fn is_present(event: &Event) -> bool {
    matches!(event.membership(), Some(MembershipState::Join | MembershipState::Invite))
}
