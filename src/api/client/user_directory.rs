//! Finding people.

use ruma::{
    UInt, UserId,
    api::client::{membership::get_mutual_rooms, user_directory::search_users},
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Raw, User},
    rooms::people,
};

/// Answers who has such a name.
pub async fn search(ctx: Ctx, user: User, req: search_users::v3::Request) -> Result<search_users::v3::Response> {
    let rooms = ctx.rooms.clone();
    let look = move || people::search(&rooms, user.number, &req.search_term, req.limit.into());
    let (found, limited) = tokio::task::spawn_blocking(look).await.map_err(Error::internal)??;
    let results = found.into_iter().map(|person| {
        let mut entry = search_users::v3::User::new(person.id);
        entry.display_name = person.name;
        entry.avatar_url = person.avatar.map(Into::into);
        entry
    });
    Ok(search_users::v3::Response::new(results.collect(), limited))
}

/// Answers in which rooms the caller meets somebody. Read by hand, because a missing `user_id` has an errcode of its
/// own.
pub async fn mutual_rooms(ctx: Ctx, user: User, raw: Raw) -> Result<get_mutual_rooms::v1::Response> {
    let other = raw.parameter("user_id").unwrap_or_default();
    let other = UserId::parse(other).ok().filter(|other| other.validate_strict().is_ok());
    let other = other.ok_or_else(|| Error::invalid_param("user_id is not the ID of a user"))?;
    if *other == *user.id {
        return Err(Error::invalid_param("you share all of your rooms with yourself"));
    }
    if raw.parameter("from").is_some() {
        return Err(Error::invalid_param("this token was not given by this server"));
    }
    let rooms = people::mutual_rooms(&ctx.rooms, user.number, &other)?;
    let count = UInt::try_from(rooms.len()).unwrap_or(UInt::MAX);
    Ok(get_mutual_rooms::v1::Response::new(count, rooms))
}
