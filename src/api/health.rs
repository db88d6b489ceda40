//! Says that the server is there, for whoever watches it.

use http::Method;

use crate::{
    app::Ctx,
    error::Result,
    http::{Raw, Reply, Routes},
};

/// The one path.
pub fn routes(to: &mut Routes) {
    to.raw(Method::GET, "/health", health);
}

async fn health(_: Ctx, (): (), _: Raw) -> Result<Reply> {
    Ok(Reply::bytes(http::HeaderValue::from_static("text/plain; charset=utf-8"), "OK"))
}
