//! What the server itself tells its people: one room for each of them, in which only the server speaks.
//!
//! The room is tagged, so that clients show it as what it is. Its guest cannot decline it, unless the configuration
//! says so; who has joined may leave, and is invited again with the next notice.
//!
//! Spec: client-server-api#server-notices

use std::sync::Arc;

use http::StatusCode;
use ruma::{
    OwnedEventId, OwnedUserId, RoomId, UserId,
    api::client::room::create_room::v3::{Request, RoomPreset},
    events::room::member::MembershipState,
    serde::Raw,
};
use serde_json::{json, value::to_raw_value};

use super::{Room, Rooms, append::NewEvent, create, doors};
use crate::{
    error::{Error, Result},
    protocol::canonical,
    store::{
        Ticket,
        schema::{
            UserNo, numbers,
            rooms::{NOTICE_ROOMS, USER_ROOMS},
        },
    },
    users::{
        account_data,
        accounts::{self, NewAccount},
        profiles,
    },
};

/// How long a notice may be, in bytes.
const LONGEST: usize = 16 << 10;
/// What kind of notice this is: the specification has none for what an admin has to say.
const KIND: &str = "ingle.announcement";

/// Whether this is the account that speaks for the server.
pub fn is_sender(rooms: &Rooms, user: &UserId) -> bool {
    rooms.is_local(user) && user.localpart() == rooms.config.notices.sender
}

/// Refuses to decline the server's own invitation: 403 `M_CANNOT_LEAVE_SERVER_NOTICE_ROOM`.
pub fn check_may_leave(rooms: &Rooms, room: &RoomId, user: &UserId) -> Result<()> {
    if rooms.config.notices.may_decline {
        return Ok(());
    }
    let (room, user) = (numbers::find_room(&rooms.store, room)?, numbers::find_user(&rooms.store, user)?);
    let (Some(room), Some(user)) = (room, user) else { return Ok(()) };
    let is_it = rooms.store.get(NOTICE_ROOMS, &user)? == Some(room);
    let row = if is_it { rooms.store.get(USER_ROOMS, &(user, room))? } else { None };
    match row.is_some_and(|row| row.membership == MembershipState::Invite) {
        false => Ok(()),
        true => Err(Error::new(
            StatusCode::FORBIDDEN,
            "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM",
            "whoever looks after this server speaks to you here: this invitation cannot be declined",
        )),
    }
}

/// Tells a user something. When it returns, it is durable.
///
/// Errors: 413 `M_TOO_LARGE`; 400 `M_INVALID_PARAM` if the account that is to speak is somebody else's.
pub async fn send(rooms: &Arc<Rooms>, user: UserNo, id: &UserId, text: &str) -> Result<OwnedEventId> {
    if text.len() > LONGEST {
        return Err(Error::too_large(format!("a notice has at most {LONGEST} bytes")));
    }
    let sender = sender(rooms).await?;
    let (room, ticket) = open(rooms, &sender, user, id)?;
    if let Some(ticket) = ticket {
        ticket.published().await?;
    }
    if matches!(rooms.membership(room.number, id)?, MembershipState::Leave | MembershipState::Knock) {
        doors::invite(rooms, &room, &sender, id, false, None).await?;
    }
    let content = json!({ "msgtype": "m.server_notice", "server_notice_type": KIND, "body": text });
    let content = canonical::to_object(&content).map_err(|error| Error::internal(error.to_string()))?;
    let (event, ticket) = {
        let mut deciding = rooms.decide(&room);
        let event = deciding.send(NewEvent::message(&sender, "m.room.message", content))?;
        (event.event_id.clone(), deciding.commit()?)
    };
    ticket.published().await?;
    Ok(event)
}

/// The account that speaks for the server, made now if it is not there. It has no password, so nobody logs in to it.
async fn sender(rooms: &Rooms) -> Result<OwnedUserId> {
    let id = accounts::new_id(&rooms.users, &rooms.config.notices.sender)?;
    match accounts::by_id(&rooms.users, &id)? {
        Some((_, account)) if account.password.is_some() || account.deactivated || account.bridge.is_some() => {
            let message = format!("{id} is the account of somebody else; name another one as notices.sender");
            return Err(Error::invalid_param(message));
        }
        Some(_) => return Ok(id),
        None => {}
    }
    let name = json!(rooms.config.notices.name);
    accounts::create(&rooms.users, &id, NewAccount::default(), None, |write| {
        let number = numbers::user(write, &id)?;
        profiles::put(write, number, "displayname", Some(&name))
    })
    .await?;
    Ok(id)
}

/// The room for a user, made now if there is none. Two notices at once find the same.
fn open(rooms: &Rooms, sender: &UserId, user: UserNo, id: &UserId) -> Result<(Arc<Room>, Option<Ticket>)> {
    let _lock = rooms.users.lock(user);
    if let Some(room) = rooms.store.write().get(NOTICE_ROOMS, &user)?
        && let Some(room) = rooms.open(room)?
    {
        return Ok((room, None));
    }
    let mut request = Request::new();
    request.name = Some(rooms.config.notices.name.clone());
    request.topic = Some(format!("What {} has to tell you", rooms.config.server_name));
    request.preset = Some(RoomPreset::PrivateChat);
    request.invite = vec![id.to_owned()];
    // Only the server speaks here, and only it invites.
    let levels = to_raw_value(&json!({ "users_default": -10, "invite": 50 })).map_err(Error::internal)?;
    request.power_level_content_override = Some(Raw::from_json(levels));
    let (room, ticket) = create::create_with(rooms, sender, request, |write, room| {
        write.put(NOTICE_ROOMS, &user, &room.number);
        let tag = json!({ "tags": { "m.server_notice": {} } }).to_string();
        account_data::put(write, user, Some(room.number), "m.tag", tag)
    })?;
    Ok((room, Some(ticket)))
}
