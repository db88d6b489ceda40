//! Rooms that this server is not in, as servers that are in them show them.
//!
//! What was heard is remembered for a while, within bounds, also that nobody answered: a space with a hundred
//! rooms elsewhere is asked about once, and not again with every page.
//!
//! Spec: server-server-api#get_matrixfederationv1hierarchyroomid

use std::{collections::HashSet, sync::Arc, time::Duration};

use quick_cache::{Weighter, sync::Cache};
use ruma::{OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId, events::room::member::MembershipState};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Rooms, summary::Summary};
use crate::{
    error::Result,
    remote::{Patience, RemoteError},
    store::schema::{numbers, rooms::USER_ROOMS},
};

/// How many servers are asked about one room.
const MOST_SERVERS: usize = 3;
/// How patient such a question is.
const ASK: Patience = Patience { timeout: Duration::from_secs(10), limit: 512 * 1024, insist: false };
/// How long an answer is remembered, in milliseconds; and for how long that there was none.
const REMEMBERED: u64 = 300_000;
const REMEMBERED_SILENCE: u64 = 60_000;

/// What a server shows of a room and of those below it.
#[derive(Debug)]
pub struct Shown {
    /// The room itself.
    pub room: Summary,
    /// The events that name its children, as JSON texts.
    pub children_state: Vec<Box<RawValue>>,
    /// Those of its children that the server knows and shows.
    pub children: Vec<Summary>,
    /// Those that it knows and does not show.
    pub inaccessible: HashSet<OwnedRoomId>,
}

/// An answer, or that there was none; until when it holds; and how large it is.
type Remembered = (Option<Arc<Shown>>, u64, u64);

#[derive(Clone)]
struct Size;

impl Weighter<(OwnedRoomId, bool), Remembered> for Size {
    fn weight(&self, _: &(OwnedRoomId, bool), (_, _, bytes): &Remembered) -> u64 {
        bytes + 256
    }
}

/// What was heard lately.
pub struct Heard(Cache<(OwnedRoomId, bool), Remembered, Size>);

impl Heard {
    /// At most so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self(Cache::with_weighter(1_000, bytes, Size))
    }
}

#[derive(Deserialize)]
struct Answer {
    room: Box<RawValue>,
    #[serde(default)]
    children: Vec<Box<RawValue>>,
    #[serde(default)]
    inaccessible_children: Vec<String>,
}

#[derive(Deserialize)]
struct Children {
    #[serde(default)]
    children_state: Vec<Box<RawValue>>,
}

/// What was heard of a room lately: nothing if nobody was asked, and inside it nothing if nobody answered.
pub fn heard(rooms: &Rooms, room: &RoomId, suggested_only: bool) -> Option<Option<Arc<Shown>>> {
    let (shown, until, _) = rooms.heard.0.get(&(room.to_owned(), suggested_only))?;
    (until > rooms.clock.now()).then_some(shown)
}

/// What the first of these servers that answers shows of a room.
pub async fn ask(
    rooms: &Rooms,
    room: &RoomId,
    servers: &[OwnedServerName],
    suggested_only: bool,
) -> Option<Arc<Shown>> {
    if let Some(heard) = heard(rooms, room, suggested_only) {
        return heard;
    }
    let servers = crate::remote::candidates(&rooms.config, servers.iter().cloned());
    if servers.is_empty() {
        return None;
    }
    let mut found = (None, 0);
    for server in servers.iter().take(MOST_SERVERS) {
        match ask_one(rooms, room, server, suggested_only).await {
            Ok((shown, bytes)) => {
                found = (Some(Arc::new(shown)), bytes);
                break;
            }
            Err(error) => tracing::debug!(%room, %server, %error, "{server} shows nothing of the room"),
        }
    }
    let (shown, bytes) = found;
    let lasts = if shown.is_some() { REMEMBERED } else { REMEMBERED_SILENCE };
    rooms.heard.0.insert((room.to_owned(), suggested_only), (shown.clone(), rooms.clock.now() + lasts, bytes));
    shown
}

async fn ask_one(
    rooms: &Rooms,
    room: &RoomId,
    server: &ServerName,
    suggested_only: bool,
) -> Result<(Shown, u64), RemoteError> {
    let mut request = ruma::api::federation::space::get_hierarchy::v1::Request::new(room.to_owned());
    request.suggested_only = suggested_only;
    let answer = rooms.remote.exchange(server, request, ASK, true).await?;
    if !answer.status().is_success() {
        return Err(RemoteError::refusal(&answer));
    }
    let nonsense = |error: serde_json::Error| RemoteError::Nonsense(error.to_string());
    let Answer { room: json, children, inaccessible_children } =
        serde_json::from_slice(answer.body()).map_err(nonsense)?;
    let summary: Summary = serde_json::from_str(json.get()).map_err(nonsense)?;
    if summary.room_id != *room {
        return Err(RemoteError::Nonsense("it speaks of another room".to_owned()));
    }
    let Children { children_state } = serde_json::from_str(json.get()).map_err(nonsense)?;
    let shown = Shown {
        room: summary,
        children_state,
        children: children.iter().filter_map(|child| serde_json::from_str(child.get()).ok()).collect(),
        inaccessible: inaccessible_children.into_iter().filter_map(|id| id.try_into().ok()).collect(),
    };
    // In memory it is about twice as large as it came.
    Ok((shown, answer.body().len() as u64 * 2))
}

/// How a user stands towards a room, whether this server is in it or not.
pub fn standing(rooms: &Rooms, room: &RoomId, user: &UserId) -> Result<MembershipState> {
    let (room, user) = (numbers::find_room(&rooms.store, room)?, numbers::find_user(&rooms.store, user)?);
    let (Some(room), Some(user)) = (room, user) else { return Ok(MembershipState::Leave) };
    let row = rooms.store.get(USER_ROOMS, &(user, room))?;
    Ok(row.map_or(MembershipState::Leave, |row| row.membership))
}
