//! Events as one user sees them: whether at all, and with what in `unsigned`.
//!
//! A [`Viewer`] is made per request and remembers what it has looked up, so that a page of events costs
//! one look at the state for each time the state changed.
//!
//! Spec: client-server-api#room-event-format (UnsignedData), client-server-api#server-behaviour-5 (visibility)

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeSet,
    fmt::Write as _,
    sync::Arc,
};

use ruma::{DeviceId, OwnedDeviceId, OwnedUserId, UserId, events::room::member::MembershipState};

use super::{Rooms, access, cache::Known, redaction, relations};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical,
        event::{ClientFormat, Event, client_format},
        visibility,
    },
    store::schema::{
        RoomNo, StateKeyNo, StateNo, UserNo,
        delayed::DELAYED_AS,
        events::{Standing, TRANSACTION_OF},
        numbers,
        rooms::{USER_ROOMS, UserRoomRow},
        users::{ACCOUNT_DATA, GLOBAL},
    },
};

/// Somebody who looks at rooms.
pub struct Viewer<'a> {
    rooms: &'a Rooms,
    user: OwnedUserId,
    number: Option<UserNo>,
    device: Option<OwnedDeviceId>,
    now: u64,
    /// The membership and visibility at the state that was looked at last.
    last: RefCell<Option<(StateNo, Seen)>>,
    /// The room that was looked at last, and how the viewer stands towards it.
    place: RefCell<Option<(RoomNo, Place)>>,
    /// Whose messages the viewer does not want to see.
    ignored: OnceCell<BTreeSet<String>>,
    keys: (Option<StateKeyNo>, Option<StateKeyNo>),
}

/// What a state says about a viewer.
#[derive(Debug, Clone)]
struct Seen {
    membership: MembershipState,
    visibility: visibility::HistoryVisibility,
}

/// How a viewer stands towards a room now.
#[derive(Debug, Clone)]
struct Place {
    row: Option<UserRoomRow>,
    /// The event with which they left, if they have been in it and are not any more.
    left: Option<Arc<Known>>,
}

impl<'a> Viewer<'a> {
    /// A user on a device of theirs.
    pub fn new(rooms: &'a Rooms, user: &UserId, device: Option<&DeviceId>) -> Result<Self> {
        Ok(Self {
            rooms,
            user: user.to_owned(),
            number: numbers::find_user(&rooms.store, user)?,
            device: device.map(ToOwned::to_owned),
            now: rooms.clock.now(),
            last: RefCell::default(),
            place: RefCell::default(),
            ignored: OnceCell::new(),
            keys: (rooms.state_key("m.room.member", user.as_str())?, rooms.state_key("m.room.history_visibility", "")?),
        })
    }

    /// Whether the viewer may see an event of a room's timeline.
    pub fn may_see(&self, known: &Known) -> Result<bool> {
        if matches!(known.standing, Standing::SoftFailed | Standing::Rejected) {
            return Ok(false);
        }
        let Some(before) = known.before else { return Ok(false) };
        if known.event.kind == "m.room.redaction" && !redaction::takes_effect(self.rooms, known)? {
            return Ok(false);
        }
        let at = self.at(before)?;
        let own = known.event.is("m.room.member", self.user.as_str());
        let after = match (own, known.event.membership()) {
            (true, Some(membership)) => membership,
            _ => at.membership.clone(),
        };
        let visibility_after = match known.event.is("m.room.history_visibility", "") {
            true => visibility::of(&known.event),
            false => at.visibility,
        };
        if visibility::allows_at(at.visibility, &at.membership) || visibility::allows_at(visibility_after, &after) {
            return Ok(true);
        }
        // `shared` also shows what was before one joined, to those who have joined since.
        let shared = [at.visibility, visibility_after].contains(&visibility::HistoryVisibility::Shared);
        Ok(shared && self.joined_since(known)?)
    }

