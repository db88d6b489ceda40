//! Power levels: who may do what in a room.
//!
//! [`PowerLevels`] is the room's `m.room.power_levels` read once, with every default filled in, and
//! (from version 12) its creators above all levels. The check of a *new* power levels event is here too.
//!
//! Spec: server-server-api#definitions, rooms/v12#authorisation-rules

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use ruma::{OwnedUserId, UserId};

use super::{Refusal, create};
use crate::protocol::{
    canonical::{Numbers, Object, Value, parse_object},
    event::{Event, MAX_FIELD},
    version::Rules,
};

/// How much power a user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    Level(i64),
    /// A creator's, from version 12: above every level.
    Infinite,
}

impl Power {
    /// Whether this suffices for what needs that level.
    pub fn reaches(self, level: i64) -> bool {
        self >= Self::Level(level)
    }
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level(level) => level.fmt(f),
            Self::Infinite => f.write_str("unlimited"),
        }
    }
}

/// The power levels of a room, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PowerLevels {
    pub ban: i64,
    pub kick: i64,
    pub invite: i64,
    pub redact: i64,
    pub users_default: i64,
    pub events_default: i64,
    pub state_default: i64,
    pub users: BTreeMap<String, i64>,
    pub events: BTreeMap<String, i64>,
    /// What it needs to notify, by the key of the push rule condition; `room` has a default.
    pub notifications: BTreeMap<String, i64>,
    /// Who stands above all levels. Empty before version 12.
    pub creators: BTreeSet<OwnedUserId>,
}

impl PowerLevels {
    /// The levels of a room with this create event and, if it has one, this power levels event.
    pub fn new(rules: &Rules, create: Option<&Event>, power_levels: Option<&Event>) -> Self {
        let creators = create.map(|create| create::creators(rules, create)).unwrap_or_default();
        let mut levels = match power_levels {
            Some(event) => Self::from_content(&content(event), rules),
            // Before there are power levels, the creator has 100.
            None => Self {
                users: creators.iter().map(|creator| (creator.to_string(), 100)).collect(),
                ..Self::from_content(&Object::new(), rules)
            },
        };
        if rules.privileged_creators {
            levels.users.retain(|user, _| !creators.iter().any(|creator| creator == user));
            levels.creators = creators;
        }
        levels
    }

    /// The levels that the content of a power levels event gives, without creators.
    pub fn from_content(content: &Object, rules: &Rules) -> Self {
        let named = |name: &str, default| content.get(name).and_then(|value| level(value, rules)).unwrap_or(default);
        let map = |name: &str| -> BTreeMap<String, i64> {
            let entries = content.get(name).and_then(Value::as_object);
            entries.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), level(value, rules)?))).collect()
        };
        Self {
            ban: named("ban", 50),
            kick: named("kick", 50),
            invite: named("invite", 0),
            redact: named("redact", 50),
            users_default: named("users_default", 0),
            events_default: named("events_default", 0),
            state_default: named("state_default", 50),
            users: map("users"),
            events: map("events"),
            notifications: map("notifications"),
            creators: BTreeSet::new(),
        }
    }

    /// How much power this user has.
    pub fn user_level(&self, user: &UserId) -> Power {
        if self.creators.contains(user) {
            return Power::Infinite;
        }
        Power::Level(self.users.get(user.as_str()).copied().unwrap_or(self.users_default))
    }

    /// The required power level of an event type. Spec: server-server-api#definitions
    pub fn needed_for(&self, kind: &str, is_state: bool) -> i64 {
        let default = if is_state { self.state_default } else { self.events_default };
        self.events.get(kind).copied().unwrap_or(default)
    }

    /// What it needs to notify everybody with this key, such as `room`.
    /// Spec: client-server-api#mroompower_levels
    pub fn needed_to_notify(&self, key: &str) -> i64 {
        self.notifications.get(key).copied().unwrap_or(50)
    }

    /// Whether the user has the power to send events of this type.
    pub fn can_send(&self, user: &UserId, kind: &str, is_state: bool) -> bool {
        self.user_level(user).reaches(self.needed_for(kind, is_state))
    }

    pub fn can_invite(&self, user: &UserId) -> bool {
        self.user_level(user).reaches(self.invite)
    }

    /// Whether the user has the power to remove the other one.
    pub fn can_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user).reaches(self.kick) && self.user_level(target) < self.user_level(user)
    }

    /// Whether the user has the power to ban the other one.
    pub fn can_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user).reaches(self.ban) && self.user_level(target) < self.user_level(user)
    }

    /// Whether the user has the power to undo the other one's ban: it is a kick of a banned user.
    pub fn can_unban(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user).reaches(self.ban) && self.can_kick(user, target)
    }

    /// Whether the user has the power to redact other people's events.
    pub fn can_redact_others(&self, user: &UserId) -> bool {
        self.user_level(user).reaches(self.redact)
    }

    /// Whether a redaction by this user takes effect on an event by that one: users of one server
    /// may redact each other's. Spec: rooms/v12#handling-redactions
    pub fn can_redact(&self, user: &UserId, author: &UserId) -> bool {
        user.server_name() == author.server_name() || self.can_redact_others(user)
    }

    /// Whether the user has the power to notify everybody with this key, such as `room`.
    pub fn can_notify(&self, user: &UserId, key: &str) -> bool {
        self.user_level(user).reaches(self.needed_to_notify(key))
    }
}

