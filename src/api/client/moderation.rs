//! Locking and suspending accounts, and where somebody is logged in, for whoever runs the server.
//!
//! Spec: client-server-api#account-moderation, client-server-api#server-administration

use ruma::{
    MilliSecondsSinceUnixEpoch, UInt, UserId,
    api::client::admin::{
        get_user_info::{
            self,
            v3::{ConnectionInfo, DeviceInfo, SessionInfo},
        },
        is_user_locked, is_user_suspended, lock_user, suspend_user,
    },
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    store::schema::{UserNo, users::AccountRow},
    users::{accounts, devices},
};

/// Says from where somebody was last seen, on each of their devices. Everybody may ask for themselves.
pub async fn whois(ctx: Ctx, caller: User, req: get_user_info::v3::Request) -> Result<get_user_info::v3::Response> {
    let number = match caller.id == req.user_id {
        true => caller.number,
        false => account(&ctx, &caller, &req.user_id)?.0,
    };
    let mut answer = get_user_info::v3::Response::new();
    for device in devices::of_user(&ctx.users, number)? {
        let mut connection = ConnectionInfo::new();
        connection.ip = device.seen_from;
        connection.last_seen = device.seen_at.map(|at| MilliSecondsSinceUnixEpoch(UInt::new_saturating(at)));
        connection.user_agent = device.seen_with;
        let (mut info, mut session) = (DeviceInfo::new(), SessionInfo::new());
        session.connections.extend(connection.last_seen.is_some().then_some(connection));
        info.sessions.push(session);
        answer.devices.insert(device.id.to_string(), info);
    }
    answer.user_id = Some(req.user_id);
    Ok(answer)
}

/// Says whether an account is locked.
pub async fn is_locked(
    ctx: Ctx,
    admin: User,
    req: is_user_locked::v1::Request,
) -> Result<is_user_locked::v1::Response> {
    let account = shown(&ctx, &admin, &req.user_id)?;
    Ok(is_user_locked::v1::Response::new(account.locked))
}

/// Locks or unlocks an account.
pub async fn lock(ctx: Ctx, admin: User, req: lock_user::v1::Request) -> Result<lock_user::v1::Response> {
    let number = lesser(&ctx, &admin, &req.user_id)?;
    accounts::change(&ctx.users, number, |account| account.locked = req.locked).await?;
    Ok(lock_user::v1::Response::new(req.locked))
}

/// Says whether an account is suspended.
pub async fn is_suspended(
    ctx: Ctx,
    admin: User,
    req: is_user_suspended::v1::Request,
) -> Result<is_user_suspended::v1::Response> {
    let account = shown(&ctx, &admin, &req.user_id)?;
    Ok(is_user_suspended::v1::Response::new(account.suspended))
}

/// Suspends an account, or ends that.
pub async fn suspend(ctx: Ctx, admin: User, req: suspend_user::v1::Request) -> Result<suspend_user::v1::Response> {
    let number = lesser(&ctx, &admin, &req.user_id)?;
    accounts::change(&ctx.users, number, |account| account.suspended = req.suspended).await?;
    Ok(suspend_user::v1::Response::new(req.suspended))
}

fn account(ctx: &Ctx, admin: &User, id: &UserId) -> Result<(UserNo, AccountRow)> {
    if !admin.admin {
        return Err(Error::forbidden("this is for whoever runs the server"));
    }
    if !ctx.users.is_local(id) {
        return Err(Error::invalid_param("accounts of other servers are moderated there"));
    }
    let account = accounts::by_id(&ctx.users, id)?.filter(|(_, account)| !account.deactivated);
    account.ok_or_else(|| Error::not_found("there is no such account"))
}

/// An account of which an admin may know how it stands: everybody's but that of another admin.
fn shown(ctx: &Ctx, admin: &User, id: &UserId) -> Result<AccountRow> {
    match account(ctx, admin, id)? {
        (number, account) if account.admin && number != admin.number => {
            Err(Error::forbidden("admins do not look after each other"))
        }
        (_, account) => Ok(account),
    }
}

/// An account that does not belong to an admin, the caller included.
fn lesser(ctx: &Ctx, admin: &User, id: &UserId) -> Result<UserNo> {
    match account(ctx, admin, id)? {
        (_, account) if account.admin => Err(Error::forbidden("admins are neither locked nor suspended")),
        (number, _) => Ok(number),
    }
}
