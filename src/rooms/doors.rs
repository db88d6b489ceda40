//! Coming and going, whether this server is in the room or not.
//!
//! A room that somebody of this server is in is decided here; for any other one another server helps
//! ([`super::joining`], [`super::inviting`]). When a function returns, what it did is durable.
//!
//! Spec: client-server-api#room-membership

use std::sync::Arc;

use ruma::{
    OwnedRoomId, OwnedServerName, RoomAliasId, RoomId, RoomOrAliasId, UserId,
    api::federation::query::get_room_information, events::room::member::MembershipState,
};

use super::{
    Room, Rooms, aliases, append::Deciding, ephemeral, forks, guests, inviting, joining, knocking, leaving, notices,
    policy, upgrade,
};
use crate::{
    error::{Error, Result},
    protocol::canonical::Object,
    store::schema::{
        numbers,
        rooms::{USER_ROOMS, UserRoomRow},
    },
};

/// The room behind an ID or an alias of any server, with servers that may know more of it.
///
/// Errors: 404 `M_NOT_FOUND` if no server knows the alias.
pub async fn resolve(
    rooms: &Rooms,
    name: &RoomOrAliasId,
    via: Vec<OwnedServerName>,
) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    if let Ok(alias) = <&RoomAliasId>::try_from(name.as_str()) {
        let (room, servers) = find_alias(rooms, alias).await?;
        return Ok((room, via.into_iter().chain(servers).collect()));
    }
    let room = <&RoomId>::try_from(name.as_str()).map_err(|error| Error::invalid_param(error.to_string()))?;
    Ok((room.to_owned(), via))
}

/// The room behind an alias of any server, with servers that are in it.
pub async fn find_alias(rooms: &Rooms, alias: &RoomAliasId) -> Result<(OwnedRoomId, Vec<OwnedServerName>)> {
    let server = alias.server_name();
    if *server != *rooms.config.server_name {
        let request = get_room_information::v1::Request::new(alias.to_owned());
        let answer = rooms.remote.ask(server, request).await.map_err(|error| error.for_client(server))?;
        return Ok((answer.room_id, answer.servers));
    }
    let room = aliases::room(rooms, alias)?;
    let mut servers = forks::servers(rooms, room.number)?;
    if servers.is_empty() {
        servers.push(rooms.config.server_name.clone());
    }
    Ok((room.id.clone(), servers))
}

/// A room that somebody of this server is in.
pub(super) fn inside(rooms: &Rooms, id: &RoomId) -> Result<Option<Arc<Room>>> {
    let Some(number) = numbers::find_room(&rooms.store, id)? else { return Ok(None) };
    match ephemeral::locals(rooms, number)?.is_empty() {
        true => Ok(None),
        false => rooms.open(number),
    }
}

/// How a user stands towards a room, and the server from which that came.
fn standing(rooms: &Rooms, id: &RoomId, user: &UserId) -> Result<Option<(UserRoomRow, OwnedServerName)>> {
    let room = numbers::find_room(&rooms.store, id)?;
    let (Some(room), Some(user)) = (room, numbers::find_user(&rooms.store, user)?) else { return Ok(None) };
    let Some(row) = rooms.store.get(USER_ROOMS, &(user, room))? else { return Ok(None) };
    let server = rooms.known(row.event)?.event.sender.server_name().to_owned();
    Ok(Some((row, server)))
}

/// Servers that may let a user into a room that this server is not in.
pub(super) fn helpers(
    rooms: &Rooms,
    id: &RoomId,
    user: &UserId,
    via: Vec<OwnedServerName>,
) -> Result<Vec<OwnedServerName>> {
    let mut servers = via;
    servers.extend(standing(rooms, id, user)?.map(|(_, server)| server));
    servers.extend(inviting::shown_by(rooms, id, user)?);
    if let Some(room) = numbers::find_room(&rooms.store, id)? {
        servers.extend(forks::servers(rooms, room)?);
    }
    // Before version 12 the ID names the server that began the room.
    servers.extend(id.server_name().map(ToOwned::to_owned));
    Ok(crate::remote::candidates(&rooms.config, servers))
}

/// What a member event says with this reason.
fn said(reason: Option<&str>) -> Object {
    reason.map(|reason| ("reason".to_owned(), reason.into())).into_iter().collect()
}

