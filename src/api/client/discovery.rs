//! What this server speaks.

use serde_json::json;

use crate::{
    app::Ctx,
    error::Result,
    http::{Raw, Reply},
};

/// Versions of the specification, and features that came before or beside them.
///
/// Spec: client-server-api#api-versions
pub async fn versions(ctx: Ctx, (): (), _: Raw) -> Result<Reply> {
    // r0.6.1 is what clients without a newer version in common look for.
    let stable = (1..=19).map(|minor| format!("v1.{minor}"));
    let versions: Vec<String> = std::iter::once("r0.6.1".to_owned()).chain(stable).collect();
    Reply::value(&json!({ "versions": versions, "unstable_features": {
        "org.matrix.e2e_cross_signing": true,
        "org.matrix.msc3882": true,
        "org.matrix.msc4140": !ctx.config.rooms.max_event_delay.is_zero(),
        "org.matrix.msc4140.stable": !ctx.config.rooms.max_event_delay.is_zero(),
        "org.matrix.msc4143": true,
        "org.matrix.simplified_msc3575": true,
        "uk.tcpip.msc4133": true,
        "uk.tcpip.msc4133.stable": true,
    } }))
}
