//! Making rooms.

use ruma::api::client::room::{Visibility, create_room};
use tracing::info;

use crate::{
    app::Ctx,
    error::Result,
    http::User,
    rooms::{create as rooms_create, directory, doors, third_party},
};

/// Makes a room for the caller.
pub async fn create(ctx: Ctx, user: User, req: create_room::v3::Request) -> Result<create_room::v3::Response> {
    user.may_act()?;
    if req.visibility == Visibility::Public {
        directory::check_may_publish(&ctx.rooms, user.admin)?;
    }
    let (guests, is_direct) = (req.invite.clone(), req.is_direct);
    let by_address = req.invite_3pid.clone();
    let (room, ticket) = rooms_create::create(&ctx.rooms, &user.id, req)?;
    ticket.published().await?;
    for guest in guests.iter().filter(|guest| !ctx.rooms.is_local(guest)) {
        // The room is there; who could not be reached can be invited again.
        if let Err(error) = doors::invite(&ctx.rooms, &room, &user.id, guest, is_direct, None).await {
            info!(room = %room.id, "{guest} could not be invited to a new room: {error:?}");
        }
    }
    for guest in &by_address {
        if let Err(error) = third_party::invite(&ctx.rooms, &room, &user.id, guest, is_direct).await {
            info!(room = %room.id, "somebody could not be invited by address to a new room: {error:?}");
        }
    }
    Ok(create_room::v3::Response::new(room.id.clone()))
}
