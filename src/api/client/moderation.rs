//! Locking and suspending accounts, for whoever runs the server.
//!
//! Spec: client-server-api#account-moderation

use ruma::{
    UserId,
    api::client::admin::{is_user_locked, is_user_suspended, lock_user, suspend_user},
};

use crate::{
    app::Ctx,
    error::{Error, Result},
    http::User,
    store::schema::{UserNo, users::AccountRow},
    users::accounts,
};

/// Says whether an account is locked.
pub async fn is_locked(
    ctx: Ctx,
    admin: User,
    req: is_user_locked::v1::Request,
) -> Result<is_user_locked::v1::Response> {
    let (_, account) = account(&ctx, &admin, &req.user_id)?;
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
    let (_, account) = account(&ctx, &admin, &req.user_id)?;
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

/// An account that does not belong to an admin, the caller included.
fn lesser(ctx: &Ctx, admin: &User, id: &UserId) -> Result<UserNo> {
    match account(ctx, admin, id)? {
        (_, account) if account.admin => Err(Error::forbidden("admins are neither locked nor suspended")),
        (number, _) => Ok(number),
    }
}