/// Lets a local user join a room.
pub async fn enter(
    rooms: &Arc<Rooms>,
    id: &RoomId,
    user: &UserId,
    is_guest: bool,
    via: Vec<OwnedServerName>,
    reason: Option<&str>,
) -> Result<()> {
    let helpers = helpers(rooms, id, user, via)?;
    let room = match inside(rooms, id)? {
        Some(room) => room,
        // Everybody has left; whoever may, comes back.
        None if helpers.is_empty() => rooms.find(id)?,
        // Whether it welcomes guests would be known only from the inside.
        None if is_guest => return Err(guests::forbidden("guests may only join rooms that this server is in")),
        None => {
            joining::join(rooms, id, user, helpers, said(reason)).await?;
            return Ok(());
        }
    };
    if is_guest {
        guests::check_may_join(rooms, &room)?;
    }
    let joined = change(rooms, &room, |deciding| Ok(deciding.join(user, reason, Object::new())?.is_some())).await;
    match joined {
        // Somebody on another server in the room may let the user in.
        Err(error) if !helpers.is_empty() && joining::others_may_grant(&error) => {
            joining::join(rooms, id, user, helpers, said(reason)).await?;
        }
        joined => joined?,
    }
    if let Some(user) = numbers::find_user(&rooms.store, user)? {
        upgrade::carry_over(rooms, user, &room).await?;
    }
    Ok(())
}

/// Takes a local user out of a room; declines an invitation, or takes back a knock.
pub async fn leave(rooms: &Arc<Rooms>, id: &RoomId, user: &UserId, reason: Option<&str>) -> Result<()> {
    notices::check_may_leave(rooms, id, user)?;
    if inside(rooms, id)?.is_none()
        && let Some((row, server)) = standing(rooms, id, user)?
    {
        let is_unknown = rooms.find(id).is_err();
        if matches!(row.membership, MembershipState::Invite | MembershipState::Knock) {
            let helpers = helpers(rooms, id, user, vec![server])?;
            // A room of this server alone, which everybody has left, is left like any other.
            if !helpers.is_empty() || is_unknown {
                return leaving::leave(rooms, id, user, &helpers, said(reason)).await;
            }
        } else if is_unknown {
            // That was so before.
            return Ok(());
        }
    }
    let room = rooms.find(id)?;
    change(rooms, &room, |deciding| Ok(deciding.leave(user, reason)?.is_some())).await
}

/// Asks for a local user to be let in.
pub async fn knock(
    rooms: &Arc<Rooms>,
    id: &RoomId,
    user: &UserId,
    via: Vec<OwnedServerName>,
    reason: Option<&str>,
) -> Result<()> {
    let helpers = helpers(rooms, id, user, via)?;
    let room = match inside(rooms, id)? {
        Some(room) => room,
        None if helpers.is_empty() => rooms.find(id)?,
        None => {
            return knocking::knock(rooms, id, user, helpers, said(reason)).await;
        }
    };
    change(rooms, &room, |deciding| Ok(deciding.knock(user, reason)?.is_some())).await
}

/// Invites somebody of any server.
pub async fn invite(
    rooms: &Arc<Rooms>,
    room: &Arc<Room>,
    sender: &UserId,
    guest: &UserId,
    is_direct: bool,
    reason: Option<&str>,
) -> Result<()> {
    if !rooms.is_local(guest) {
        return inviting::outgoing(rooms, room, sender, guest, is_direct, reason).await;
    }
    change(rooms, room, |deciding| Ok(deciding.invite(sender, guest, is_direct, reason)?.is_some())).await
}

/// Changes a room; `what` says whether there is anything to save. It is called again where the room's policy server
/// had to be asked.
pub async fn change(rooms: &Rooms, room: &Room, mut what: impl FnMut(&mut Deciding<'_>) -> Result<bool>) -> Result<()> {
    let attempt = || {
        let mut deciding = rooms.decide(room);
        match what(&mut deciding)? {
            true => deciding.commit().map(Some),
            false => Ok(None),
        }
    };
    if let Some(ticket) = policy::approved(rooms, attempt).await? {
        ticket.published().await?;
    }
    Ok(())
}
