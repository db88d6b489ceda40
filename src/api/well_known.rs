//! The files under `/.well-known/matrix` that lead clients to this server.

/// Nothing yet.
pub fn routes(_: &mut crate::http::Routes) {}
