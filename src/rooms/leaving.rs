//! Leaving a room that this server is not in, with the help of a server that is: an invite is declined, a knock taken
//! back.
//!
//! Spec: server-server-api#leaving-rooms-rejecting-invites

use std::sync::Arc;

use http::Method;
use ruma::{
    OwnedServerName, RoomId, ServerName, UserId,
    api::federation::membership::{create_leave_event, prepare_leave_event},
    events::room::member::MembershipState,
};

use super::{
    Rooms,
    handshake::{self, ASK, MOST_SERVERS, Wish, known_version, old_path, passed_on},
    inviting,
};
use crate::{error::Result, protocol::canonical::Object, remote::RemoteError};

/// Takes a local user out of a room that this server is not in. They are rid of it in any case: a server that is away
/// finds out when it asks.
pub async fn leave(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    servers: &[OwnedServerName],
    content: Object,
) -> Result<()> {
    for server in servers.iter().take(MOST_SERVERS) {
        match leave_through(rooms, room_id, user, server, content.clone()).await {
            Ok(()) => break,
            Err(error) => {
                tracing::info!(room = %room_id, %server, "{user} cannot tell {server} about leaving: {error}")
            }
        }
    }
    inviting::forget_outside(rooms, room_id, user)?.published().await?;
    Ok(())
}

async fn leave_through(
    rooms: &Rooms,
    room_id: &RoomId,
    user: &UserId,
    server: &ServerName,
    content: Object,
) -> Result<()> {
    let request = prepare_leave_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
    let rules = known_version(template.room_version)?;
    let wish = Wish { room: room_id, user, membership: MembershipState::Leave, content };
    let leave = handshake::event(rooms, rules, &template.event, server, wish)?;
    let request = create_leave_event::v2::Request::new(room_id.to_owned(), leave.event_id.clone(), leave.to_pdu());
    let sent = match rooms.remote.ask_with(server, request, ASK).await {
        Err(error) if error.is_unknown_endpoint() => {
            let body = leave.json().to_owned().into_bytes();
            let answer = rooms.remote.send(server, Method::PUT, old_path("send_leave", &leave), Some(body), ASK, true);
            match answer.await {
                Ok(answer) if !answer.status().is_success() => Err(RemoteError::refusal(&answer)),
                answer => answer.map(drop),
            }
        }
        answer => answer.map(drop),
    };
    sent.map_err(|error| passed_on(error, server))
}
