//! Devices in a bad network: whatever a server keeps of other servers' users is what they have in the end.

use ingle::{
    e2ee::elsewhere,
    store::schema::{devices::DEVICES, numbers},
};
use ruma::events::room::member::MembershipState;
use serde_json::{Value, json};

use super::{deeds, world::World};
use crate::{federation::keys::upload, harness::User};

/// Everybody's device gets keys.
pub fn begin(world: &mut World) {
    for person in 0..world.people.len() {
        let user = world.user(person).expect("the servers run");
        world.at_once(world.people[person].house, upload(&user));
    }
}

/// Somebody calls their device by another name, or asks for the devices of somebody else.
pub fn random(world: &mut World) {
    let person = world.one_of(world.people.len());
    let Some(user) = world.user(person).filter(|_| !world.is_busy(person)) else { return };
    if world.one_of(2) == 0 {
        let name = json!({ "display_name": format!("name {}", world.number()) });
        deeds::put(world, person, "renames".to_owned(), format!("/_matrix/client/v3/devices/{}", user.device), name);
    } else {
        let other = world.one_of(world.people.len());
        let wanted = json!({ "device_keys": { world.people[other].id.as_str(): [] } });
        let what = format!("asks for the keys of {}", world.people[other].id);
        deeds::post(world, person, what, "/_matrix/client/v3/keys/query".to_owned(), wanted);
    }
}

/// What is kept is true; returns how many lists are.
pub fn check(world: &World) -> usize {
    let users: Vec<User> = (0..world.people.len()).filter_map(|person| world.user(person)).collect();
    let mut kept = 0;
    for user in &users {
        for house in 0..world.houses.len() {
            let Some(server) =
                world.server(house).filter(|_| world.houses[house].name != user.id.server_name().as_str())
            else {
                continue;
            };
            let Some(list) = elsewhere::fresh(&server.ctx.e2ee, &user.id).expect("rows") else { continue };
            if !is_told(user, &world.houses[house].name) {
                continue;
            }
            let json = list.devices.get(user.device.as_str()).map_or("null", String::as_str);
            let keys: Value = serde_json::from_str(json).expect("JSON");
            let number = numbers::find_user(&user.server.ctx.store, &user.id).expect("rows").expect("a user");
            let row = user.server.ctx.store.get(DEVICES, &(number, user.device.to_string())).expect("rows");
            let name = keys["unsigned"]["device_display_name"].as_str().map(str::to_owned);
            assert_eq!(name, row.expect("a device").name, "{} as {} knows them", user.id, world.houses[house].name);
            kept += 1;
        }
    }
    kept
}

/// Whether somebody's server believes that another one shares a room with them.
fn is_told(user: &User, house: &str) -> bool {
    let rooms = &user.server.ctx.rooms;
    let number = numbers::find_user(&rooms.store, &user.id).expect("rows").expect("a user");
    let joined = ingle::rooms::access::rooms_of(rooms, number, &MembershipState::Join).expect("rows");
    joined.into_iter().any(|room| {
        ingle::rooms::forks::servers(rooms, room).expect("rows").iter().any(|server| server.as_str() == house)
    })
}
