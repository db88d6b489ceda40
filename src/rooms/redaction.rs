//! A redaction takes away what its target says.
//!
//! It may come before its target; then it waits in a row until the target is there.
//!
//! Spec: client-server-api#redactions, rooms/v11#handling-redactions

use std::sync::Arc;

use super::{
    Rooms,
    append::Deciding,
    cache::{Known, power_levels},
};
use crate::{
    error::Result,
    protocol::{event::Event, version::Rules},
    rooms::projections::relations,
    store::schema::{
        events::{EVENTS, REDACTIONS_AHEAD},
        numbers,
    },
};

/// Applies an event that was just added if it is a redaction, or a redaction that has waited for it.
pub fn apply(deciding: &mut Deciding<'_>, added: &Arc<Known>) -> Result<()> {
    let id = added.event.event_id.as_str().to_owned();
    if let Some(redaction) = deciding.write.get(REDACTIONS_AHEAD, &id)? {
        deciding.write.delete(REDACTIONS_AHEAD, &id);
        let redaction = deciding.known(redaction)?;
        redact(deciding, added, &redaction)?;
    }
    if added.event.kind != "m.room.redaction" {
        return Ok(());
    }
    let Some(target) = added.event.redacts_under(deciding.room.rules) else { return Ok(()) };
    let number = deciding.write.get(numbers::EVENT_NUMBERS, &target.as_str().to_owned())?;
    match number {
        Some(number) if deciding.write.get(EVENTS, &number)?.is_some() => {
            let target = deciding.known(number)?;
            redact(deciding, &target, added)
        }
        _ => {
            deciding.write.put(REDACTIONS_AHEAD, &target.as_str().to_owned(), &added.number);
            Ok(())
        }
    }
}

/// Redacts `target`, if it belongs to the room, is whole, and `redaction` has the right to.
fn redact(deciding: &mut Deciding<'_>, target: &Arc<Known>, redaction: &Known) -> Result<()> {
    if target.room != deciding.room.number || target.redacted_by.is_some() {
        return Ok(());
    }
    let before = redaction.before.unwrap_or_default();
    let entry = |kind: &str| deciding.entry(before, kind, "");
    if !may_redact(deciding.room.rules, &target.event, &redaction.event, entry)? {
        return Ok(());
    }
    relations::remove(&mut deciding.write, target)?;
    deciding.unfind(target)?;
    let redacted = Known {
        event: Arc::new(target.event.redacted(deciding.room.rules)),
        redacted_by: Some(redaction.number),
        ..(**target).clone()
    };
    deciding.replace(redacted);
    Ok(())
}

/// Whether a redaction takes effect. One that does not is not shown: clients would take it at its word.
/// Spec: rooms/v3#handling-redactions
pub fn takes_effect(rooms: &Rooms, redaction: &Known) -> Result<bool> {
    let Some(room) = rooms.open(redaction.room)? else { return Ok(false) };
    let named = redaction.event.redacts_under(room.rules).filter(|_| !room.rules.redaction_in_auth);
    let (Some(named), Some(before)) = (named, redaction.before) else { return Ok(true) };
    let target = rooms.by_id(&named)?.filter(|target| target.room == redaction.room);
    let Some(target) = target else { return Ok(false) };
    let state = rooms.state(before)?;
    may_redact(room.rules, &target.event, &redaction.event, |kind| rooms.in_state(&state, kind, ""))
}

/// From room version 3 on, everybody's own server may redact, and whoever had the power to when they did.
/// Spec: rooms/v3#handling-redactions
fn may_redact(
    rules: &Rules,
    target: &Event,
    redaction: &Event,
    before: impl Fn(&str) -> Result<Option<Arc<Known>>>,
) -> Result<bool> {
    if rules.redaction_in_auth || target.server() == redaction.server() {
        return Ok(true);
    }
    Ok(power_levels(rules, before)?.can_redact_others(&redaction.sender))
}
