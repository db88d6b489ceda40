//! Authorization: whether an event is allowed by a state of its room.
//!
//! Three questions, each a function: which state an event must name ([`auth_types`]), whether the
//! `auth_events` of one from elsewhere are well chosen ([`check_auth_events`]), and whether a state
//! allows the event ([`check`]). The same event is checked against several states: its auth events, the
//! state before it, the current state, and in state resolution. What a user may do, without an event at
//! hand, is a question to [`PowerLevels`]. A [`Refusal`] is data, and reads as a sentence.
//!
//! Signatures are not checked here ([`super::sign`]), nor is the event's format ([`super::event`]).

pub mod create;
mod member;
pub mod power;
mod types;

use std::{borrow::Cow, cell::OnceCell, fmt, sync::Arc};

use ruma::{OwnedEventId, OwnedServerName, OwnedUserId, UserId};

pub use self::{
    power::{Power, PowerLevels},
    types::{auth_types, auth_types_of},
};
use super::{canonical::Value, event::Event, version::Rules};

/// Why an event is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A create event with previous events.
    CreateAfterOthers,
    /// A create event whose room ID is of another server than its sender.
    RoomOfAnotherServer,
    UnknownRoomVersion,
    NoCreator,
    BadAdditionalCreators,

    /// The state has no create event for this room.
    NoCreate,
    /// The room does not federate, and the sender is from elsewhere.
    NotFederated,

    DuplicateAuthEvent {
        kind: String,
        state_key: String,
    },
    UnexpectedAuthEvent {
        event_id: OwnedEventId,
    },
    RejectedAuthEvent {
        event_id: OwnedEventId,
    },
    AuthEventOfAnotherRoom {
        event_id: OwnedEventId,
    },

    /// It was rejected when it came in as an auth event, or in a state.
    RejectedBefore,
    /// Another event has its ID (versions 1 and 2).
    IdTaken,
    /// The room's policy server has not signed it.
    NotApproved {
        policy_server: OwnedServerName,
    },

    NoStateKey,
    NoMembership,
    UnknownMembership {
        membership: String,
    },
    NotInRoom {
        user: OwnedUserId,
    },
    Banned {
        user: String,
    },
    NotInvited,
    AlreadyInvited,
    AlreadyJoined {
        user: String,
    },
    NotYourMembership,
    JoinRuleForbids {
        rule: String,
    },
    /// A restricted join without somebody in the room who may let the user in.
    NotAuthorised,
    ThirdPartyInvite {
        why: &'static str,
    },
    NothingToLeave,
    PowerTooLow {
        has: Power,
        needs: i64,
    },
    /// The other user has as much power or more.
    TargetTooPowerful {
        user: String,
        has: Power,
    },

    /// The state key is another user's ID.
    StateKeyOfAnother {
        state_key: String,
    },
    /// `m.room.aliases` in another server's name (versions 1 to 5).
    AliasesOfAnotherServer,
    BadPowerLevels {
        what: String,
    },
    CreatorInPowerLevels {
        user: OwnedUserId,
    },
    /// A power level that the sender's power does not reach is changed or set.
    LevelTooHigh {
        what: String,
        level: i64,
        has: Power,
    },
    /// A redaction of another server's event without the power (versions 1 and 2).
    RedactionOfAnother,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateAfterOthers => f.write_str("a room can only be created by its first event"),
            Self::RoomOfAnotherServer => f.write_str("the room's ID names another server than its creator's"),
            Self::UnknownRoomVersion => f.write_str("the room's version is not one that this server knows"),
            Self::NoCreator => f.write_str("the create event must say who the creator is"),
            Self::BadAdditionalCreators => f.write_str("additional_creators must be a list of user IDs"),
            Self::NoCreate => f.write_str("there is no create event for this room"),
            Self::NotFederated => f.write_str("this room is only for users of the server that it was created on"),
            Self::DuplicateAuthEvent { kind, state_key } => {
                write!(f, "the event names two auth events for {kind} {state_key:?}")
            }
            Self::UnexpectedAuthEvent { event_id } => {
                write!(f, "the auth event {event_id} has no say in whether this event is allowed")
            }
            Self::RejectedAuthEvent { event_id } => write!(f, "the auth event {event_id} was itself rejected"),
            Self::AuthEventOfAnotherRoom { event_id } => write!(f, "the auth event {event_id} is of another room"),
            Self::IdTaken => f.write_str("another event has this ID"),
            Self::RejectedBefore => f.write_str("the event was rejected before"),
            Self::NotApproved { policy_server } => {
                write!(f, "the room's policy server, {policy_server}, has not signed it")
            }
            Self::NoStateKey => f.write_str("this event type needs a state_key"),
            Self::NoMembership => f.write_str("the content must have a membership"),
            Self::UnknownMembership { membership } => {
                write!(f, "there is no membership {membership:?} in this room version")
            }
            Self::NotInRoom { user } => write!(f, "{user} is not in the room"),
            Self::Banned { user } => write!(f, "{user} is banned from the room"),
            Self::NotInvited => f.write_str("joining this room needs an invitation"),
            Self::AlreadyInvited => f.write_str("you are already invited to this room"),
            Self::AlreadyJoined { user } => write!(f, "{user} is already in the room"),
            Self::NotYourMembership => f.write_str("nobody can join or knock in another user's name"),
            Self::JoinRuleForbids { rule } => write!(f, "the room's join rule {rule:?} does not allow this"),
            Self::NotAuthorised => {
                f.write_str("joining this room needs an invitation, or somebody in the room who may let you in")
            }
            Self::ThirdPartyInvite { why } => write!(f, "the third-party invitation does not hold: {why}"),
            Self::NothingToLeave => f.write_str("only who is in the room, invited or knocking can leave"),
            Self::PowerTooLow { has, needs } => {
                write!(f, "this needs a power level of {needs}, and the sender has {has}")
            }
            Self::TargetTooPowerful { user, has } => {
                write!(f, "{user} has a power level of {has}, which is not below the sender's")
            }
            Self::StateKeyOfAnother { state_key } => {
                write!(f, "only {state_key} can send state with their user ID as the state key")
            }
            Self::AliasesOfAnotherServer => f.write_str("aliases can only be set in the name of the sender's server"),
            Self::BadPowerLevels { what } => write!(f, "{what} is not a valid entry of power levels"),
            Self::CreatorInPowerLevels { user } => {
                write!(f, "{user} created the room and cannot be given a power level")
            }
            Self::LevelTooHigh { what, level, has } => {
                write!(f, "the level {level} of {what} is out of reach for the sender, who has {has}")
            }
            Self::RedactionOfAnother => f.write_str("redacting another server's event needs the redact power level"),
        }
    }
}

