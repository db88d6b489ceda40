//! The rules for `m.room.member`.
//!
//! That a restricted join is signed by the authorising server is part of checking signatures
//! ([`crate::protocol::sign::signers`]), and is not asked again here.
//!
//! Spec: rooms/v12#authorisation-rules (5)

use std::borrow::Cow;

use ruma::UserId;

use super::{Refusal, Room, create};
use crate::protocol::{
    canonical::{Value, write_without},
    event::Event,
    sign::PublicKey,
    version::Rules,
};

pub(super) fn check(rules: &Rules, event: &Event, room: &Room<'_>) -> Result<(), Refusal> {
    let Some(target) = &event.state_key else { return Err(Refusal::NoStateKey) };
    let Some(membership) = event.content_field::<Cow<'_, str>>("membership") else {
        return Err(Refusal::NoMembership);
    };
    match &*membership {
        "join" => join(rules, event, target, room),
        "invite" => invite(event, target, room),
        "leave" => leave(rules, event, target, room),
        "ban" => ban(event, target, room),
        "knock" if rules.knocking => knock(rules, event, target, room),
        other => Err(Refusal::UnknownMembership { membership: other.to_owned() }),
    }
}

fn join(rules: &Rules, event: &Event, target: &str, room: &Room<'_>) -> Result<(), Refusal> {
    if let [only] = &event.prev_events[..]
        && *only == room.create.event_id
        && create::is_first_joiner(rules, room.create, target)
    {
        return Ok(());
    }
    if event.sender != target {
        return Err(Refusal::NotYourMembership);
    }
    let membership = room.membership(target);
    if membership == "ban" {
        return Err(Refusal::Banned { user: target.to_owned() });
    }
    let invited = matches!(&*membership, "invite" | "join");
    let rule = room.join_rule();
    let restricted = match &*rule {
        "public" => return Ok(()),
        "invite" => false,
        "knock" if rules.knocking => false,
        "restricted" if rules.restricted => true,
        "knock_restricted" if rules.knock_restricted => true,
        _ => return Err(Refusal::JoinRuleForbids { rule: rule.into_owned() }),
    };
    if invited {
        return Ok(());
    }
    if !restricted {
        return Err(Refusal::NotInvited);
    }
    let Some(authoriser) = event.content_field::<Cow<'_, str>>("join_authorised_via_users_server") else {
        return Err(Refusal::NotAuthorised);
    };
    let may_invite = <&UserId>::try_from(&*authoriser).is_ok_and(|user| room.levels().can_invite(user));
    if may_invite && room.membership(&authoriser) == "join" { Ok(()) } else { Err(Refusal::NotAuthorised) }
}

fn invite(event: &Event, target: &str, room: &Room<'_>) -> Result<(), Refusal> {
    if let Some(invite) = event.content_value("third_party_invite") {
        return third_party_invite(event, target, &invite, room);
    }
    room.require_joined(event)?;
    match &*room.membership(target) {
        "join" => return Err(Refusal::AlreadyJoined { user: target.to_owned() }),
        "ban" => return Err(Refusal::Banned { user: target.to_owned() }),
        _ => {}
    }
    room.require_level(event, room.levels().invite)
}

fn third_party_invite(event: &Event, target: &str, invite: &Value, room: &Room<'_>) -> Result<(), Refusal> {
    let refused = |why| Err(Refusal::ThirdPartyInvite { why });
    if room.membership(target) == "ban" {
        return Err(Refusal::Banned { user: target.to_owned() });
    }
    let Some(signed) = invite.get("signed") else { return refused("it has no signed part") };
    let text = |name: &str| signed.get(name).and_then(Value::as_str);
    let (Some(mxid), Some(token)) = (text("mxid"), text("token")) else {
        return refused("its signed part has no mxid or token");
    };
    if mxid != target {
        return refused("it was signed for another user");
    }
    let Some(offer) = room.event("m.room.third_party_invite", token) else {
        return refused("the room has no third-party invitation with this token");
    };
    if offer.sender != event.sender {
        return refused("somebody else made the third-party invitation");
    }
    if is_signed_by_one_of(&public_keys(&offer), signed) {
        Ok(())
    } else {
        refused("no signature is by a key of the third-party invitation")
    }
}

/// The keys of an `m.room.third_party_invite`. Spec: client-server-api#mroomthird_party_invite
fn public_keys(offer: &Event) -> Vec<PublicKey> {
    let one = offer.content_value("public_key");
    let many = offer.content_value("public_keys");
    let many = many.as_ref().and_then(Value::as_array).into_iter().flatten();
    let many = many.filter_map(|entry| entry.get("public_key"));
    one.iter().chain(many).filter_map(|key| PublicKey::from_base64(key.as_str()?)).collect()
}

fn is_signed_by_one_of(keys: &[PublicKey], signed: &Value) -> bool {
    let Some(signed) = signed.as_object() else { return false };
    let message = write_without(signed, &["signatures", "unsigned"]);
    let servers = signed.get("signatures").and_then(Value::as_object).into_iter().flat_map(|all| all.values());
    servers
        .filter_map(Value::as_object)
        .flatten()
        .filter(|(key_id, _)| key_id.starts_with("ed25519:"))
        .filter_map(|(_, signature)| signature.as_str())
        .any(|signature| keys.iter().any(|key| key.verifies(message.as_bytes(), signature)))
}

fn leave(rules: &Rules, event: &Event, target: &str, room: &Room<'_>) -> Result<(), Refusal> {
    let membership = room.membership(target);
    if event.sender == target {
        return match &*membership {
            "invite" | "join" => Ok(()),
            "knock" if rules.knocking => Ok(()),
            "ban" => Err(Refusal::Banned { user: target.to_owned() }),
            _ => Err(Refusal::NothingToLeave),
        };
    }
    room.require_joined(event)?;
    if membership == "ban" {
        room.require_level(event, room.levels().ban)?;
    }
    room.require_level(event, room.levels().kick)?;
    room.require_above(event, target)
}

fn ban(event: &Event, target: &str, room: &Room<'_>) -> Result<(), Refusal> {
    room.require_joined(event)?;
    room.require_level(event, room.levels().ban)?;
    room.require_above(event, target)
}

fn knock(rules: &Rules, event: &Event, target: &str, room: &Room<'_>) -> Result<(), Refusal> {
    let rule = room.join_rule();
    if rule != "knock" && !(rules.knock_restricted && rule == "knock_restricted") {
        return Err(Refusal::JoinRuleForbids { rule: rule.into_owned() });
    }
    if event.sender != target {
        return Err(Refusal::NotYourMembership);
    }
    match &*room.membership(target) {
        "ban" => Err(Refusal::Banned { user: target.to_owned() }),
        "invite" => Err(Refusal::AlreadyInvited),
        "join" => Err(Refusal::AlreadyJoined { user: target.to_owned() }),
        _ => Ok(()),
    }
}
