//! Names of rooms.

use ruma::api::client::{
    alias::{create_alias, delete_alias, get_alias},
    room::aliases as room_aliases,
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    rooms::{aliases, doors},
};

/// Gives a room a name.
pub async fn put(ctx: Ctx, user: User, req: create_alias::v3::Request) -> Result<create_alias::v3::Response> {
    user.may_act()?;
    aliases::add(&ctx.rooms, &user.id, &req.room_alias, &req.room_id)?.published().await?;
    Ok(create_alias::v3::Response::new())
}

/// Answers which room a name means.
pub async fn get(ctx: Ctx, _: (), req: get_alias::v3::Request) -> Result<get_alias::v3::Response> {
    let (room, servers) = doors::find_alias(&ctx.rooms, &req.room_alias).await?;
    Ok(get_alias::v3::Response::new(room, servers))
}

/// Takes a name from its room.
pub async fn delete(ctx: Ctx, user: User, req: delete_alias::v3::Request) -> Result<delete_alias::v3::Response> {
    user.may_act()?;
    if req.room_alias.server_name() != ctx.config.server_name {
        return Err(Error::not_found(format!("{} is not an alias of this server", req.room_alias)));
    }
    aliases::remove(&ctx.rooms, &user.id, user.admin, &req.room_alias).await?.published().await?;
    Ok(delete_alias::v3::Response::new())
}

/// Lists the names of a room.
pub async fn of_room(ctx: Ctx, user: User, req: room_aliases::v3::Request) -> Result<room_aliases::v3::Response> {
    Ok(room_aliases::v3::Response::new(aliases::of_room(&ctx.rooms, &user.id, &req.room_id)?))
}
