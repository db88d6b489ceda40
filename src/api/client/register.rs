//! Making an account.
//!
//! Who may, the configuration says: everybody, whoever knows a registration token, guests. Programs with
//! the shared secret have a way of their own in `admin_register`.
//!
//! Spec: client-server-api#legacy-account-registration

use ruma::api::client::account::{
    check_registration_token_validity as token_validity, get_username_availability as availability,
    register::{
        RegistrationKind,
        v3::{self, Request},
    },
};

use super::{
    login::welcome,
    uia::{Asked, Guarded, require},
};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Bridge, Reply},
    users::{
        User,
        accounts::{self, NewAccount},
        registration,
        sessions::NewDevice,
        uia::Stage,
    },
};

/// Makes an account.
pub async fn register(ctx: Ctx, _: Option<Bridge>, asked: Guarded<v3::Request>) -> Result<Reply> {
    let Guarded { request, proof, .. } = asked;
    match request.kind {
        RegistrationKind::User => {}
        RegistrationKind::Guest => return guest(&ctx, request).await,
        _ => return Err(Error::invalid_param("an account is of the kind `user` or `guest`")),
    }
    if request.login_type.is_some() {
        return Err(Error::new(http::StatusCode::UNAUTHORIZED, "M_MISSING_TOKEN", "this is for application services"));
    }
    let flows = flows(&ctx)?;
    let promoted = request.guest_access_token.as_deref().map(|token| ctx.users.identify(token)).transpose()?;
    let id = match (&request.username, &promoted) {
        (Some(name), Some(guest)) if guest.guest && name == guest.id.localpart() => guest.id.clone(),
        (_, Some(_)) => return Err(Error::forbidden("the token is not of the guest who has this name")),
        (Some(name), None) => accounts::new_id(&ctx.users, name)?,
        (None, None) => accounts::free_id(&ctx.users)?,
    };
    if promoted.is_none() {
        accounts::check_free(&ctx.users, &id)?;
    }
    if proof.is_some() && request.password.is_none() {
        return Err(Error::missing_param("choose a password"));
    }
    // Clients ask with an empty body what they must prove, and tell the rest later.
    let wanted = Asked { endpoint: "register", subject: String::new(), user: None, flows: &flows };
    let session = require(&ctx, wanted, proof).await?;
    finish(&ctx, &id, promoted, request, session.token).await
}

async fn finish(
    ctx: &Ctx,
    id: &ruma::UserId,
    promoted: Option<User>,
    request: Request,
    token: Option<String>,
) -> Result<Reply> {
    let password = request.password.unwrap_or_default();
    let device = (!request.inhibit_login).then_some(NewDevice {
        id: request.device_id,
        name: request.initial_device_display_name,
        refresh: request.refresh_token,
    });
    let login = match promoted {
        Some(guest) => accounts::promote(&ctx.users, guest.number, &password, device).await?,
        None => {
            let account = NewAccount { password: Some(password), ..Default::default() };
            let users = ctx.users.clone();
            let consume = move |write: &mut _| token.map_or(Ok(()), |t| registration::consume(&users, write, &t));
            accounts::create(&ctx.users, id, account, device, consume).await?
        }
    };
    Reply::value(&welcome(ctx, id, login))
}

/// What is proof enough, each in a flow of its own.
fn flows(ctx: &Ctx) -> Result<Vec<&'static [Stage]>> {
    let mut flows: Vec<&[Stage]> = Vec::new();
    if ctx.config.registration.open {
        flows.push(&[Stage::Dummy]);
    }
    if registration::has_tokens(&ctx.users)? {
        flows.push(&[Stage::RegistrationToken]);
    }
    match flows.is_empty() {
        false => Ok(flows),
        true => Err(Error::forbidden("whoever runs this server makes its accounts; ask them for one")),
    }
}

/// Spec: client-server-api#guest-access
async fn guest(ctx: &Ctx, request: Request) -> Result<Reply> {
    if !ctx.config.registration.guests {
        let message = "this server has no guests; make an account";
        return Err(Error::new(http::StatusCode::FORBIDDEN, "M_GUEST_ACCESS_FORBIDDEN", message));
    }
    let id = accounts::free_id(&ctx.users)?;
    let account = NewAccount { guest: true, ..Default::default() };
    let device = NewDevice { name: request.initial_device_display_name, ..Default::default() };
    let login = accounts::create(&ctx.users, &id, account, Some(device), |_| Ok(())).await?;
    Reply::value(&welcome(ctx, &id, login))
}

/// Says whether a name can be had.
pub async fn is_available(ctx: Ctx, (): (), req: availability::v3::Request) -> Result<availability::v3::Response> {
    let id = accounts::new_id(&ctx.users, &req.username)?;
    accounts::check_free(&ctx.users, &id)?;
    Ok(availability::v3::Response::new(true))
}

/// Says whether an account can be made with a registration token.
pub async fn is_token_valid(
    ctx: Ctx,
    (): (),
    req: token_validity::v1::Request,
) -> Result<token_validity::v1::Response> {
    if !registration::has_tokens(&ctx.users)? {
        return Err(Error::forbidden("this server has no registration tokens"));
    }
    Ok(token_validity::v1::Response::new(registration::is_valid(&ctx.users, &req.token)?))
}
