//! What is worth sending now or never: typing, and where people are.
//!
//! It goes into the queues of the servers that answer at present, and nowhere else.
//!
//! Spec: server-server-api#typing-notifications, server-server-api#presence

use std::{collections::BTreeSet, sync::Arc};

use ruma::{OwnedServerName, OwnedUserId, events::room::member::MembershipState};

use super::{
    edus,
    follow::{FEW, MANY, Outbound},
    queue::Queue,
};
use crate::{
    error::Result,
    protocol::presence::State,
    remote::candidates,
    rooms::{cache::Known, ephemeral, presence},
    store::{
        Position,
        live::TypingChange,
        schema::{
            StateKeyNo, UserNo,
            events::{DeltaRow, STATE_DELTAS},
            numbers,
        },
    },
};

/// With how many changes of a room's state at once it is looked through for people who came.
const MOST_CHANGES: usize = 200;

impl Outbound {
    /// Somebody on this server began or stopped typing.
    pub(super) fn typing(self: &Arc<Self>, change: &TypingChange) -> Result<()> {
        let store = &self.rooms.store;
        let (Some(user), Some(room)) = (numbers::user_id(store, change.user)?, numbers::room_id(store, change.room)?)
        else {
            return Ok(());
        };
        if !self.rooms.is_local(&user) {
            return Ok(());
        }
        let edu = serde_json::json!({
            "edu_type": "m.typing",
            "content": { "room_id": room, "user_id": user, "typing": change.typing },
        });
        let others = self.others(change.room)?;
        if others.len() <= MANY {
            self.pass(others, &edu.to_string());
        }
        Ok(())
    }

    /// Where somebody on this server is has changed.
    pub(super) fn presence(self: &Arc<Self>, user: UserNo) -> Result<()> {
        let store = &self.rooms.store;
        let Some(id) = numbers::user_id(store, user)?.filter(|id| self.rooms.is_local(id)) else { return Ok(()) };
        let (true, Some(presence)) = (presence::over_federation(&self.rooms), store.live().presence(user)) else {
            return Ok(());
        };
        let edu = presence::edu(&self.rooms, &[(id, presence)]);
        let servers = edus::sharing(&self.rooms, user, MANY)?;
        self.pass(candidates(&self.rooms.config, servers), &edu);
        Ok(())
    }

    /// Those who are in a room together for the first time hear where the others are.
    pub(super) fn greet(self: &Arc<Self>, after: Position, until: Position) -> Result<()> {
        let store = &self.rooms.store;
        let touched = store.wakers().touched_since(after).filter(|_| presence::over_federation(&self.rooms));
        for room in touched.into_iter().flatten() {
            // In most that happens nobody comes.
            let changes = store.range(STATE_DELTAS, &(room, Position(after.0 + 1)), &(room, Position(until.0 + 1)));
            let changes = changes.take(MOST_CHANGES + 1).collect::<Result<Vec<_>, _>>()?;
            let many = changes.len() > MOST_CHANGES;
            if !many && !changes.iter().any(|((_, _, key), _)| key.is_member()) {
                continue;
            }
            let others = self.others(room)?;
            if others.is_empty() || others.len() > MANY {
                continue;
            }
            if many {
                // A whole room came: somebody here has joined it.
                self.introduce(ephemeral::locals(&self.rooms, room)?, others)?;
                continue;
            }
            let (mut here, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
            for ((_, _, key), delta) in changes {
                match self.newcomer(key, delta)? {
                    Some(user) if self.rooms.is_local(&user) => here.extend(numbers::find_user(store, &user)?),
                    Some(user) => elsewhere.extend([user.server_name().to_owned()]),
                    None => {}
                }
            }
            if !elsewhere.is_empty() {
                let known = ephemeral::locals(&self.rooms, room)?.into_iter().filter(|user| !here.contains(user));
                self.introduce(known, elsewhere.into_iter().collect())?;
            }
            self.introduce(here, others)?;
        }
        Ok(())
    }

    /// Who came into a room with this change.
    fn newcomer(&self, key: StateKeyNo, delta: DeltaRow) -> Result<Option<OwnedUserId>> {
        let Some(new) = delta.1.filter(|_| key.is_member()) else { return Ok(None) };
        let new = self.rooms.known(new)?;
        let old = delta.0.map(|old| self.rooms.known(old)).transpose()?;
        let joined = |known: &Known| known.event.membership() == Some(MembershipState::Join);
        let came = joined(&new) && !old.is_some_and(|old| joined(&old));
        Ok(new.event.state_key.as_deref().filter(|_| came).and_then(|user| OwnedUserId::try_from(user).ok()))
    }

    /// Tells servers where some users of this server are.
    fn introduce(self: &Arc<Self>, users: impl IntoIterator<Item = UserNo>, to: Vec<OwnedServerName>) -> Result<()> {
        let store = &self.rooms.store;
        let mut people = Vec::new();
        for user in users {
            let there = store.live().presence(user).filter(|presence| presence.state != State::Offline);
            people.extend(there.zip(numbers::user_id(store, user)?).map(|(presence, id)| (id, presence)));
        }
        if !people.is_empty() {
            self.pass(to, &presence::edu(&self.rooms, &people));
        }
        Ok(())
    }

    /// Sends something now to those of some servers that answer.
    fn pass(self: &Arc<Self>, servers: Vec<OwnedServerName>, edu: &str) {
        let (few, edu) = (servers.len() <= FEW, Arc::<str>::from(edu));
        for server in servers {
            self.now_or_never(server, |queue| {
                queue.pass(Arc::clone(&edu));
                if few {
                    queue.hurry();
                }
            });
        }
    }

    /// Puts something into the queue of a server, if it answers at present.
    pub(super) fn now_or_never(self: &Arc<Self>, server: OwnedServerName, put: impl FnOnce(&mut Queue)) {
        let remote = &self.rooms.remote;
        if remote.permitted.is(&server) && remote.back_off.until(&server, self.rooms.clock.now()).is_none() {
            let destination = self.destination(&server);
            put(&mut destination.queue.lock());
            self.work(server, destination);
        }
    }
}
