//! What a push gateway is told: of one event, or only of how much is unread.
//!
//! Spec: push-gateway-api#post_matrixpushv1notify

use ruma::{UserId, events::room::member::MembershipState};
use serde_json::{Map, Value, json};

use crate::{
    error::{Error, Result},
    rooms::{
        Rooms,
        unread::{self, News},
    },
    store::schema::{
        RoomNo, UserNo,
        events::EVENTS,
        numbers,
        push::PusherRow,
        rooms::{STRIPPED_STATE, USER_ROOMS},
    },
    users::pushers::Key,
};

/// How much a user has not attended to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// How many events and invites are unread.
    pub unread: u64,
    /// How many calls were missed.
    pub missed_calls: u64,
}

impl Counts {
    /// As it is now.
    pub fn of(rooms: &Rooms, user: UserNo) -> Result<Self> {
        let mut counts = Self::default();
        for row in rooms.store.scan(USER_ROOMS, &(user,)) {
            let ((_, room), row) = row?;
            if unread::is_open(&row) {
                let tally = rooms.unread.of(&rooms.store, user, room)?;
                counts.unread += tally.items().count() as u64;
                counts.missed_calls += tally.items().filter(|item| item.call).count() as u64;
            }
        }
        Ok(counts)
    }

    /// Counts that are zero are left out, but for the one that takes a number off an icon.
    fn json(self) -> Value {
        match self.missed_calls {
            0 => json!({ "unread": self.unread }),
            missed => json!({ "unread": self.unread, "missed_calls": missed }),
        }
    }
}

/// Whom a notice is for.
pub struct To<'a> {
    /// The user.
    pub user: UserNo,
    /// By what the pusher is known.
    pub key: &'a Key,
    /// The pusher.
    pub pusher: &'a PusherRow,
}

impl To<'_> {
    fn data(&self) -> Map<String, Value> {
        serde_json::from_str(&self.pusher.data).unwrap_or_default()
    }

    fn device(&self, tweaks: Map<String, Value>) -> Value {
        let mut device = json!({
            "app_id": self.key.app_id,
            "pushkey": self.key.pushkey,
            "pushkey_ts": self.pusher.set_at / 1_000,
            "data": self.data(),
        });
        if !tweaks.is_empty() {
            device["tweaks"] = tweaks.into();
        }
        device
    }
}

/// Tells how much is unread, and nothing else.
pub fn badge(to: &To<'_>, counts: Counts) -> String {
    let notification = json!({ "counts": counts.json(), "prio": "low", "devices": [to.device(Map::new())] });
    json!({ "notification": notification }).to_string()
}

/// Tells of an event; nothing of one that is not there any more.
pub fn event(rooms: &Rooms, to: &To<'_>, news: &News, counts: Counts) -> Result<Option<String>> {
    let Some(told) = news.row.to(to.user) else { return Ok(None) };
    // A room may have been emptied meanwhile.
    if !rooms.store.contains(EVENTS, &news.row.event)? {
        return Ok(None);
    }
    let event = &rooms.known(news.row.event)?.event;
    let tweaks = tweaks(told.actions.as_deref())?;
    // What is encrypted may be loud as well.
    let loud = tweaks.contains_key("sound") || told.highlight || event.kind == "m.room.encrypted";
    let mut notification = json!({
        "event_id": event.event_id,
        "room_id": event.room_id,
        "prio": if loud { "high" } else { "low" },
        "counts": counts.json(),
        "devices": [to.device(tweaks)],
    });
    if to.data().get("format").and_then(Value::as_str) != Some("event_id_only") {
        notification["type"] = event.kind.as_str().into();
        notification["sender"] = event.sender.as_str().into();
        notification["content"] = serde_json::from_str(event.content()).map_err(Error::internal)?;
        if event.kind == "m.room.member" {
            let user = numbers::user_id(&rooms.store, to.user)?;
            notification["user_is_target"] = (event.state_key.as_deref() == user.as_deref().map(UserId::as_str)).into();
        }
        let room =
            Room { rooms, room: news.room, user: to.user, invite: event.membership() == Some(MembershipState::Invite) };
        let texts = [
            ("sender_display_name", room.text("m.room.member", event.sender.as_str(), "displayname")?),
            ("room_name", room.text("m.room.name", "", "name")?),
            ("room_alias", room.text("m.room.canonical_alias", "", "alias")?),
        ];
        for (field, text) in texts {
            if let Some(text) = text {
                notification[field] = text.into();
            }
        }
    }
    Ok(Some(json!({ "notification": notification }).to_string()))
}

/// What the actions of a rule set, by name.
fn tweaks(actions: Option<&str>) -> Result<Map<String, Value>> {
    let actions: Vec<Value> = serde_json::from_str(actions.unwrap_or("[]")).map_err(Error::internal)?;
    let tweak = |action: Value| {
        let name = action.get("set_tweak")?.as_str()?.to_owned();
        // A highlight without a value is one.
        let value = action.get("value").cloned().or_else(|| (name == "highlight").then_some(Value::Bool(true)))?;
        Some((name, value))
    };
    Ok(actions.into_iter().filter_map(tweak).collect())
}

/// The room of an event, for somebody who is in it or invited.
struct Room<'a> {
    rooms: &'a Rooms,
    room: RoomNo,
    user: UserNo,
    invite: bool,
}

impl Room<'_> {
    /// What a field of the room's state says, if it is a text that is not empty.
    fn text(&self, kind: &str, key: &str, field: &str) -> Result<Option<String>> {
        let state = self.rooms.current(self.room)?;
        let mut text: Option<String> =
            self.rooms.in_state(&state, kind, key)?.and_then(|known| known.event.content_field(field));
        if text.is_none() && self.invite {
            let stripped = self.rooms.store.get(STRIPPED_STATE, &(self.user, self.room))?.unwrap_or_default();
            let shown = stripped.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
            let mut shown = shown.filter(|event| event["type"] == kind && event["state_key"] == key);
            text = shown.next().and_then(|event| event["content"][field].as_str().map(str::to_owned));
        }
        Ok(text.filter(|text| !text.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_sets_is_told_by_name() {
        let actions =
            r#"["notify",{"set_tweak":"sound","value":"bing"},{"set_tweak":"highlight"},{"set_tweak":"x"},"coalesce"]"#;
        let tweaks = Value::Object(tweaks(Some(actions)).unwrap());
        assert_eq!(tweaks, json!({ "sound": "bing", "highlight": true }));
    }

    #[test]
    fn a_count_that_is_zero_takes_the_number_off_the_icon() {
        assert_eq!(Counts::default().json(), json!({ "unread": 0 }));
        assert_eq!(Counts { unread: 3, missed_calls: 1 }.json(), json!({ "unread": 3, "missed_calls": 1 }));
    }
}
