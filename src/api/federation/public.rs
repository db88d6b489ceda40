//! What other servers see of rooms that they are perhaps not in: the directory, and the rooms of a space.
//!
//! Spec: server-server-api#public-room-directory, server-server-api#spaces

use ruma::{
    api::federation::{
        directory::{get_public_rooms, get_public_rooms_filtered},
        space::get_hierarchy,
    },
    directory::RoomNetwork,
};

use super::room;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Origin, Reply},
    rooms::{
        directory::{self, Query},
        spaces,
    },
};

/// The directory of this server.
pub async fn rooms(ctx: Ctx, origin: Origin, req: get_public_rooms::v1::Request) -> Result<Reply> {
    let query = Query { limit: req.limit.map(Into::into), since: req.since, ..Query::default() };
    list(&ctx, &origin, &query, &req.room_network)
}

/// Those rooms of the directory that fit.
pub async fn search(ctx: Ctx, origin: Origin, req: get_public_rooms_filtered::v1::Request) -> Result<Reply> {
    let query = Query {
        limit: req.limit.map(Into::into),
        since: req.since,
        term: req.filter.generic_search_term,
        kinds: req.filter.room_types,
    };
    list(&ctx, &origin, &query, &req.room_network)
}

fn list(ctx: &Ctx, origin: &Origin, query: &Query, network: &RoomNetwork) -> Result<Reply> {
    if !ctx.config.directory.allow_over_federation {
        return Err(Error::forbidden("this server shows its directory to its own users only"));
    }
    match network {
        // Those are the rooms of a bridge; what other servers may see of it, they see as rooms of Matrix.
        RoomNetwork::ThirdParty(_) => Reply::value(&directory::Listing::default()),
        _ => Reply::value(&directory::list(&ctx.rooms, query, Some(&origin.server))?),
    }
}

/// A room, and those just below it if it is a space.
pub async fn hierarchy(ctx: Ctx, origin: Origin, req: get_hierarchy::v1::Request) -> Result<Reply> {
    let room = room(&ctx, &req.room_id, &origin.server)?;
    Reply::value(&spaces::for_server(&ctx.rooms, &origin.server, &room, req.suggested_only)?)
}
