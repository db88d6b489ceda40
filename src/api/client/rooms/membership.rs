//! Joining, leaving, inviting and banning.

use ruma::{
    api::client::{
        knock::knock_room,
        membership::{
            ban_user, forget_room,
            invite_user::{self, v3::InvitationRecipient},
            join_room_by_id, join_room_by_id_or_alias, joined_rooms, kick_user, leave_room, unban_user,
        },
    },
    events::room::member::MembershipState,
};

use super::done;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    rooms::{access, append::Deciding, doors, membership, partial, third_party},
    store::schema::numbers,
};

/// Lists the rooms that the caller is in.
pub async fn joined_rooms(ctx: Ctx, user: User, _: joined_rooms::v3::Request) -> Result<joined_rooms::v3::Response> {
    let mut ids = Vec::new();
    for room in access::rooms_of(&ctx.rooms, user.number, &MembershipState::Join)? {
        ids.extend(numbers::room_id(&ctx.store, room)?);
    }
    Ok(joined_rooms::v3::Response::new(ids))
}

/// Invites somebody.
pub async fn invite(ctx: Ctx, user: User, req: invite_user::v3::Request) -> Result<invite_user::v3::Response> {
    user.may_act()?;
    let room = ctx.rooms.joined(&req.room_id, &user.id)?;
    partial::whole(&ctx.rooms, &room).await?;
    match &req.recipient {
        InvitationRecipient::UserId(guest) => {
            doors::invite(&ctx.rooms, &room, &user.id, &guest.user_id, false, guest.reason.as_deref()).await?;
        }
        InvitationRecipient::ThirdPartyId(guest) => {
            third_party::invite(&ctx.rooms, &room, &user.id, guest, false).await?;
        }
        _ => return Err(Error::invalid_param("name a user, or an address or phone number")),
    }
    Ok(invite_user::v3::Response::new())
}

/// Lets the caller into a room that is named by its ID.
pub async fn join_by_id(
    ctx: Ctx,
    user: User,
    req: join_room_by_id::v3::Request,
) -> Result<join_room_by_id::v3::Response> {
    user.may_act()?;
    if let Some(proof) = &req.third_party_signed {
        third_party::prove(&ctx.rooms, &req.room_id, &user.id, proof).await?;
    }
    doors::enter(&ctx.rooms, &req.room_id, &user.id, user.guest, vec![], req.reason.as_deref()).await?;
    Ok(join_room_by_id::v3::Response::new(req.room_id))
}

/// Lets the caller into a room that is named by its ID or an alias.
pub async fn join(
    ctx: Ctx,
    user: User,
    req: join_room_by_id_or_alias::v3::Request,
) -> Result<join_room_by_id_or_alias::v3::Response> {
    user.may_act()?;
    let (room, via) = doors::resolve(&ctx.rooms, &req.room_id_or_alias, req.via).await?;
    if let Some(proof) = &req.third_party_signed {
        third_party::prove(&ctx.rooms, &room, &user.id, proof).await?;
    }
    doors::enter(&ctx.rooms, &room, &user.id, user.guest, via, req.reason.as_deref()).await?;
    Ok(join_room_by_id_or_alias::v3::Response::new(room))
}

/// Asks for the caller to be let in.
pub async fn knock(ctx: Ctx, user: User, req: knock_room::v3::Request) -> Result<knock_room::v3::Response> {
    user.may_act()?;
    let (room, via) = doors::resolve(&ctx.rooms, &req.room_id_or_alias, req.via).await?;
    doors::knock(&ctx.rooms, &room, &user.id, via, req.reason.as_deref()).await?;
    Ok(knock_room::v3::Response::new(room))
}

/// Makes the caller forget a room that they have left.
pub async fn forget(ctx: Ctx, user: User, req: forget_room::v3::Request) -> Result<forget_room::v3::Response> {
    done(membership::forget(&ctx.rooms, &user.id, &req.room_id)?).await?;
    Ok(forget_room::v3::Response::new())
}

/// Takes the caller out of a room, or declines an invitation to it.
pub async fn leave(ctx: Ctx, user: User, req: leave_room::v3::Request) -> Result<leave_room::v3::Response> {
    doors::leave(&ctx.rooms, &req.room_id, &user.id, req.reason.as_deref()).await?;
    Ok(leave_room::v3::Response::new())
}

/// Removes somebody from a room.
pub async fn kick(ctx: Ctx, user: User, req: kick_user::v3::Request) -> Result<kick_user::v3::Response> {
    user.may_act()?;
    let room = ctx.rooms.joined(&req.room_id, &user.id)?;
    partial::whole(&ctx.rooms, &room).await?;
    let kick = |deciding: &mut Deciding<'_>| deciding.kick(&user.id, &req.user_id, req.reason.as_deref());
    doors::change(&ctx.rooms, &room, |deciding| kick(deciding).map(|_| true)).await?;
    Ok(kick_user::v3::Response::new())
}

/// Bans somebody from a room.
pub async fn ban(ctx: Ctx, user: User, req: ban_user::v3::Request) -> Result<ban_user::v3::Response> {
    user.may_act()?;
    let room = ctx.rooms.joined(&req.room_id, &user.id)?;
    partial::whole(&ctx.rooms, &room).await?;
    let ban = |deciding: &mut Deciding<'_>| deciding.ban(&user.id, &req.user_id, req.reason.as_deref());
    doors::change(&ctx.rooms, &room, |deciding| ban(deciding).map(|event| event.is_some())).await?;
    Ok(ban_user::v3::Response::new())
}

/// Lifts a ban.
pub async fn unban(ctx: Ctx, user: User, req: unban_user::v3::Request) -> Result<unban_user::v3::Response> {
    user.may_act()?;
    let room = ctx.rooms.joined(&req.room_id, &user.id)?;
    partial::whole(&ctx.rooms, &room).await?;
    let unban = |deciding: &mut Deciding<'_>| deciding.unban(&user.id, &req.user_id, req.reason.as_deref());
    doors::change(&ctx.rooms, &room, |deciding| unban(deciding).map(|_| true)).await?;
    Ok(unban_user::v3::Response::new())
}
