//! Finding people.

use ruma::{
    UInt,
    api::client::{membership::get_mutual_rooms, user_directory::search_users},
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    rooms::people,
};

/// Answers who has such a name.
pub async fn search(ctx: Ctx, user: User, req: search_users::v3::Request) -> Result<search_users::v3::Response> {
    let (found, limited) = people::search(&ctx.rooms, user.number, &req.search_term, req.limit.into())?;
    let results = found.into_iter().map(|person| {
        let mut entry = search_users::v3::User::new(person.id);
        entry.display_name = person.name;
        entry.avatar_url = person.avatar.map(Into::into);
        entry
    });
    Ok(search_users::v3::Response::new(results.collect(), limited))
}

/// Answers in which rooms the caller meets somebody.
pub async fn mutual_rooms(
    ctx: Ctx,
    user: User,
    req: get_mutual_rooms::v1::Request,
) -> Result<get_mutual_rooms::v1::Response> {
    if req.user_id == user.id {
        return Err(Error::invalid_param("you share all of your rooms with yourself"));
    }
    if req.from.is_some() {
        return Err(Error::invalid_param("this token was not given by this server"));
    }
    let rooms = people::mutual_rooms(&ctx.rooms, user.number, &req.user_id)?;
    let count = UInt::try_from(rooms.len()).unwrap_or(UInt::MAX);
    Ok(get_mutual_rooms::v1::Response::new(count, rooms))
}