    /// Whether a message is hidden from the viewer because its sender has asked to be erased: those who were in the
    /// room when it was sent go on seeing it.
    ///
    /// Spec: client-server-api#post_matrixclientv3accountdeactivate
    pub fn hides(&self, known: &Known) -> Result<bool> {
        if known.event.is_state() || !self.rooms.is_local(&known.event.sender) {
            return Ok(false);
        }
        match known.before {
            Some(before) if self.rooms.users.is_erased(&known.event.sender)? => {
                Ok(self.at(before)?.membership != MembershipState::Join)
            }
            _ => Ok(false),
        }
    }

    /// The event as far as the viewer may read it.
    pub fn readable(&self, known: &Known) -> Result<Arc<Event>> {
        match self.hides(known)? {
            false => Ok(Arc::clone(&known.event)),
            true => redacted(self.rooms, known),
        }
    }

    /// Who is looking.
    pub fn user(&self) -> &UserId {
        &self.user
    }

    /// Whether this is a message of somebody whom the viewer ignores. State is shown nevertheless.
    ///
    /// Spec: client-server-api#ignoring-users
    pub fn ignores(&self, known: &Known) -> Result<bool> {
        if known.event.is_state() || known.event.sender == self.user {
            return Ok(false);
        }
        Ok(self.ignored()?.contains(known.event.sender.as_str()))
    }

    /// Whose messages the viewer does not want to see.
    pub fn ignored(&self) -> Result<&BTreeSet<String>> {
        if let Some(ignored) = self.ignored.get() {
            return Ok(ignored);
        }
        let list = match self.number {
            Some(user) => self.rooms.store.get(ACCOUNT_DATA, &(user, GLOBAL, "m.ignored_user_list".to_owned()))?,
            None => None,
        };
        let list: Option<serde_json::Value> = list.and_then(|row| serde_json::from_str(&row.json).ok());
        let users = list.as_ref().and_then(|list| list.get("ignored_users")?.as_object());
        let users = users.into_iter().flat_map(|users| users.keys().cloned()).collect();
        Ok(self.ignored.get_or_init(|| users))
    }

    /// Whether the viewer has forgotten a room.
    pub fn has_forgotten(&self, room: RoomNo) -> Result<bool> {
        Ok(self.place(room)?.row.is_some_and(|row| row.forgotten))
    }

    /// Whether the viewer has been in the room at some time after an event.
    fn joined_since(&self, known: &Known) -> Result<bool> {
        let place = self.place(known.room)?;
        if place.row.is_some_and(|row| row.membership == MembershipState::Join) {
            return Ok(true);
        }
        // Somebody who has left sees what was shared up to the moment of leaving.
        let before = |left: Arc<Known>| (known.event.depth, known.number) < (left.event.depth, left.number);
        Ok(place.left.is_some_and(before))
    }

    fn place(&self, room: RoomNo) -> Result<Place> {
        if let Some((last, place)) = &*self.place.borrow()
            && *last == room
        {
            return Ok(place.clone());
        }
        let row = match self.number {
            Some(user) => self.rooms.store.get(USER_ROOMS, &(user, room))?,
            None => None,
        };
        let left = match &row {
            Some(row) if row.membership != MembershipState::Join => access::departure(self.rooms, row.event)?,
            _ => None,
        };
        let place = Place { row, left };
        *self.place.borrow_mut() = Some((room, place.clone()));
        Ok(place)
    }

    fn at(&self, number: StateNo) -> Result<Seen> {
        if let Some((last, seen)) = &*self.last.borrow()
            && *last == number
        {
            return Ok(seen.clone());
        }
        let state = self.rooms.state(number)?;
        let event = |key: Option<StateKeyNo>| -> Result<Option<Arc<Known>>> {
            key.and_then(|key| state.get(key)).map(|number| self.rooms.known(number)).transpose()
        };
        let membership = event(self.keys.0)?.and_then(|known| known.event.membership());
        let seen = Seen {
            membership: membership.unwrap_or(MembershipState::Leave),
            visibility: event(self.keys.1)?.map_or_else(Default::default, |known| visibility::of(&known.event)),
        };
        *self.last.borrow_mut() = Some((number, seen.clone()));
        Ok(seen)
    }

