//! Knocking at a room that this server is not in, with the help of a server that is.
//!
//! Spec: server-server-api#knocking-upon-a-room

use std::sync::Arc;

use ruma::{
    OwnedServerName, RoomId, ServerName, UserId,
    api::federation::membership::{create_knock_event, prepare_knock_event},
    events::room::member::MembershipState,
};

use super::{
    Rooms,
    handshake::{self, ASK, MOST_SERVERS, Wish, known_version, more_telling, passed_on, versions},
    inviting,
};
use crate::{
    error::{Error, Result},
    protocol::canonical::Object,
};

/// Knocks at a room that this server is not in.
///
/// Errors: those of the server that says most about it; 404 `M_NOT_FOUND` if there is none to ask.
pub async fn knock(
    rooms: &Arc<Rooms>,
    room_id: &RoomId,
    user: &UserId,
    servers: Vec<OwnedServerName>,
    content: Object,
) -> Result<()> {
    let mut last = Error::not_found("this server does not know the room, nor a server that is in it");
    for server in crate::remote::candidates(&rooms.config, servers).iter().take(MOST_SERVERS) {
        match knock_through(rooms, room_id, user, server, content.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) => last = more_telling(last, error),
        }
    }
    Err(last)
}

async fn knock_through(
    rooms: &Rooms,
    room_id: &RoomId,
    user: &UserId,
    server: &ServerName,
    mut content: Object,
) -> Result<()> {
    let mut request = prepare_knock_event::v1::Request::new(room_id.to_owned(), user.to_owned());
    request.ver = versions();
    let template = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
    let rules = known_version(Some(template.room_version))?;
    content.extend(rooms.member_profile(user)?);
    let wish = Wish { room: room_id, user, membership: MembershipState::Knock, content };
    let knock = handshake::event(rooms, rules, &template.event, server, wish)?;
    let request = create_knock_event::v1::Request::new(room_id.to_owned(), knock.event_id.clone(), knock.to_pdu());
    let answer = rooms.remote.ask_with(server, request, ASK).await.map_err(|error| passed_on(error, server))?;
    let stripped: Vec<String> = answer
        .knock_room_state
        .iter()
        .filter_map(|event| serde_json::to_value(event).ok())
        .filter_map(|event| inviting::stripped(&event))
        .collect();
    inviting::note_outside(rooms, room_id, rules, &Arc::new(knock), stripped)?.published().await?;
    Ok(())
}
