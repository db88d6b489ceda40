//! Logging in: by password, by a token that another device got, and refreshing access tokens.
//!
//! Spec: client-server-api#legacy-login

use ruma::{
    OwnedDeviceId, OwnedUserId, UserId,
    api::client::session::{get_login_token, get_login_types, refresh_token},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::uia::{Asked, Guarded, require};
use crate::{
    app::Ctx,
    error::{Error, Result},
    http::{Anyone, Raw, Reply, User},
    store::schema::UserNo,
    users::{
        Users, accounts, passwords,
        sessions::{self, Login, NewDevice},
        uia::Stage,
    },
};

/// Says how one can log in.
pub async fn flows(_: Ctx, (): (), _: get_login_types::v3::Request) -> Result<Reply> {
    Reply::value(&json!({ "flows": [
        { "type": "m.login.password" },
        { "type": "m.login.token", "get_login_token": true },
    ] }))
}

/// Names a user in a request. Read by hand: ruma knows the shape alone that clients have sent since 2018.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Identifier {
    #[serde(rename = "type")]
    kind: String,
    user: Option<String>,
}

impl Identifier {
    /// The user of this ID or localpart.
    pub fn user(name: &str) -> Self {
        Self { kind: "m.id.user".to_owned(), user: Some(name.to_owned()) }
    }

    /// The user of this server who is meant. Whoever types their name with a capital letter means the
    /// name without.
    pub fn local_user(&self, users: &Users) -> Option<OwnedUserId> {
        if self.kind != "m.id.user" {
            return None;
        }
        let name = self.user.as_deref()?.trim();
        let id = if name.starts_with('@') { name.to_owned() } else { format!("@{name}:{}", users.server_name) };
        let id = UserId::parse(&id).ok().filter(|id| users.is_local(id))?;
        match accounts::by_id(users, &id) {
            Ok(None) => {
                let small = format!("@{}:{}", id.localpart().to_lowercase(), users.server_name);
                UserId::parse(small).ok().map(|id| id.to_owned())
            }
            _ => Some(id.to_owned()),
        }
    }
}

#[derive(Deserialize)]
struct LoginBody {
    #[serde(rename = "type")]
    kind: String,
    identifier: Option<Identifier>,
    /// Where clients of before 2018 name the user.
    user: Option<String>,
    password: Option<String>,
    token: Option<String>,
    device_id: Option<OwnedDeviceId>,
    initial_device_display_name: Option<String>,
    #[serde(default)]
    refresh_token: bool,
}

/// Logs a device in.
pub async fn login(ctx: Ctx, anyone: Anyone, raw: Raw) -> Result<Reply> {
    let body: LoginBody = raw.json().await?;
    let number = match body.kind.as_str() {
        "m.login.password" => by_password(&ctx, &anyone, &body).await?,
        "m.login.token" => {
            let token = body.token.as_deref().ok_or_else(|| Error::missing_param("the token is missing"))?;
            let user = ctx.users.login_tokens().take(ctx.clock.now(), token);
            user.ok_or_else(|| Error::forbidden("this login token does not hold (any more)"))?
        }
        other => {
            return Err(Error::bad_request("M_UNKNOWN", format!("this server knows no login of the type {other}")));
        }
    };
    let account = accounts::find(&ctx.users, number)?.filter(|account| !account.deactivated);
    account.ok_or_else(deactivated)?;
    let device = NewDevice { id: body.device_id, name: body.initial_device_display_name, refresh: body.refresh_token };
    let login = accounts::log_in(&ctx.users, number, device).await?;
    let user = crate::store::schema::numbers::user_id(&ctx.store, number)?;
    let user = user.ok_or_else(|| Error::internal("an account without a user ID"))?;
    Reply::value(&welcome(&ctx, &user, Some(login)))
}

async fn by_password(ctx: &Ctx, anyone: &Anyone, body: &LoginBody) -> Result<UserNo> {
    let password = body.password.as_deref().ok_or_else(|| Error::missing_param("the password is missing"))?;
    let named = match (&body.identifier, &body.user) {
        (Some(identifier), _) => identifier.local_user(&ctx.users),
        (None, Some(name)) => Identifier::user(name).local_user(&ctx.users),
        (None, None) => return Err(Error::missing_param("the request does not say who logs in")),
    };
    let account = named.map(|id| accounts::by_id(&ctx.users, &id)).transpose()?.flatten();
    let number = account.as_ref().map(|(number, _)| *number);
    if passwords::check(&ctx.users, number, anyone.address, password).await? {
        return number.ok_or_else(|| Error::internal("a password without an account"));
    }
    match account {
        Some((_, account)) if account.deactivated => Err(deactivated()),
        _ => Err(Error::forbidden("the name or the password is wrong")),
    }
}

fn deactivated() -> Error {
    Error::new(http::StatusCode::FORBIDDEN, "M_USER_DEACTIVATED", "this account was given up")
}

/// What a client is told when it is logged in, or has made an account.
pub fn welcome(ctx: &Ctx, user: &UserId, login: Option<Login>) -> Value {
    let mut answer = json!({ "user_id": user, "home_server": ctx.users.server_name });
    if let Some(login) = login {
        answer["device_id"] = json!(login.device);
        tokens(&mut answer, login);
    }
    if ctx.config.public_url.is_some() {
        answer["well_known"] = json!({ "m.homeserver": { "base_url": ctx.config.public_url() } });
    }
    answer
}

fn tokens(answer: &mut Value, login: Login) {
    answer["access_token"] = login.access_token.into();
    if let Some(token) = login.refresh_token {
        answer["refresh_token"] = token.into();
    }
    if let Some(time) = login.expires_in {
        answer["expires_in_ms"] = time.into();
    }
}

/// Gives new tokens for a refresh token.
pub async fn refresh(ctx: Ctx, (): (), req: refresh_token::v3::Request) -> Result<Reply> {
    let mut answer = json!({});
    tokens(&mut answer, sessions::refresh(&ctx.users, &req.refresh_token).await?);
    Reply::value(&answer)
}

/// Gives a token with which another device of the same user can log in.
pub async fn get_token(
    ctx: Ctx,
    user: User,
    asked: Guarded<get_login_token::v1::Request>,
) -> Result<get_login_token::v1::Response> {
    let flows: &[&[Stage]] = &[&[Stage::Password]];
    let wanted = Asked { endpoint: "login/get_token", subject: asked.subject, user: Some(&user), flows };
    require(&ctx, wanted, asked.proof).await?;
    let tokens = ctx.users.login_tokens();
    let token = tokens.issue(&ctx.chance, ctx.clock.now(), user.number);
    Ok(get_login_token::v1::Response::new(tokens.lifetime(), token))
}
