//! What is shown of rooms that one is perhaps not in: summaries, and the rooms of a space.

use ruma::api::client::{room::get_summary, space::get_hierarchy};
use serde_json::json;

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Reply, User},
    rooms::{
        doors,
        spaces::{self, Query},
    },
};

/// Answers what is shown of a room.
pub async fn summary(ctx: Ctx, user: Option<User>, req: get_summary::v1::Request) -> Result<Reply> {
    let (room, via) = doors::resolve(&ctx.rooms, &req.room_id_or_alias, req.via).await?;
    let user = user.as_ref().map(|user| &*user.id);
    let (summary, membership) = spaces::summary_for(&ctx.rooms, &room, user, via).await?;
    let mut answer = serde_json::to_value(&summary).map_err(Error::internal)?;
    if let Some(membership) = membership {
        answer["membership"] = json!(membership);
    }
    Reply::value(&answer)
}

/// Answers a page of the rooms of a space.
pub async fn hierarchy(ctx: Ctx, user: User, req: get_hierarchy::v1::Request) -> Result<Reply> {
    if req.limit.is_some_and(|limit| u64::from(limit) == 0) {
        return Err(Error::invalid_param("limit must be greater than zero"));
    }
    let query = Query {
        suggested_only: req.suggested_only,
        max_depth: req.max_depth.map(Into::into),
        limit: req.limit.map(Into::into),
        from: req.from,
    };
    Reply::value(&spaces::hierarchy(&ctx.rooms, &user.id, &req.room_id, &query).await?)
}