impl std::error::Error for Refusal {}

/// Whether the `auth_events` of an event are well chosen. `auth_events` yields each of them, and
/// whether it was rejected; that all of them are there is the caller's care.
/// Spec: rooms/v12#authorisation-rules (3)
pub fn check_auth_events<'a>(
    rules: &Rules,
    event: &Event,
    auth_events: impl IntoIterator<Item = (&'a Event, bool)>,
) -> Result<(), Refusal> {
    let expected = auth_types_of(event, rules);
    let mut seen: Vec<(&str, &str)> = Vec::with_capacity(expected.len());
    for (auth, rejected) in auth_events {
        let event_id = || auth.event_id.clone();
        let Some((kind, state_key)) = auth.key() else {
            return Err(Refusal::UnexpectedAuthEvent { event_id: event_id() });
        };
        if seen.contains(&(kind, state_key)) {
            return Err(Refusal::DuplicateAuthEvent { kind: kind.to_owned(), state_key: state_key.to_owned() });
        }
        if !expected.iter().any(|(wanted, key)| *wanted == kind && key == state_key) {
            return Err(Refusal::UnexpectedAuthEvent { event_id: event_id() });
        }
        if rejected {
            return Err(Refusal::RejectedAuthEvent { event_id: event_id() });
        }
        if auth.room_id != event.room_id {
            return Err(Refusal::AuthEventOfAnotherRoom { event_id: event_id() });
        }
        seen.push((kind, state_key));
    }
    let needs_create = !rules.room_id_is_hash && event.kind != "m.room.create";
    if needs_create && !seen.contains(&("m.room.create", "")) {
        return Err(Refusal::NoCreate);
    }
    Ok(())
}

/// Whether this state of the room allows the event. `state` looks up a state event by type and state
/// key; it must find the create event in every room version, also where that is no auth event.
/// Spec: server-server-api#authorisation-rules
pub fn check(rules: &Rules, event: &Event, state: impl Fn(&str, &str) -> Option<Arc<Event>>) -> Result<(), Refusal> {
    check_in(rules, event, &state, OnceCell::new())
}

/// As [`check`], with the state's power levels at hand: who checks many events against one state reads
/// them once.
pub fn check_with(
    rules: &Rules,
    event: &Event,
    levels: Arc<PowerLevels>,
    state: impl Fn(&str, &str) -> Option<Arc<Event>>,
) -> Result<(), Refusal> {
    check_in(rules, event, &state, OnceCell::from(levels))
}

