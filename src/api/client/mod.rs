//! The whole Client-Server API as one list, in the order of the specification.

mod account;
mod account_data;
mod admin_register;
mod capabilities;
mod cross_signing;
mod dehydrated;
mod delayed;
mod devices;
mod discovery;
mod events;
mod filters;
mod key_backup;
mod keys;
mod keys_elsewhere;
mod login;
mod logout;
mod moderation;
mod notifications;
mod presence;
mod profile;
mod push_rules;
mod pushers;
mod register;
mod rooms;
mod search;
mod sync;
mod to_device;
mod uia;
mod user_directory;
pub(super) mod voip;

use http::Method;

use crate::http::Routes;

/// All endpoints of the Client-Server API.
pub fn routes(to: &mut Routes) {
    // Server discovery
    to.raw(Method::GET, "/_matrix/client/versions", discovery::versions);

    // Client authentication
    to.add(register::register);
    to.add(register::is_available);
    to.add(register::is_token_valid);
    to.raw(Method::GET, "/_synapse/admin/v1/register", admin_register::nonce).rate_limited();
    to.raw(Method::POST, "/_synapse/admin/v1/register", admin_register::register).rate_limited();
    to.add(login::flows);
    to.raw(Method::POST, "/_matrix/client/v3/login", login::login).also("/_matrix/client/r0/login").rate_limited();
    to.add(login::get_token);
    to.add(login::refresh);
    to.add(logout::this_device).guests().locked();
    to.add(logout::all_devices).guests().locked();
    to.add(account::password);
    to.add(account::deactivate);
    to.add(account::contacts);
    to.add(account::whoami).guests();
    to.add(moderation::whois);
    to.add(moderation::is_locked).add(moderation::lock);
    to.add(moderation::is_suspended).add(moderation::suspend);

    // Capabilities negotiation
    to.add(capabilities::get).guests();

    // Filtering
    to.raw(Method::POST, "/_matrix/client/v3/user/{user_id}/filter", filters::create)
        .also("/_matrix/client/r0/user/{user_id}/filter")
        .guests();
    to.add(filters::get).guests();

    // Syncing
    to.raw(Method::GET, "/_matrix/client/v3/sync", sync::v3).also("/_matrix/client/r0/sync").guests();
    to.raw(Method::POST, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", sync::sliding).waits().guests();
    to.raw(Method::POST, "/_matrix/client/v4/sync", sync::v4).waits().guests();

    events::routes(to);

    // Profiles
    const PROFILE: &str = "/_matrix/client/v3/profile/{user_id}";
    const PROFILE_R0: &str = "/_matrix/client/r0/profile/{user_id}";
    const FIELD: &str = "/_matrix/client/v3/profile/{user_id}/{field}";
    const FIELD_R0: &str = "/_matrix/client/r0/profile/{user_id}/{field}";
    const FIELD_UNSTABLE: &str = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{user_id}/{field}";
    to.raw(Method::GET, PROFILE, profile::all).also(PROFILE_R0);
    to.raw(Method::GET, FIELD, profile::field).also(FIELD_R0).also(FIELD_UNSTABLE);
    to.raw(Method::PUT, FIELD, profile::set).also(FIELD_R0).also(FIELD_UNSTABLE).guests().rate_limited();
    to.raw(Method::DELETE, FIELD, profile::remove).also(FIELD_UNSTABLE).guests().rate_limited();

    // Presence
    to.add(presence::set).guests();
    to.add(presence::get).guests();

    // Account data and tags
    to.add(account_data::set);
    to.add(account_data::set_in_room);
    to.add(account_data::get);
    to.add(account_data::get_in_room);
    to.add(account_data::tags);
    to.add(account_data::set_tag);
    to.add(account_data::remove_tag);

    // Push notifications
    to.raw(Method::GET, "/_matrix/client/v3/pushers", pushers::list).also("/_matrix/client/r0/pushers");
    to.raw(Method::POST, "/_matrix/client/v3/pushers/set", pushers::set).also("/_matrix/client/r0/pushers/set");
    to.rate_limited();
    to.raw(Method::GET, "/_matrix/client/v3/notifications", notifications::list);
    to.also("/_matrix/client/r0/notifications");

    // Push rules
    to.add(push_rules::all);
    to.add(push_rules::global);
    to.add(push_rules::get);
    to.add(push_rules::set);
    to.add(push_rules::remove);
    to.add(push_rules::actions);
    to.add(push_rules::set_actions);
    to.add(push_rules::enabled);
    to.add(push_rules::set_enabled);

    // Devices
    to.add(devices::list).guests();
    to.add(devices::get).guests();
    to.add(devices::rename).guests();
    to.add(devices::delete);
    to.add(devices::delete_many);

    // Send-to-device messaging
    to.add(to_device::send).guests().body_limit(4 << 20);

    // End-to-end encryption
    to.add(keys::upload).guests();
    to.add(keys::query).guests().waits();
    to.add(keys::claim).guests();
    to.add(keys::changes);
    to.add(cross_signing::upload_keys);
    to.add(cross_signing::upload_signatures);
    to.add(dehydrated::put);
    to.add(dehydrated::get);
    to.add(dehydrated::delete);
    to.add(dehydrated::events);
    to.add(key_backup::create);
    to.add(key_backup::latest);
    to.add(key_backup::info);
    to.add(key_backup::update);
    to.add(key_backup::delete);
    to.add(key_backup::put_all).body_limit(4 << 20);
    to.add(key_backup::put_room).body_limit(4 << 20);
    to.add(key_backup::put_session);
    to.add(key_backup::get_all);
    to.add(key_backup::get_room);
    to.add(key_backup::get_session);
    to.add(key_backup::delete_all);
    to.add(key_backup::delete_room);
    to.add(key_backup::delete_session);

    // OpenID, calls
    to.add(account::openid_token);
    to.add(voip::turn_server).guests();
    to.raw(Method::GET, "/_matrix/client/v1/rtc/transports", voip::transports);
    to.also("/_matrix/client/unstable/org.matrix.msc4143/rtc/transports");

    // Rooms
    rooms::routes(to);
    to.raw(Method::POST, "/_matrix/client/v3/search", search::search)
        .also("/_matrix/client/r0/search")
        .waits()
        .rate_limited();
    delayed::routes(to);
    to.add(user_directory::search);
    to.raw(Method::GET, "/_matrix/client/v1/mutual_rooms", user_directory::mutual_rooms).rate_limited();
}
