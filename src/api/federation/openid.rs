//! Whose OpenID token a program was shown.
//!
//! Spec: server-server-api#openid

use ruma::api::federation::openid::get_openid_userinfo::v1::{Request, Response};

use crate::{
    app::Ctx,
    error::{Error, Result},
    store::schema::numbers,
};

/// Says whose token this is.
pub async fn user_info(ctx: Ctx, (): (), req: Request) -> Result<Response> {
    let user = ctx.users.open_ids().find(ctx.clock.now(), &req.access_token);
    let user = user.map(|user| numbers::user_id(&ctx.store, user)).transpose()?.flatten();
    Ok(Response::new(user.ok_or_else(|| Error::unknown_token(false))?))
}
