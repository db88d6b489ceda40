//! What joining, leaving and knocking with the help of another server have in common: a template from there, our own
//! event out of it, signed here and sent back.
//!
//! Spec: server-server-api#joining-rooms, #leaving-rooms-rejecting-invites, #knocking-upon-a-room

use std::{collections::BTreeMap, fmt, time::Duration};

use http::StatusCode;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use ruma::{OwnedEventId, RoomId, RoomVersionId, ServerName, UserId, events::room::member::MembershipState};
use serde_json::value::RawValue;

use super::{
    Rooms, admit,
    append::{chosen_id, sign},
};
use crate::{
    error::{Error, Result},
    protocol::{
        canonical::{Object, Value},
        compose::Draft,
        event::Event,
        version::{self, Rules},
    },
    remote::{Patience, RemoteError},
};

/// How many servers are asked, one after the other.
pub(super) const MOST_SERVERS: usize = 8;
/// How patient the small questions of a handshake are.
pub(super) const ASK: Patience = Patience { timeout: Duration::from_secs(30), limit: 1024 * 1024, insist: true };

/// Which of two errors a user should read: what a server has said about the wish, rather than that another one was
/// not there.
pub(super) fn more_telling(earlier: Error, later: Error) -> Error {
    let says_something = |error: &Error| error.status.is_client_error() && error.status != StatusCode::NOT_FOUND;
    if says_something(&earlier) && !says_something(&later) { earlier } else { later }
}

/// The error for a client whose wish another server has refused. What is wrong with our own request is not the
/// client's to mend.
pub(super) fn passed_on(error: RemoteError, server: &ServerName) -> Error {
    match &error {
        RemoteError::Refused { errcode, message, .. }
            if matches!(&**errcode, "M_MISSING_PARAM" | "M_INVALID_PARAM") =>
        {
            let message = format!("{server} does not understand this server: {message}");
            Error::new(StatusCode::BAD_GATEWAY, "M_UNKNOWN", message)
        }
        _ => error.for_client(server),
    }
}

/// The error for a client whose wish another server has answered with nonsense: another one may help.
pub(super) fn nonsense(server: &ServerName, what: impl fmt::Display) -> Error {
    RemoteError::Nonsense(what.to_string()).for_client(server)
}

/// The versions that this server offers to join.
pub(super) fn versions() -> Vec<RoomVersionId> {
    version::ALL.iter().map(Rules::id).collect()
}

/// The rules of the version that another server has named; without a name it is an old one.
pub(super) fn known_version(version: Option<RoomVersionId>) -> Result<&'static Rules> {
    let version = version.unwrap_or(RoomVersionId::V1);
    version::rules(&version).ok_or_else(|| {
        let message = format!("the room has version {version}, which this server does not know");
        Error::bad_request("M_INCOMPATIBLE_ROOM_VERSION", message).with("room_version", version.as_str())
    })
}

/// What a user wants to become in a room.
pub(super) struct Wish<'a> {
    pub room: &'a RoomId,
    pub user: &'a UserId,
    pub membership: MembershipState,
    /// What the event says besides.
    pub content: Object,
}

/// Our own event out of the template of `server`, signed: of that only the place in the graph is taken over, and
/// who lets the user in.
///
/// Errors: 502 `M_UNKNOWN` if the template is not of the event that was asked for.
pub(super) fn event(
    rooms: &Rooms,
    rules: &Rules,
    template: &RawValue,
    server: &ServerName,
    wish: Wish<'_>,
) -> Result<Event> {
    let template = admit::object(template, rules).map_err(|error| nonsense(server, error))?;
    let text = |field: &str| template.get(field).and_then(Value::as_str);
    let given = |field: &str| template.get("content").and_then(|content| content.get(field));
    let about = [
        ("type", "m.room.member"),
        ("room_id", wish.room.as_str()),
        ("state_key", wish.user.as_str()),
        ("sender", wish.user.as_str()),
    ];
    if about.iter().any(|(field, wanted)| text(field) != Some(wanted))
        || given("membership").and_then(Value::as_str) != Some(wish.membership.as_str())
    {
        return Err(nonsense(server, "its template is not of the event that was asked for"));
    }
    let mut content = wish.content;
    content.insert("membership".to_owned(), wish.membership.as_str().into());
    if let Some(authoriser) = given("join_authorised_via_users_server") {
        content.insert("join_authorised_via_users_server".to_owned(), authoriser.clone());
    }
    let mut draft = Draft::new("m.room.member", wish.user.to_owned(), content);
    draft.room_id = Some(wish.room.to_owned());
    draft.state_key = Some(wish.user.to_string());
    draft.origin_server_ts = rooms.clock.now();
    draft.depth = template.get("depth").and_then(Value::as_int).and_then(|depth| depth.try_into().ok()).unwrap_or(1);
    let hashes = &mut draft.reference_hashes;
    draft.prev_events = references(template.get("prev_events"), hashes);
    draft.auth_events = references(template.get("auth_events"), hashes);
    draft.event_id = chosen_id(rooms, rules);
    sign(rooms, draft, rules).map_err(|error| nonsense(server, error))
}

/// References to events: IDs, or in versions 1 and 2 IDs with hashes.
fn references(list: Option<&Value>, hashes: &mut BTreeMap<OwnedEventId, String>) -> Vec<OwnedEventId> {
    let mut ids = Vec::new();
    for entry in list.and_then(Value::as_array).unwrap_or_default() {
        let (id, hash) = match entry {
            Value::Array(pair) => {
                (pair.first().and_then(Value::as_str), pair.get(1).and_then(|hashes| hashes.get("sha256")?.as_str()))
            }
            entry => (entry.as_str(), None),
        };
        let Some(id) = id.and_then(|id| OwnedEventId::try_from(id).ok()) else { continue };
        if let Some(hash) = hash {
            hashes.insert(id.clone(), hash.to_owned());
        }
        ids.push(id);
    }
    ids
}

/// The path of an endpoint in its first version, which old servers have instead of the second one.
pub(super) fn old_path(endpoint: &str, event: &Event) -> String {
    let quoted = |id: &str| utf8_percent_encode(id, NON_ALPHANUMERIC).to_string();
    let (room, event) = (quoted(event.room_id.as_str()), quoted(event.event_id.as_str()));
    format!("/_matrix/federation/v1/{endpoint}/{room}/{event}")
}
