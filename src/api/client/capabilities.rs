//! What clients may offer their users on this server.
//!
//! Spec: client-server-api#capabilities-negotiation

use ruma::api::client::discovery::get_capabilities;
use serde_json::{Map, Value, json};

use super::delayed;
use crate::{
    app::Ctx,
    error::Result,
    http::{Reply, User},
    protocol::version,
    rooms::delayed::MOST_WAITING,
};

/// Lists them.
pub async fn get(ctx: Ctx, user: User, _: get_capabilities::v3::Request) -> Result<Reply> {
    let available: Map<String, Value> =
        version::ALL.iter().map(|rules| (rules.name().to_owned(), json!("stable"))).collect();
    let mut capabilities = json!({
        "m.change_password": { "enabled": true },
        "m.room_versions": { "default": ctx.config.rooms.default_version, "available": available },
        "m.set_displayname": { "enabled": true },
        "m.set_avatar_url": { "enabled": true },
        "m.profile_fields": { "enabled": true },
        "m.3pid_changes": { "enabled": false },
        "m.get_login_token": { "enabled": true },
        "m.forget_forced_upon_leave": { "enabled": false },
    });
    if !ctx.config.rooms.max_event_delay.is_zero() {
        // Spec: MSC4140
        let limits = json!({ "max_delay_ms": delayed::longest(&ctx), "max_scheduled": MOST_WAITING });
        capabilities["org.matrix.msc4140.delayed_events"] = limits.clone();
        capabilities["m.delayed_events"] = limits;
    }
    if user.admin {
        capabilities["m.account_moderation"] = json!({ "lock": true, "suspend": true });
    }
    Reply::value(&json!({ "capabilities": capabilities }))
}