fn check_in(
    rules: &Rules,
    event: &Event,
    state: &dyn Fn(&str, &str) -> Option<Arc<Event>>,
    levels: OnceCell<Arc<PowerLevels>>,
) -> Result<(), Refusal> {
    if event.kind == "m.room.create" {
        return create::check(rules, event);
    }
    let create = state("m.room.create", "").ok_or(Refusal::NoCreate)?;
    if create.room_id != event.room_id {
        return Err(Refusal::NoCreate);
    }
    if create.server() != event.server() && !create::federates(&create) {
        return Err(Refusal::NotFederated);
    }
    let room = Room { rules, create: &create, state, levels };
    match (&*event.kind, &event.state_key) {
        ("m.room.aliases", None) if rules.special_aliases => return Err(Refusal::NoStateKey),
        ("m.room.aliases", Some(server)) if rules.special_aliases => {
            let own = event.server() == server.as_str();
            return if own { Ok(()) } else { Err(Refusal::AliasesOfAnotherServer) };
        }
        ("m.room.member", _) => return member::check(rules, event, &room),
        _ => {}
    }
    room.require_joined(event)?;
    let levels = room.levels();
    if event.kind == "m.room.third_party_invite" {
        return room.require_level(event, levels.invite);
    }
    room.require_level(event, levels.needed_for(&event.kind, event.is_state()))?;
    if let Some(state_key) = &event.state_key
        && state_key.starts_with('@')
        && event.sender != state_key.as_str()
    {
        return Err(Refusal::StateKeyOfAnother { state_key: state_key.clone() });
    }
    match &*event.kind {
        "m.room.power_levels" => {
            let current = room.event("m.room.power_levels", "");
            power::check(rules, event, current.as_deref(), &create::creators(rules, &create), levels)
        }
        "m.room.redaction" if rules.redaction_in_auth => redaction(event, levels),
        _ => Ok(()),
    }
}

/// Spec: rooms/v1#authorisation-rules (11)
fn redaction(event: &Event, levels: &PowerLevels) -> Result<(), Refusal> {
    let redacts = event.redacts.as_ref().and_then(|id| id.server_name());
    if levels.can_redact_others(&event.sender) || (redacts.is_some() && redacts == event.event_id.server_name()) {
        Ok(())
    } else {
        Err(Refusal::RedactionOfAnother)
    }
}

/// A state of the room, as the rules ask for it.
struct Room<'a> {
    rules: &'a Rules,
    create: &'a Event,
    state: &'a dyn Fn(&str, &str) -> Option<Arc<Event>>,
    levels: OnceCell<Arc<PowerLevels>>,
}

impl Room<'_> {
    fn event(&self, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        (self.state)(kind, state_key)
    }

    fn levels(&self) -> &PowerLevels {
        self.levels.get_or_init(|| {
            let event = self.event("m.room.power_levels", "");
            Arc::new(PowerLevels::new(self.rules, Some(self.create), event.as_deref()))
        })
    }

    /// A user's membership; who has none has left.
    fn membership(&self, user: &str) -> Cow<'static, str> {
        let member = self.event("m.room.member", user);
        let membership = member.as_ref().and_then(|member| member.content_field::<Cow<'_, str>>("membership"));
        match membership.as_deref() {
            Some("join") => "join".into(),
            Some("leave") | None => "leave".into(),
            Some(other) => other.to_owned().into(),
        }
    }

    fn join_rule(&self) -> Cow<'static, str> {
        match self.event("m.room.join_rules", "").and_then(|event| event.content_value("join_rule")) {
            Some(Value::String(rule)) => rule.into(),
            // What is no text is no rule that anybody knows.
            Some(_) => "".into(),
            None => "invite".into(),
        }
    }

    fn require_joined(&self, event: &Event) -> Result<(), Refusal> {
        match &*self.membership(event.sender.as_str()) {
            "join" => Ok(()),
            "ban" => Err(Refusal::Banned { user: event.sender.to_string() }),
            _ => Err(Refusal::NotInRoom { user: event.sender.clone() }),
        }
    }

    fn require_level(&self, event: &Event, needs: i64) -> Result<(), Refusal> {
        let has = self.levels().user_level(&event.sender);
        if has.reaches(needs) { Ok(()) } else { Err(Refusal::PowerTooLow { has, needs }) }
    }

    fn require_above(&self, event: &Event, target: &str) -> Result<(), Refusal> {
        let levels = self.levels();
        let has = match <&UserId>::try_from(target) {
            Ok(user) => levels.user_level(user),
            // Who is no user cannot be removed from anything, and has the default.
            Err(_) => Power::Level(levels.users_default),
        };
        if has < levels.user_level(&event.sender) {
            Ok(())
        } else {
            Err(Refusal::TargetTooPowerful { user: target.to_owned(), has })
        }
    }
}

#[cfg(test)]
mod tests;
