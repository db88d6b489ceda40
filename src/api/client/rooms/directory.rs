//! The directory of public rooms.

use ruma::{
    OwnedRoomId, ServerName,
    api::client::{
        directory::{get_public_rooms, get_public_rooms_filtered, get_room_visibility},
        room::Visibility,
    },
};
use serde::Deserialize;

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    rooms::directory::{self, Query},
};

/// Answers whether a room is in the directory.
pub async fn is_listed(
    ctx: Ctx,
    _: (),
    req: get_room_visibility::v3::Request,
) -> Result<get_room_visibility::v3::Response> {
    let visibility = match directory::is_published(&ctx.rooms, &req.room_id)? {
        true => Visibility::Public,
        false => Visibility::Private,
    };
    Ok(get_room_visibility::v3::Response::new(visibility))
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    visibility: Option<Visibility>,
}

/// Puts a room into the directory, or takes it out. Read by hand, because the specification lets the visibility be
/// left out.
pub async fn list(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    user.may_act()?;
    let room = raw.args.first().cloned().unwrap_or_default();
    let room = OwnedRoomId::try_from(room).map_err(|error| Error::invalid_param(error.to_string()))?;
    let listed = match raw.json::<Listed>().await?.visibility {
        None | Some(Visibility::Public) => true,
        Some(Visibility::Private) => false,
        Some(other) => return Err(Error::invalid_param(format!("a room is public or private, not {other}"))),
    };
    directory::publish(&ctx.rooms, &user.id, user.admin, &room, listed)?.published().await?;
    Ok(Reply::empty())
}

/// Answers the directory; to strangers only if the configuration says so.
pub async fn rooms(ctx: Ctx, user: Option<User>, raw: Raw) -> Result<Reply> {
    if user.is_none() && !ctx.config.directory.allow_without_login {
        return Err(Error::missing_token());
    }
    let req: get_public_rooms::v3::Request = raw.typed().await?;
    let query = Query { limit: req.limit.map(Into::into), since: req.since, ..Query::default() };
    match elsewhere(&ctx, req.server.as_deref()) {
        // Strangers do not choose whom this server asks.
        Some(_) if user.is_none() => Err(Error::missing_token()),
        Some(server) => Reply::value(&directory::elsewhere(&ctx.rooms, server, query, Default::default()).await?),
        None => Reply::value(&directory::list(&ctx.rooms, &query, None)?),
    }
}

/// Answers those rooms of the directory that fit.
pub async fn search(ctx: Ctx, _: User, req: get_public_rooms_filtered::v3::Request) -> Result<Reply> {
    let query = Query {
        limit: req.limit.map(Into::into),
        since: req.since,
        term: req.filter.generic_search_term,
        kinds: req.filter.room_types,
    };
    match elsewhere(&ctx, req.server.as_deref()) {
        Some(server) => Reply::value(&directory::elsewhere(&ctx.rooms, server, query, req.room_network).await?),
        None => Reply::value(&directory::list(&ctx.rooms, &query, None)?),
    }
}

/// The other server whose directory is meant, if it is not this one's.
fn elsewhere<'a>(ctx: &Ctx, server: Option<&'a ServerName>) -> Option<&'a ServerName> {
    server.filter(|server| !crate::remote::is_own(&ctx.config, server))
}
