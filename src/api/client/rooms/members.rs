//! Who is in a room.

use ruma::{
    api::client::membership::{
        get_member_events,
        joined_members::{self, v3::RoomMember},
    },
    events::room::member::MembershipState,
};

use super::list as json_list;
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Reply, User},
    rooms::{
        partial,
        read::{self, MemberQuery},
        view::Viewer,
    },
};

/// The memberships that one can ask for.
const KNOWN: &[MembershipState] = &[
    MembershipState::Join,
    MembershipState::Invite,
    MembershipState::Knock,
    MembershipState::Leave,
    MembershipState::Ban,
];

/// Answers the member events of a room.
pub async fn list(ctx: Ctx, user: User, req: get_member_events::v3::Request) -> Result<Reply> {
    for membership in req.membership.iter().chain(&req.not_membership) {
        if !KNOWN.contains(membership) {
            return Err(Error::invalid_param(format!("there is no membership {membership}")));
        }
    }
    let viewer = Viewer::new(&ctx.rooms, &user.id, Some(&user.device))?;
    let query = MemberQuery { at: req.at, is: req.membership, is_not: req.not_membership };
    partial::whole_by_id(&ctx.rooms, &req.room_id).await?;
    let members = read::members(&ctx.rooms, &viewer, &req.room_id, &query)?;
    Ok(Reply::json(format!("{{\"chunk\":{}}}", json_list(&members))))
}

/// Answers who is joined, with names and avatars.
pub async fn joined(ctx: Ctx, user: User, req: joined_members::v3::Request) -> Result<joined_members::v3::Response> {
    partial::whole_by_id(&ctx.rooms, &req.room_id).await?;
    let members = read::joined_members(&ctx.rooms, &user.id, &req.room_id)?;
    let joined = members.iter().filter_map(|known| {
        let mut member = RoomMember::new();
        member.display_name = known.event.content_field("displayname");
        member.avatar_url = known.event.content_field("avatar_url");
        Some((known.event.state_key.as_deref()?.try_into().ok()?, member))
    });
    Ok(joined_members::v3::Response::new(joined.collect()))
}