const NAMED: [&str; 7] = ["users_default", "events_default", "state_default", "ban", "redact", "kick", "invite"];

/// Whether the sender may set these power levels. `levels` are those in force, `current` the event
/// that they come from. Spec: rooms/v12#authorisation-rules (10)
pub(super) fn check(
    rules: &Rules,
    event: &Event,
    current: Option<&Event>,
    creators: &BTreeSet<OwnedUserId>,
    levels: &PowerLevels,
) -> Result<(), Refusal> {
    let new = content(event);
    check_shape(rules, &new)?;
    let users = new.get("users").and_then(Value::as_object);
    if rules.privileged_creators
        && let Some(creator) =
            creators.iter().find(|creator| users.is_some_and(|users| users.contains_key(creator.as_str())))
    {
        return Err(Refusal::CreatorInPowerLevels { user: creator.clone() });
    }
    let Some(current) = current else { return Ok(()) };
    let old = content(current);
    let power = levels.user_level(&event.sender);
    let empty = Object::new();
    check_entries(rules, &pick(&old), &pick(&new), |name, from, to| limit(power, name, from, to))?;
    for map in ["events", "notifications"] {
        if map == "notifications" && !rules.limited_notifications {
            continue;
        }
        let entries = |content: &Object| content.get(map).and_then(Value::as_object).unwrap_or(&empty).clone();
        check_entries(rules, &entries(&old), &entries(&new), |name, from, to| limit(power, name, from, to))?;
    }
    let entries = |content: &Object| content.get("users").and_then(Value::as_object).unwrap_or(&empty).clone();
    check_entries(rules, &entries(&old), &entries(&new), |name, from, to| {
        if name != event.sender.as_str()
            && let Some(from) = from
            && Power::Level(from) >= power
        {
            return Err(Refusal::LevelTooHigh { what: name.to_owned(), level: from, has: power });
        }
        limit(power, name, None, to)
    })
}

/// The levels that stand at the top of the content.
fn pick(content: &Object) -> Object {
    NAMED.iter().filter_map(|name| Some((name.to_string(), content.get(*name)?.clone()))).collect()
}

/// Calls `allowed` for each entry that is added, removed or changed.
fn check_entries(
    rules: &Rules,
    old: &Object,
    new: &Object,
    allowed: impl Fn(&str, Option<i64>, Option<i64>) -> Result<(), Refusal>,
) -> Result<(), Refusal> {
    for name in old.keys().chain(new.keys().filter(|name| !old.contains_key(*name))) {
        let from = old.get(name).and_then(|value| level(value, rules));
        let to = new.get(name).and_then(|value| level(value, rules));
        if from != to {
            allowed(name, from, to)?;
        }
    }
    Ok(())
}

