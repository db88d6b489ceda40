//! Who is in a room: by room, by user, by server, and as counts.

use ruma::{ServerName, UserId, events::room::member::MembershipState};

use crate::{
    error::Result,
    rooms::{Head, append::StateDelta, cache::Known, projections::outbox},
    store::{
        Write,
        schema::{
            UserNo,
            federation::Mover,
            numbers,
            rooms::{
                DEPARTED, LOCAL_MEMBERS, MEMBERS, MemberRow, ROOM_SERVERS, STRIPPED_STATE, USER_ROOMS, UserRoomRow,
            },
        },
    },
};

/// Keeps the members' rows; the user whose membership changes is woken.
pub fn project(write: &mut Write, delta: &StateDelta<'_>) -> Result<()> {
    let Some(member) = member(delta) else { return Ok(()) };
    let room = delta.room.number;
    let user = numbers::user(write, &member.user)?;
    match delta.new {
        Some(new) => note(write, delta, &member, user, new)?,
        None => vanish(write, delta, user)?,
    }
    if delta.rooms.is_local(&member.user) {
        match member.after == MembershipState::Join {
            true => write.put(LOCAL_MEMBERS, &(room, user), &()),
            false => write.delete(LOCAL_MEMBERS, &(room, user)),
        }
        write.wake(user);
    }
    let joined = |membership: &MembershipState| *membership == MembershipState::Join;
    let by = match (joined(&member.before), joined(&member.after)) {
        (false, true) => 1,
        (true, false) => -1,
        _ => return Ok(()),
    };
    let server = member.user.server_name();
    let first_or_last = count_server(write, delta, server, by)?;
    match delta.rooms.is_local(&member.user) {
        true => outbox::moved(write, delta.rooms, room, Mover::User(user)),
        false if first_or_last => outbox::moved(write, delta.rooms, room, Mover::Server(server.to_string())),
        false => Ok(()),
    }
}

/// Writes what a member event says of its user.
fn note(write: &mut Write, delta: &StateDelta<'_>, member: &Member, user: UserNo, new: &Known) -> Result<()> {
    let room = delta.room.number;
    let before = write.get(USER_ROOMS, &(user, room))?;
    let row = MemberRow { membership: member.after.clone(), event: new.number };
    write.put(MEMBERS, &(room, user), &row);
    let (membership, event) = (member.after.clone(), new.number);
    let forgotten = membership == MembershipState::Leave && before.as_ref().is_some_and(|row| row.forgotten);
    write.put_at(USER_ROOMS, delta.slot, move |at| {
        let (since, earlier) = match before {
            Some(row) if row.membership == membership => (row.since, row.before),
            row => (at, row.map(|row| row.membership)),
        };
        ((user, room), UserRoomRow { membership, event, since, before: earlier, forgotten })
    });
    if member.after != MembershipState::Invite && member.after != MembershipState::Knock {
        write.delete(STRIPPED_STATE, &(user, room));
    }
    Ok(())
}

/// Resolution has found that nothing was ever said of the user. Whoever was told otherwise learns that the user is
/// out: the row names the event that counts no more, and there is none with which they left.
fn vanish(write: &mut Write, delta: &StateDelta<'_>, user: UserNo) -> Result<()> {
    let room = delta.room.number;
    write.delete(MEMBERS, &(room, user));
    write.delete(STRIPPED_STATE, &(user, room));
    let Some(row) = write.get(USER_ROOMS, &(user, room))? else { return Ok(()) };
    write.put_at(USER_ROOMS, delta.slot, move |at| {
        let membership = MembershipState::Leave;
        let (since, before) = match row.membership == membership {
            true => (row.since, row.before),
            false => (at, Some(row.membership)),
        };
        ((user, room), UserRoomRow { membership, since, before, ..row })
    });
    Ok(())
}

/// Keeps what the head of the room knows of its members.
pub fn count(write: &mut Write, head: &mut Head, delta: &StateDelta<'_>) -> Result<()> {
    let Some(member) = member(delta) else { return Ok(()) };
    let weight = |membership: &MembershipState| match membership {
        MembershipState::Join => (1, 0),
        MembershipState::Invite => (0, 1),
        _ => (0, 0),
    };
    let (before, after) = (weight(&member.before), weight(&member.after));
    head.members.0 = (head.members.0 + after.0).saturating_sub(before.0);
    head.members.1 = (head.members.1 + after.1).saturating_sub(before.1);
    if delta.rooms.is_local(&member.user) {
        let user = numbers::user(write, &member.user)?;
        match after.0 {
            1 => head.locals.insert(user),
            _ => head.locals.remove(&user),
        };
    }
    Ok(())
}

/// A changed member event.
struct Member {
    user: ruma::OwnedUserId,
    before: MembershipState,
    after: MembershipState,
}

fn member(delta: &StateDelta<'_>) -> Option<Member> {
    if delta.kind != "m.room.member" {
        return None;
    }
    let membership =
        |known: Option<&Known>| known.and_then(|known| known.event.membership()).unwrap_or(MembershipState::Leave);
    Some(Member {
        user: UserId::parse(delta.state_key).ok()?,
        before: membership(delta.old),
        after: membership(delta.new),
    })
}

/// Counts the users of a server, and says whether the server has come into the room or left it.
fn count_server(write: &mut Write, delta: &StateDelta<'_>, server: &ServerName, by: i64) -> Result<bool> {
    let room = delta.room.number;
    let key = (room, server.as_str().to_owned());
    let before = write.get(ROOM_SERVERS, &key)?;
    // Of a room whose members are on their way, others of the server may be in it whom nobody here knows yet.
    match before.unwrap_or(0).saturating_add_signed(by) {
        0 if delta.room.is_partial() => {
            write.put(ROOM_SERVERS, &key, &0);
            Ok(false)
        }
        0 => {
            write.delete(ROOM_SERVERS, &key);
            write.put_at(DEPARTED, delta.slot, move |at| ((room, at, key.1), ()));
            Ok(true)
        }
        count => {
            write.put(ROOM_SERVERS, &key, &count);
            Ok(before.is_none())
        }
    }
}
