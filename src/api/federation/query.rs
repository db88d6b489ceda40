//! What other servers ask about aliases and people of this one.
//!
//! Spec: server-server-api#querying-for-information

use ruma::api::federation::query::{get_profile_information, get_room_information};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::Origin,
    rooms::{aliases, forks},
    store::schema::numbers,
    users::{accounts, profiles},
};

/// The room behind an alias of this server, and the servers that are in it.
pub async fn directory(
    ctx: Ctx,
    _: Origin,
    request: get_room_information::v1::Request,
) -> Result<get_room_information::v1::Response> {
    let not_found = || Error::not_found("this server has no such alias");
    let row = aliases::find(&ctx.store, &request.room_alias)?.ok_or_else(not_found)?;
    let room_id = numbers::room_id(&ctx.store, row.room)?.ok_or_else(not_found)?;
    Ok(get_room_information::v1::Response::new(room_id, forks::servers(&ctx.rooms, row.room)?))
}

/// The profile of a user of this server, or one field of it.
pub async fn profile(
    ctx: Ctx,
    _: Origin,
    request: get_profile_information::v1::Request,
) -> Result<get_profile_information::v1::Response> {
    let not_found = || Error::not_found("this server has no such user");
    if !ctx.rooms.is_local(&request.user_id) {
        return Err(not_found());
    }
    let (number, account) = accounts::by_id(&ctx.users, &request.user_id)?.ok_or_else(not_found)?;
    if account.deactivated {
        return Err(not_found());
    }
    let mut fields = profiles::all(&ctx.users, number)?;
    if let Some(field) = &request.field {
        fields.retain(|name, _| name == field.as_str());
    }
    let fields = serde_json::to_value(&fields).map_err(Error::internal)?;
    let profile = serde_json::from_value(fields).map_err(Error::internal)?;
    let mut response = get_profile_information::v1::Response::new();
    response.data = profile;
    Ok(response)
}