fn limit(power: Power, name: &str, from: Option<i64>, to: Option<i64>) -> Result<(), Refusal> {
    for level in [from, to].into_iter().flatten() {
        if !power.reaches(level) {
            return Err(Refusal::LevelTooHigh { what: name.to_owned(), level, has: power });
        }
    }
    Ok(())
}

/// Whether every level is a level. Before version 10 the text asks this of `users` only; that the
/// others can be read at all is asked too, as every server does in its own way.
fn check_shape(rules: &Rules, content: &Object) -> Result<(), Refusal> {
    for name in NAMED {
        if content.get(name).is_some_and(|value| level(value, rules).is_none()) {
            return Err(Refusal::BadPowerLevels { what: name.to_owned() });
        }
    }
    for name in ["events", "notifications", "users"] {
        let Some(value) = content.get(name) else { continue };
        if name == "notifications" && !rules.limited_notifications {
            continue;
        }
        let entries = value.as_object().ok_or_else(|| Refusal::BadPowerLevels { what: name.to_owned() })?;
        for (key, value) in entries {
            let is_user = || key.len() <= MAX_FIELD && <&UserId>::try_from(key.as_str()).is_ok();
            if level(value, rules).is_none() || (name == "users" && !is_user()) {
                return Err(Refusal::BadPowerLevels { what: format!("{name}.{key}") });
            }
        }
    }
    Ok(())
}

/// A power level as this room version reads it. Spec: rooms/v10#values-in-mroompower_levels-events-must-be-integers
fn level(value: &Value, rules: &Rules) -> Option<i64> {
    match value {
        Value::Int(int) => Some(*int),
        Value::String(text) if !rules.integer_levels => stringy(text),
        Value::Lexeme(number) => floaty(number),
        _ => None,
    }
}

/// Spec: rooms/v1#mroompower_levels-events-accept-values-as-strings
fn stringy(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Spec: rooms/v1#mroompower_levels-events-accept-values-as-floats
fn floaty(number: &str) -> Option<i64> {
    let float = number.parse::<f64>().ok()?.trunc();
    (float.abs() < i64::MAX as f64).then_some(float as i64)
}

fn content(event: &Event) -> Object {
    parse_object(event.content().as_bytes(), Numbers::Lax).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::version::by_name;

    fn levels(version: &str, content: &str) -> PowerLevels {
        PowerLevels::from_content(&parse_object(content.as_bytes(), Numbers::Lax).unwrap(), by_name(version).unwrap())
    }

    #[test]
    fn what_is_not_said_has_its_default() {
        let levels = levels("12", "{}");
        let ann = <&UserId>::try_from("@ann:a").unwrap();
        assert_eq!((levels.ban, levels.kick, levels.redact, levels.invite), (50, 50, 50, 0));
        assert_eq!((levels.needed_for("x", true), levels.needed_for("x", false)), (50, 0));
        assert_eq!(levels.needed_to_notify("room"), 50);
        assert_eq!(levels.user_level(ann), Power::Level(0));
    }

    #[test]
    fn strings_and_floats_are_levels_in_old_rooms_only() {
        let ban = |version, text: &str| levels(version, &format!(r#"{{"ban":{text}}}"#)).ban;
        for (text, level) in
            [("\" 00100 \"", 100), ("\"+7\"", 7), ("\"-7\"", -7), ("\"1.5\"", 50), ("\"\"", 50), ("\"+-1\"", 50)]
        {
            assert_eq!(ban("9", text), level, "{text}");
            assert_eq!(ban("10", text), 50, "{text}");
        }
        assert_eq!(ban("1", "60.57"), 60);
        assert_eq!(ban("1", "5.114698E4"), 51146);
        assert_eq!(ban("1", "1e300"), 50);
    }

    #[test]
    fn creators_stand_above_every_level() {
        assert!(Power::Infinite > Power::Level(i64::MAX));
        assert!(Power::Infinite.reaches(i64::MAX));
        assert!(!Power::Level(49).reaches(50));
    }
}
