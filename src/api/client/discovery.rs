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
    // What older clients look for, and what clients ask about that do not go by the version.
    let old = ["r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1"];
    let new = (1..=19).map(|minor| format!("v1.{minor}"));
    let versions: Vec<String> = old.into_iter().map(str::to_owned).chain(new).collect();
    Reply::value(&json!({ "versions": versions, "unstable_features": {
        "org.matrix.e2e_cross_signing": true,
        "org.matrix.msc2285.stable": true,
        "org.matrix.msc3440.stable": true,
        "org.matrix.msc3771": true,
        "org.matrix.msc3773": true,
        "org.matrix.msc3827.stable": true,
        "org.matrix.msc3882": true,
        "org.matrix.msc4140": !ctx.config.rooms.max_event_delay.is_zero(),
        "org.matrix.msc4140.stable": !ctx.config.rooms.max_event_delay.is_zero(),
        "org.matrix.msc4143": true,
        "org.matrix.msc4380.stable": true,
        "org.matrix.simplified_msc3575": true,
        "uk.half-shot.msc2666.query_mutual_rooms.stable": true,
        "uk.tcpip.msc4133": true,
        "uk.tcpip.msc4133.stable": true,
    } }))
}
