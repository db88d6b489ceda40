//! A changed name or avatar goes into every room that its owner is in, as a new member event.
//!
//! The change and a row that says what is left to do are one `Write`, so that a crash in the middle is made
//! up for at the next start ([`resume`]).
//!
//! Spec: client-server-api#events-on-change-of-profile-information

use ruma::{UserId, events::room::member::MembershipState};
use serde_json::Value;
use tracing::info;

use super::{Rooms, access, append::NewEvent, policy};
use crate::{
    error::Result,
    protocol::canonical::{self, Object},
    store::{
        Ticket,
        schema::{RoomNo, UserNo, numbers, rooms::PROFILE_JOBS},
    },
    users::profiles,
};

/// What the member event of a user says of this join alone, and not of its user.
const OF_THE_JOIN: &[&str] = &["reason", "is_direct", "third_party_invite", "join_authorised_via_users_server"];

/// Sets a field of a local user's profile, or removes it when there is no value. When it returns, the rooms show
/// it too.
pub async fn set(rooms: &Rooms, user: UserNo, field: &str, value: Option<&Value>) -> Result<()> {
    let is_shown = matches!(field, "displayname" | "avatar_url");
    let done = {
        let _lock = rooms.users.lock(user);
        let mut write = rooms.store.write();
        profiles::put(&mut write, user, field, value)?;
        if is_shown {
            let job = write.number();
            write.put(PROFILE_JOBS, &user, &job);
        }
        rooms.users.commit(write, vec![])
    };
    done.await?;
    match is_shown {
        true => spread(rooms, user).await,
        false => Ok(()),
    }
}

/// Finishes what a stop of the server has interrupted.
pub async fn resume(rooms: &Rooms) -> Result<()> {
    let jobs: Vec<_> = rooms.store.scan(PROFILE_JOBS, &()).collect::<Result<_, _>>()?;
    for (user, _) in jobs {
        spread(rooms, user).await?;
    }
    Ok(())
}

async fn spread(rooms: &Rooms, user: UserNo) -> Result<()> {
    let Some(job) = rooms.store.get(PROFILE_JOBS, &user)? else { return Ok(()) };
    let Some(id) = numbers::user_id(&rooms.store, user)? else { return Ok(()) };
    for room in access::rooms_of(rooms, user, &MembershipState::Join)? {
        match policy::approved(rooms, || renew(rooms, room, &id)).await {
            Ok(Some(ticket)) => drop(ticket.published().await?),
            Ok(None) => {}
            // The other rooms show it nevertheless.
            Err(error) => info!("the new profile of {id} does not reach a room: {error:?}"),
        }
    }
    let ticket = {
        let _lock = rooms.users.lock(user);
        let mut write = rooms.store.write();
        // A change that came meanwhile has a job of its own.
        if write.get(PROFILE_JOBS, &user)? != Some(job) {
            return Ok(());
        }
        write.delete(PROFILE_JOBS, &user);
        write.commit()?
    };
    ticket.published().await?;
    Ok(())
}

/// Sends the member event of a user again, if it does not show their profile.
fn renew(rooms: &Rooms, room: RoomNo, user: &UserId) -> Result<Option<Ticket>> {
    let Some(room) = rooms.open(room)? else { return Ok(None) };
    let mut deciding = rooms.decide(&room);
    let Some(member) = deciding.state("m.room.member", user.as_str())? else { return Ok(None) };
    if member.event.membership() != Some(MembershipState::Join) {
        return Ok(None);
    }
    let before: Object = canonical::parse_object(member.event.content().as_bytes(), room.rules.numbers)
        .map_err(crate::error::Error::internal)?;
    let mut content = before.clone();
    content.retain(|field, _| !matches!(field.as_str(), "displayname" | "avatar_url"));
    content.extend(rooms.member_profile(user)?);
    if content == before {
        return Ok(None);
    }
    content.retain(|field, _| !OF_THE_JOIN.contains(&field.as_str()));
    deciding.send(NewEvent::state(user, "m.room.member", user.as_str(), content))?;
    deciding.commit().map(Some)
}
