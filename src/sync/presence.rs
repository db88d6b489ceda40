//! Who of those with whom the reader shares a room is there.
//!
//! Told are those who came, went or changed since the reader last asked, and those whom the reader sees for the
//! first time because one of both came into a room.
//!
//! Spec: client-server-api#presence

use std::collections::BTreeSet;

use ruma::{UserId, events::room::member::MembershipState};
use serde_json::json;

use super::{places::Place, room::Ask};
use crate::{
    error::Result,
    protocol::presence::State,
    rooms::presence::{content, sees},
    store::{
        Position,
        live::Presence,
        schema::{
            RoomNo, UserNo,
            events::STATE_DELTAS,
            numbers,
            rooms::{self, LOCAL_MEMBERS, USER_ROOMS},
        },
    },
};

/// With how many changes of a room's state since then it is not looked through for people who came, but for all
/// whose presence is known.
const MOST_CHANGES: usize = 200;

/// What is new, as events; `newcomers` are told of as well.
pub fn events(ask: &Ask<'_>, newcomers: &BTreeSet<UserNo>) -> Result<Vec<String>> {
    let (look, filter) = (ask.look, &ask.filter.presence);
    let store = look.store();
    if !look.rooms.config.presence.enabled || !filter.wants_type("m.presence") {
        return Ok(Vec::new());
    }
    // Somebody who is not there is no news for who knows nothing yet.
    let (since, whole) = match ask.since.filter(|_| !ask.full) {
        Some(since) => (since.live_now(store), false),
        None => (0, true),
    };
    let mut people: Vec<(UserNo, Presence)> = store.live().presence_since(since);
    let told: BTreeSet<UserNo> = people.iter().map(|(user, _)| *user).collect();
    let mut missing = newcomers.clone();
    if ask.other_boot() && !whole {
        // Of whom nothing is known since the restart is not there, whatever the reader believes.
        missing.extend(neighbours(ask)?);
    }
    for user in missing.difference(&told) {
        let known = store.live().presence(*user);
        people.extend(known.or_else(|| ask.other_boot().then(Presence::default)).map(|presence| (*user, presence)));
    }
    let mut events = Vec::new();
    for (user, presence) in people {
        if (whole && presence.state == State::Offline) || !sees(look.rooms, look.reader.number, user)? {
            continue;
        }
        let Some(id) = numbers::user_id(store, user)? else { continue };
        if look.ignored.contains(&id) || !filter.wants_sender(id.as_str()) {
            continue;
        }
        let content = content(look.rooms, &presence);
        events.push(json!({ "type": "m.presence", "sender": id, "content": content }).to_string());
    }
    // The newest count, if the reader wants only some.
    events.drain(..events.len().saturating_sub(filter.most()));
    Ok(events)
}

/// The people whom the reader sees since they were told last: those in rooms that the reader has come into, and
/// those who have come into the reader's rooms.
pub fn newcomers(ask: &Ask<'_>, places: &[Place]) -> Result<BTreeSet<UserNo>> {
    let (look, store) = (ask.look, ask.look.store());
    let mut newcomers = BTreeSet::new();
    let Some(since) = ask.since.filter(|_| look.rooms.config.presence.enabled) else { return Ok(newcomers) };
    let known = store.live().presence_since(0);
    if known.is_empty() {
        return Ok(newcomers);
    }
    let (after, until) = (Position(since.position.0 + 1), Position(look.now.position.0 + 1));
    for place in places.iter().filter(|place| place.row.membership == MembershipState::Join) {
        let changes = store.range(STATE_DELTAS, &(place.room, after), &(place.room, until));
        let changes = changes.take(MOST_CHANGES + 1).collect::<Result<Vec<_>, _>>()?;
        if place.is_new(Some(since.position)) || changes.len() > MOST_CHANGES {
            for (user, _) in &known {
                let member = rooms::member(store, place.room, *user)?;
                newcomers.extend(member.filter(|row| row.membership == MembershipState::Join).map(|_| *user));
            }
            continue;
        }
        for ((_, _, key), delta) in changes {
            let Some(event) = delta.1.filter(|_| key.is_member()) else { continue };
            let event = &look.rooms.known(event)?.event;
            let user = event.state_key.as_deref().and_then(|key| <&UserId>::try_from(key).ok());
            if let Some(user) = user.filter(|_| event.membership() == Some(MembershipState::Join)) {
                newcomers.extend(numbers::find_user(store, user)?);
            }
        }
    }
    Ok(newcomers)
}

/// The users of this server in rooms of the reader.
fn neighbours(ask: &Ask<'_>) -> Result<BTreeSet<UserNo>> {
    let store = ask.look.store();
    let mut neighbours = BTreeSet::new();
    for row in store.scan(USER_ROOMS, &(ask.look.reader.number,)) {
        let ((_, room), row): ((UserNo, RoomNo), _) = row?;
        if row.membership == MembershipState::Join {
            for row in store.scan(LOCAL_MEMBERS, &(room,)) {
                neighbours.insert(row?.0.1);
            }
        }
    }
    Ok(neighbours)
}
