//! The directory: which rooms this server shows to everybody who looks for one.
//!
//! Spec: client-server-api#published-room-directory

use std::time::Duration;

use ruma::{
    OwnedRoomId, RoomId, ServerName, UInt, UserId,
    api::federation::directory::{get_public_rooms, get_public_rooms_filtered},
    directory::{Filter, RoomNetwork, RoomTypeFilter},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Rooms, aliases, onlooker, summary};
use crate::{
    config::Publish,
    error::{Error, Result},
    remote::{Patience, RemoteError},
    store::{Ticket, schema::rooms::PUBLISHED},
};

/// How many rooms one answer holds at most.
const MOST_ROOMS: usize = 500;
/// How patient a look into another server's directory is.
const ELSEWHERE: Patience = Patience { timeout: Duration::from_secs(20), limit: 2 * 1024 * 1024, insist: true };

/// Whether a room is listed; 404 `M_NOT_FOUND` for one that nobody here knows.
pub fn is_published(rooms: &Rooms, room: &RoomId) -> Result<bool> {
    let room = rooms.find(room)?;
    Ok(rooms.store.contains(PUBLISHED, &room.number)?)
}

/// Whether somebody may list rooms at all, or only admins may.
pub fn check_may_publish(rooms: &Rooms, is_admin: bool) -> Result<()> {
    match rooms.config.rooms.publish {
        Publish::Admins if !is_admin => {
            Err(Error::forbidden("only an admin may list rooms in this server's directory"))
        }
        _ => Ok(()),
    }
}

/// Lists a room, or no longer. Admins may, and whoever may name the room.
pub fn publish(rooms: &Rooms, user: &UserId, is_admin: bool, room: &RoomId, listed: bool) -> Result<Ticket> {
    let room = rooms.find(room)?;
    if !is_admin {
        if listed {
            check_may_publish(rooms, is_admin)?;
        }
        if !aliases::may_name(rooms, room.number, user)? {
            return Err(Error::forbidden("only who may name this room may list it in the directory"));
        }
    }
    let mut write = rooms.store.write();
    match listed {
        true => write.put(PUBLISHED, &room.number, &()),
        false => write.delete(PUBLISHED, &room.number),
    }
    Ok(write.commit()?)
}

/// What somebody looks for.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// How many rooms at most.
    pub limit: Option<u64>,
    /// Where an earlier answer ended.
    pub since: Option<String>,
    /// A text in the name, topic or alias.
    pub term: Option<String>,
    /// Which types of rooms; without any, all.
    pub kinds: Vec<RoomTypeFilter>,
}

/// A page of the directory, as it is answered.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Listing {
    /// The rooms, those with most members first.
    pub chunk: Vec<summary::Summary>,
    /// Where the next page begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_batch: Option<String>,
    /// Where the page before begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    /// How many rooms there are.
    pub total_room_count_estimate: usize,
}

/// The directory of another server, as far as it lets this one read it. `network` is that of the client's request.
///
/// Errors: what the other server says; 502 `M_UNKNOWN` if it cannot be asked.
/// Spec: server-server-api#public-room-directory
pub async fn elsewhere(rooms: &Rooms, server: &ServerName, query: Query, network: RoomNetwork) -> Result<Listing> {
    let limit = query.limit.map(UInt::new_saturating);
    let answer = if query.term.is_none() && query.kinds.is_empty() {
        let mut request = get_public_rooms::v1::Request::new();
        (request.limit, request.since, request.room_network) = (limit, query.since, network);
        rooms.remote.exchange(server, request, ELSEWHERE, true).await
    } else {
        let mut request = get_public_rooms_filtered::v1::Request::new();
        (request.limit, request.since, request.room_network) = (limit, query.since, network);
        request.filter = Filter::new();
        (request.filter.generic_search_term, request.filter.room_types) = (query.term, query.kinds);
        rooms.remote.exchange(server, request, ELSEWHERE, true).await
    };
    let answer = answer.and_then(|answer| match answer.status().is_success() {
        true => serde_json::from_slice(answer.body()).map_err(|error| RemoteError::Nonsense(error.to_string())),
        false => Err(RemoteError::refusal(&answer)),
    });
    let Theirs { chunk, next_batch, prev_batch, total_room_count_estimate } =
        answer.map_err(|error| error.for_client(server))?;
    // One room that cannot be understood hides no other.
    let chunk: Vec<summary::Summary> =
        chunk.iter().take(MOST_ROOMS).filter_map(|room| serde_json::from_str(room.get()).ok()).collect();
    let total = total_room_count_estimate.unwrap_or(chunk.len());
    Ok(Listing { chunk, next_batch, prev_batch, total_room_count_estimate: total })
}

/// A page of another server's directory.
#[derive(Deserialize)]
struct Theirs {
    chunk: Vec<Box<RawValue>>,
    next_batch: Option<String>,
    prev_batch: Option<String>,
    total_room_count_estimate: Option<usize>,
}

/// The listed rooms that fit a query: for another server (`reader`), those that are its business.
pub fn list(rooms: &Rooms, query: &Query, reader: Option<&ServerName>) -> Result<Listing> {
    let start = match &query.since {
        None => 0,
        Some(since) => since
            .strip_prefix('p')
            .and_then(|start| start.parse::<usize>().ok())
            .ok_or_else(|| Error::invalid_param("this token was not given by this server"))?,
    };
    let limit = query.limit.filter(|limit| *limit > 0).and_then(|limit| usize::try_from(limit).ok());
    let limit = limit.unwrap_or(MOST_ROOMS).min(MOST_ROOMS);
    let mut found = Vec::new();
    let term = query.term.as_deref().map(str::to_lowercase).filter(|term| !term.is_empty());
    for row in rooms.store.scan(PUBLISHED, &()) {
        let (number, ()) = row?;
        let Some(room) = rooms.open(number)? else { continue };
        if let Some(reader) = reader
            && !onlooker::is_open_to(rooms, &room, reader)?
        {
            continue;
        }
        let summary = summary::of(rooms, &room)?;
        if fits(&summary, term.as_deref(), &query.kinds) {
            found.push(summary);
        }
    }
    found.sort_by(|one, two| {
        let key = |summary: &summary::Summary| -> (std::cmp::Reverse<u64>, OwnedRoomId) {
            (std::cmp::Reverse(summary.num_joined_members), summary.room_id.clone())
        };
        key(one).cmp(&key(two))
    });
    let total = found.len();
    let start = start.min(total);
    let end = (start + limit).min(total);
    Ok(Listing {
        chunk: found.drain(start..end).collect(),
        next_batch: (end < total).then(|| format!("p{end}")),
        prev_batch: (start > 0).then(|| format!("p{}", start.saturating_sub(limit))),
        total_room_count_estimate: total,
    })
}

fn fits(summary: &summary::Summary, term: Option<&str>, kinds: &[RoomTypeFilter]) -> bool {
    let kind_fits = kinds.is_empty()
        || kinds.iter().any(|kind| match kind {
            RoomTypeFilter::Default => summary.room_type.is_none(),
            other => other.as_str().is_some_and(|name| summary.room_type.as_deref() == Some(name)),
        });
    let texts = [&summary.name, &summary.topic, &summary.canonical_alias];
    kind_fits && term.is_none_or(|term| texts.into_iter().flatten().any(|text| text.to_lowercase().contains(term)))
}
