//! One's own account: who am I, the password, giving it up.

use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus, change_password, deactivate, get_3pids, request_openid_token, whoami,
};
use ruma::authentication::TokenType;

use super::uia::{Asked, Guarded, require};
use crate::{
    admin,
    app::Ctx,
    error::{Error, Result},
    http::User,
    users::{accounts, uia::Stage},
};

/// Says whose token this is.
pub async fn whoami(_: Ctx, user: User, _: whoami::v3::Request) -> Result<whoami::v3::Response> {
    let mut answer = whoami::v3::Response::new(user.id, user.guest);
    answer.device_id = Some(user.device);
    Ok(answer)
}

/// Sets a new password; logs other devices out unless the client asks not to.
pub async fn password(
    ctx: Ctx,
    user: Option<User>,
    asked: Guarded<change_password::v3::Request>,
) -> Result<change_password::v3::Response> {
    // Without a token one would prove an e-mail address, of which this server knows none.
    let user = user.ok_or_else(Error::missing_token)?;
    confirm(&ctx, "account/password", &user, asked.subject, asked.proof).await?;
    let others = asked.request.logout_devices.then_some(&*user.device);
    accounts::set_password(&ctx.users, user.number, &asked.request.new_password, others).await?;
    Ok(change_password::v3::Response::new())
}

/// Gives the account up for ever.
pub async fn deactivate(
    ctx: Ctx,
    user: Option<User>,
    asked: Guarded<deactivate::v3::Request>,
) -> Result<deactivate::v3::Response> {
    let user = user.ok_or_else(Error::missing_token)?;
    confirm(&ctx, "account/deactivate", &user, asked.subject, asked.proof).await?;
    accounts::deactivate(&ctx.users, user.number, asked.request.erase).await?;
    admin::accounts::leave_all(&ctx.rooms, user.number, &user.id).await?;
    // There is nothing to unbind.
    Ok(deactivate::v3::Response::new(ThirdPartyIdRemovalStatus::Success))
}

/// Goes on only if the user knows the password.
pub async fn confirm(
    ctx: &Ctx,
    endpoint: &'static str,
    user: &User,
    subject: String,
    proof: Option<super::uia::Proof>,
) -> Result<()> {
    let flows: &[&[Stage]] = &[&[Stage::Password]];
    require(ctx, Asked { endpoint, subject, user: Some(user), flows }, proof).await?;
    Ok(())
}

/// Lists the user's e-mail addresses and phone numbers, of which this server keeps none.
pub async fn contacts(_: Ctx, _: User, _: get_3pids::v3::Request) -> Result<get_3pids::v3::Response> {
    Ok(get_3pids::v3::Response::new(vec![]))
}

/// Gives a token with which the user shows another program who they are.
///
/// Spec: client-server-api#openid
pub async fn openid_token(
    ctx: Ctx,
    user: User,
    req: request_openid_token::v3::Request,
) -> Result<request_openid_token::v3::Response> {
    if user.id != req.user_id {
        return Err(Error::forbidden("you can ask for a token of your own only"));
    }
    let tokens = ctx.users.open_ids();
    let token = tokens.issue(&ctx.chance, ctx.clock.now(), user.number);
    let server = ctx.users.server_name.clone();
    Ok(request_openid_token::v3::Response::new(token, TokenType::Bearer, server, tokens.lifetime()))
}
