//! The APIs: thin handlers from request to call to response, named after the specification's chapters.

pub mod client;
pub mod federation;
mod health;
mod pages;
mod well_known;

use std::sync::Arc;

use crate::{
    app::Ctx,
    http::{Http, Routes},
};

/// Every endpoint of this server.
pub fn routes() -> Routes {
    let mut to = Routes::new();
    client::routes(&mut to);
    federation::routes(&mut to);
    well_known::routes(&mut to);
    health::routes(&mut to);
    pages::routes(&mut to);
    to
}

/// The server as something that answers requests: from the network through [`crate::http::service`], or
/// in memory through [`Http::call`].
pub fn http(ctx: Ctx) -> Arc<Http> {
    Http::new(ctx, routes())
}
