//! Filters that clients store to name them in `/sync`.
//!
//! Spec: client-server-api#filtering

use ruma::api::client::filter::{FilterDefinition, get_filter};
use serde_json::{Value, json};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, Reply, User},
    users::filters,
};

/// Stores a filter. It is kept as the client wrote it, with what ruma does not know.
pub async fn create(ctx: Ctx, user: User, raw: Raw) -> Result<Reply> {
    if raw.args.first().map(String::as_str) != Some(user.id.as_str()) {
        return Err(Error::forbidden("you can store filters of your own only"));
    }
    let filter: Value = raw.json().await?;
    let json = filter.to_string();
    serde_json::from_value::<FilterDefinition>(filter)
        .map_err(|error| Error::bad_json(format!("this is no filter: {error}")))?;
    Reply::value(&json!({ "filter_id": filters::store(&ctx.users, user.number, json).await? }))
}

/// Shows a stored filter.
pub async fn get(ctx: Ctx, user: User, req: get_filter::v3::Request) -> Result<Reply> {
    if user.id != req.user_id {
        return Err(Error::forbidden("you can see filters of your own only"));
    }
    let filter = filters::find(&ctx.users, user.number, &req.filter_id)?;
    filter.map(Reply::json).ok_or_else(|| Error::not_found("you have stored no such filter"))
}
