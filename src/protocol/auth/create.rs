//! The rule for `m.room.create`, and what the create event says about the room for ever after.

use std::collections::BTreeSet;

use ruma::{OwnedUserId, RoomId, UserId};

use super::Refusal;
use crate::protocol::{
    canonical::Value,
    event::{Event, MAX_FIELD},
    version::{self, Rules},
};

/// Who created the room: the sender, in old versions the user named `creator`, from version 12 also
/// the `additional_creators`. Spec: rooms/v12#authorisation-rules
pub fn creators(rules: &Rules, create: &Event) -> BTreeSet<OwnedUserId> {
    if !rules.creator_is_sender {
        return create.content_field::<OwnedUserId>("creator").into_iter().collect();
    }
    let mut creators = BTreeSet::from([create.sender.clone()]);
    if rules.privileged_creators {
        creators.extend(create.content_field::<Vec<OwnedUserId>>("additional_creators").unwrap_or_default());
    }
    creators
}

/// Whether this user's join may be the first event after the create event.
pub(super) fn is_first_joiner(rules: &Rules, create: &Event, user: &str) -> bool {
    if rules.creator_is_sender {
        create.sender == user
    } else {
        create.content_field::<std::borrow::Cow<'_, str>>("creator").is_some_and(|creator| creator == user)
    }
}

/// Whether users of other servers may take part. Spec: client-server-api#mroomcreate
pub fn federates(create: &Event) -> bool {
    create.content_field::<bool>("m.federate") != Some(false)
}

/// The rules of the room that this event creates. Spec: client-server-api#mroomcreate
pub fn room_version(create: &Event) -> Option<&'static Rules> {
    match create.content_value("room_version") {
        None => version::by_name("1"),
        Some(version) => version::by_name(version.as_str()?),
    }
}

/// Spec: rooms/v12#authorisation-rules (1)
pub(super) fn check(rules: &Rules, event: &Event) -> Result<(), Refusal> {
    if !event.prev_events.is_empty() {
        return Err(Refusal::CreateAfterOthers);
    }
    // From version 12 there is no room ID in a create event: its format says so.
    if !rules.room_id_is_hash && domain(&event.room_id) != Some(event.server().as_str()) {
        return Err(Refusal::RoomOfAnotherServer);
    }
    if room_version(event).is_none() {
        return Err(Refusal::UnknownRoomVersion);
    }
    if !rules.creator_is_sender && event.content_value("creator").is_none() {
        return Err(Refusal::NoCreator);
    }
    if rules.privileged_creators
        && let Some(additional) = event.content_value("additional_creators")
    {
        let is_user = |user: &Value| {
            user.as_str().is_some_and(|user| user.len() <= MAX_FIELD && <&UserId>::try_from(user).is_ok())
        };
        if !additional.as_array().is_some_and(|users| users.iter().all(is_user)) {
            return Err(Refusal::BadAdditionalCreators);
        }
    }
    Ok(())
}

fn domain(room_id: &RoomId) -> Option<&str> {
    room_id.as_str().split_once(':').map(|(_, domain)| domain)
}