    /// The event as this viewer's client gets it. `/sync` leaves out the room ID.
    pub fn event(&self, known: &Known, room_id: bool) -> Result<String> {
        let event = self.readable(known)?;
        let unsigned = self.unsigned(known, true)?;
        Ok(client_format(&event, &ClientFormat { room_id, unsigned: Some(&unsigned) }))
    }

    /// The event without what is bundled with it.
    pub fn bare(&self, known: &Known) -> Result<String> {
        let event = self.readable(known)?;
        let unsigned = self.unsigned(known, false)?;
        Ok(client_format(&event, &ClientFormat { room_id: true, unsigned: Some(&unsigned) }))
    }

    /// The same for an event in a list of state, which has no place in time: nothing is said of the viewer
    /// and of what it replaced, so that no older state is looked at.
    pub fn state_event(&self, known: &Known, room_id: bool) -> Result<String> {
        let mut unsigned = self.age(known);
        self.redacted_because(known, &mut unsigned)?;
        unsigned.push('}');
        Ok(client_format(&known.event, &ClientFormat { room_id, unsigned: Some(&unsigned) }))
    }

    fn age(&self, known: &Known) -> String {
        let age = i128::from(self.now) - i128::from(known.event.origin_server_ts);
        format!("{{\"age\":{age}")
    }

    fn redacted_because(&self, known: &Known, out: &mut String) -> Result<()> {
        let Some(redaction) = known.redacted_by else { return Ok(()) };
        let redaction = self.rooms.known(redaction)?;
        let mut unsigned = self.age(&redaction);
        unsigned.push('}');
        let because = client_format(&redaction.event, &ClientFormat { room_id: true, unsigned: Some(&unsigned) });
        text(out, "redacted_by", redaction.event.event_id.as_str());
        let _ = write!(out, ",\"redacted_because\":{because}");
        Ok(())
    }

    fn unsigned(&self, known: &Known, bundled: bool) -> Result<String> {
        let mut out = self.age(known);
        if let Some(before) = known.before {
            let own = known.event.is("m.room.member", self.user.as_str());
            let membership = match known.event.membership().filter(|_| own) {
                Some(membership) => membership,
                None => self.at(before)?.membership,
            };
            text(&mut out, "membership", membership.as_str());
        }
        self.redacted_because(known, &mut out)?;
        if let Some(replaced) = known.replaces {
            let replaced = self.rooms.known(replaced)?;
            text(&mut out, "prev_sender", replaced.event.sender.as_str());
            text(&mut out, "replaces_state", replaced.event.event_id.as_str());
            let _ = write!(out, ",\"prev_content\":{}", replaced.event.content());
        }
        if bundled && let Some(bundle) = relations::bundle(self.rooms, self, known)? {
            let _ = write!(out, ",\"m.relations\":{bundle}");
        }
        if let Some(transaction) = self.transaction(known)? {
            text(&mut out, "transaction_id", &transaction);
        }
        if known.event.sender == self.user
            && let Some(delayed) = self.rooms.store.get(DELAYED_AS, &known.number)?
        {
            text(&mut out, "org.matrix.msc4140.delay_id", &delayed);
        }
        out.push('}');
        Ok(out)
    }

    /// The transaction ID with which this very device sent the event.
    fn transaction(&self, known: &Known) -> Result<Option<String>> {
        let Some(device) = self.device.as_ref().filter(|_| known.event.sender == self.user) else { return Ok(None) };
        let row = self.rooms.store.get(TRANSACTION_OF, &known.number)?;
        Ok(row.filter(|row| Some(row.user) == self.number && row.device == device.as_str()).map(|row| row.id))
    }
}

/// An event without what it says.
pub fn redacted(rooms: &Rooms, known: &Known) -> Result<Arc<Event>> {
    let room = rooms.open(known.room)?.ok_or_else(|| Error::internal("an event without a room"))?;
    Ok(Arc::new(known.event.redacted(room.rules)))
}

/// Appends `,"name":"value"`.
fn text(out: &mut String, name: &str, value: &str) {
    let _ = write!(out, ",\"{name}\":");
    canonical::write_string(out, value);
}
