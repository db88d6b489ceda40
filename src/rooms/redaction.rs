//! A redaction takes away what its target says.
//!
//! It may come before its target; then it waits in a row until the target is there.
//!
//! Spec: client-server-api#redactions, rooms/v11#handling-redactions

use std::sync::Arc;

use super::{append::Deciding, cache::Known};
use crate::{
    error::Result,
    protocol::event::Event,
    rooms::projections::relations,
    store::schema::{
        EventNo,
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
        redact(deciding, added, &redaction.event, redaction.number)?;
    }
    if added.event.kind != "m.room.redaction" {
        return Ok(());
    }
    let Some(target) = added.event.redacts_under(deciding.room.rules) else { return Ok(()) };
    let number = deciding.write.get(numbers::EVENT_NUMBERS, &target.as_str().to_owned())?;
    match number {
        Some(number) if deciding.write.get(EVENTS, &number)?.is_some() => {
            let target = deciding.known(number)?;
            redact(deciding, &target, &added.event, added.number)
        }
        _ => {
            deciding.write.put(REDACTIONS_AHEAD, &target.as_str().to_owned(), &added.number);
            Ok(())
        }
    }
}

/// Redacts `target`, if it belongs to the room, is whole, and `redaction` has the right to.
fn redact(deciding: &mut Deciding<'_>, target: &Arc<Known>, redaction: &Event, number: EventNo) -> Result<()> {
    let same_room = target.room == deciding.room.number;
    if !same_room || target.redacted_by.is_some() || !may_redact(deciding, &target.event, redaction)? {
        return Ok(());
    }
    relations::remove(&mut deciding.write, target)?;
    deciding.unfind(target)?;
    let redacted = Known {
        event: Arc::new(target.event.redacted(deciding.room.rules)),
        redacted_by: Some(number),
        ..(**target).clone()
    };
    deciding.replace(redacted);
    Ok(())
}

/// From room version 3 on, everybody's own server may redact, and whoever has the power to.
/// Spec: rooms/v3#handling-redactions
fn may_redact(deciding: &Deciding<'_>, target: &Event, redaction: &Event) -> Result<bool> {
    if deciding.room.rules.redaction_in_auth || target.server() == redaction.server() {
        return Ok(true);
    }
    Ok(deciding.power_levels()?.can_redact_others(&redaction.sender))
}
