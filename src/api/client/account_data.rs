//! What clients keep at the server for their user: account data and tags.
//!
//! Spec: client-server-api#client-config, client-server-api#room-tagging

use http::StatusCode;
use ruma::{
    RoomId, UserId,
    api::client::{
        config::{get_global_account_data, get_room_account_data, set_global_account_data, set_room_account_data},
        tag::{create_tag, delete_tag, get_tags},
    },
};
use serde_json::{Value, json};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Reply, User},
    store::schema::{RoomNo, numbers},
    users::account_data,
};

/// Types that the server writes itself.
const OURS: &[&str] = &["m.fully_read", "m.push_rules"];
/// How long a tag may be, in bytes.
const LONGEST_TAG: usize = 255;

/// Keeps something for all rooms.
pub async fn set(
    ctx: Ctx,
    user: User,
    req: set_global_account_data::v3::Request,
) -> Result<set_global_account_data::v3::Response> {
    own(&user, &req.user_id)?;
    let kind = free(req.event_type.to_string())?;
    account_data::set(&ctx.users, user.number, None, &kind, req.data.json().get().to_owned()).await?;
    Ok(set_global_account_data::v3::Response::new())
}

/// Keeps something for one room.
pub async fn set_in_room(
    ctx: Ctx,
    user: User,
    req: set_room_account_data::v3::Request,
) -> Result<set_room_account_data::v3::Response> {
    own(&user, &req.user_id)?;
    let kind = free(req.event_type.to_string())?;
    let room = room(&ctx, &req.room_id)?;
    account_data::set(&ctx.users, user.number, Some(room), &kind, req.data.json().get().to_owned()).await?;
    Ok(set_room_account_data::v3::Response::new())
}

/// Shows what is kept for all rooms.
pub async fn get(ctx: Ctx, user: User, req: get_global_account_data::v3::Request) -> Result<Reply> {
    own(&user, &req.user_id)?;
    shown(account_data::find(&ctx.users, user.number, None, &req.event_type.to_string())?)
}

/// Shows what is kept for one room.
pub async fn get_in_room(ctx: Ctx, user: User, req: get_room_account_data::v3::Request) -> Result<Reply> {
    own(&user, &req.user_id)?;
    let room = room(&ctx, &req.room_id)?;
    shown(account_data::find(&ctx.users, user.number, Some(room), &req.event_type.to_string())?)
}

/// Lists the tags of a room.
pub async fn tags(ctx: Ctx, user: User, req: get_tags::v3::Request) -> Result<Reply> {
    own(&user, &req.user_id)?;
    let room = room(&ctx, &req.room_id)?;
    let tags = account_data::find(&ctx.users, user.number, Some(room), "m.tag")?;
    Ok(Reply::json(tags.unwrap_or_else(|| r#"{"tags":{}}"#.to_owned())))
}

/// Tags a room.
pub async fn set_tag(ctx: Ctx, user: User, req: create_tag::v3::Request) -> Result<create_tag::v3::Response> {
    own(&user, &req.user_id)?;
    let (room, tag) = (room(&ctx, &req.room_id)?, req.tag);
    if tag.len() > LONGEST_TAG {
        return Err(Error::invalid_param(format!("a tag has at most {LONGEST_TAG} bytes")));
    }
    let info = serde_json::to_value(&req.tag_info).map_err(Error::internal)?;
    edit_tags(&ctx, &user, room, move |tags| tags[tag] = info).await?;
    Ok(create_tag::v3::Response::new())
}

/// Takes a tag off a room.
pub async fn remove_tag(ctx: Ctx, user: User, req: delete_tag::v3::Request) -> Result<delete_tag::v3::Response> {
    own(&user, &req.user_id)?;
    let room = room(&ctx, &req.room_id)?;
    let remove = move |tags: &mut Value| drop(tags.as_object_mut().and_then(|tags| tags.remove(&req.tag)));
    edit_tags(&ctx, &user, room, remove).await?;
    Ok(delete_tag::v3::Response::new())
}

async fn edit_tags(ctx: &Ctx, user: &User, room: RoomNo, change: impl FnOnce(&mut Value)) -> Result<()> {
    let edit = |before: Option<Value>| {
        // A client may have kept anything under this type.
        let known = before.filter(|content| content.get("tags").is_some_and(Value::is_object));
        let mut content = known.unwrap_or_else(|| json!({ "tags": {} }));
        change(&mut content["tags"]);
        Ok(content)
    };
    account_data::edit(&ctx.users, user.number, Some(room), "m.tag", edit).await
}

fn own(user: &User, named: &UserId) -> Result<()> {
    match user.id == *named {
        true => Ok(()),
        false => Err(Error::forbidden("this is for what you keep yourself")),
    }
}

fn free(kind: String) -> Result<String> {
    match OURS.contains(&kind.as_str()) {
        false => Ok(kind),
        true => {
            let message = format!("{kind} is kept by the server and has endpoints of its own");
            Err(Error::new(StatusCode::METHOD_NOT_ALLOWED, "M_BAD_JSON", message))
        }
    }
}

fn room(ctx: &Ctx, id: &RoomId) -> Result<RoomNo> {
    numbers::find_room(&ctx.store, id)?.ok_or_else(|| Error::not_found("this server does not know the room"))
}

fn shown(json: Option<String>) -> Result<Reply> {
    json.map(Reply::json).ok_or_else(|| Error::not_found("nothing is kept under this type"))
}
