//! Events as clients see them.

use ruma::serde::Raw;
use serde::de::IgnoredAny;

use super::{Event, raw};
use crate::protocol::canonical;

/// What to add to or leave out of an event on its way to a client.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientFormat<'a> {
    /// Whether `room_id` is written; `/sync` leaves it out.
    pub room_id: bool,
    /// The `unsigned` object, as JSON.
    pub unsigned: Option<&'a str>,
}

/// Writes an event as clients see it. Redactions name their target in the envelope and in the
/// content, whatever the room version. Spec: client-server-api#room-event-format
pub fn client_format(event: &Event, options: &ClientFormat<'_>) -> String {
    let mut out = String::with_capacity(event.content().len() + options.unsigned.map_or(0, str::len) + 384);
    write_client_format(&mut out, event, options);
    out
}

/// As [`client_format`], appended to a longer answer.
pub fn write_client_format(out: &mut String, event: &Event, options: &ClientFormat<'_>) {
    out.push_str("{\"content\":");
    match &event.redacts {
        Some(redacts) if event.content_field::<IgnoredAny>("redacts").is_none() => {
            let rest = event.content()[1..].trim_start();
            out.push_str("{\"redacts\":");
            canonical::write_string(out, redacts.as_str());
            out.push_str(if rest == "}" { "" } else { "," });
            out.push_str(rest);
        }
        _ => out.push_str(event.content()),
    }
    out.push_str(",\"event_id\":");
    canonical::write_string(out, event.event_id.as_str());
    out.push_str(",\"origin_server_ts\":");
    canonical::write_number(out, event.origin_server_ts);
    if let Some(redacts) = &event.redacts {
        out.push_str(",\"redacts\":");
        canonical::write_string(out, redacts.as_str());
    }
    if options.room_id {
        out.push_str(",\"room_id\":");
        canonical::write_string(out, event.room_id.as_str());
    }
    out.push_str(",\"sender\":");
    canonical::write_string(out, event.sender.as_str());
    if let Some(state_key) = &event.state_key {
        out.push_str(",\"state_key\":");
        canonical::write_string(out, state_key);
    }
    out.push_str(",\"type\":");
    canonical::write_string(out, &event.kind);
    if let Some(unsigned) = options.unsigned {
        out.push_str(",\"unsigned\":");
        out.push_str(unsigned);
    }
    out.push('}');
}

/// [`client_format`] as one of ruma's raw event types.
pub fn to_client<T>(event: &Event, options: &ClientFormat<'_>) -> Raw<T> {
    Raw::from_json(raw(client_format(event, options)))
}

/// A state event reduced to what an invited or knocking user is shown.
/// Spec: client-server-api#stripped-state
pub fn stripped_format(event: &Event) -> String {
    let mut out = String::with_capacity(event.content().len() + 192);
    out.push_str("{\"content\":");
    out.push_str(event.content());
    out.push_str(",\"sender\":");
    canonical::write_string(&mut out, event.sender.as_str());
    out.push_str(",\"state_key\":");
    canonical::write_string(&mut out, event.state_key.as_deref().unwrap_or_default());
    out.push_str(",\"type\":");
    canonical::write_string(&mut out, &event.kind);
    out.push('}');
    out
}

/// [`stripped_format`] as one of ruma's raw event types.
pub fn to_stripped<T>(event: &Event) -> Raw<T> {
    Raw::from_json(raw(stripped_format(event)))
}
