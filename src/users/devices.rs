//! Devices: where somebody is logged in, what each is called, and when it was last seen.

use std::{collections::HashMap, net::IpAddr};

use parking_lot::Mutex;
use ruma::{DeviceId, OwnedDeviceId};

use super::{User, Users, pushers, sessions};
use crate::{
    e2ee::{self, Removing, dehydrated, device_lists},
    error::{Error, Result},
    store::{
        Write,
        schema::{
            UserNo,
            devices::{self as rows, DEVICES, DEVICES_SEEN, DeviceRow, SeenRow, TokenKey},
            e2ee::{DEHYDRATED, DEVICE_KEYS},
        },
    },
};

/// How long it may take until the time at which a device was seen is on the disk: an hour.
const SEEN_WITHIN: u64 = 3600 * 1000;
/// For how many devices that time is kept in memory.
const SEEN: usize = 4096;
/// How long the name of a program may be that is remembered, in bytes.
const LONGEST_AGENT: usize = 255;

/// When and from where devices were last seen, since the start.
#[derive(Default)]
pub(super) struct Seen(Mutex<HashMap<(UserNo, OwnedDeviceId), Sighting>>);

#[derive(Clone)]
struct Sighting {
    at: u64,
    address: Option<IpAddr>,
    agent: Option<Box<str>>,
    written: u64,
}

impl Sighting {
    fn row(&self) -> SeenRow {
        let address = self.address.map(|address| address.to_string());
        SeenRow { at: self.at, address, agent: self.agent.as_deref().map(str::to_owned) }
    }
}

impl Users {
    /// Notes that a device was seen, from which address and with which program.
    pub fn saw(&self, user: &User, address: Option<IpAddr>, agent: Option<&str>) {
        let now = self.clock.now();
        let mut seen = self.inner.seen.0.lock();
        let place = (user.number, user.device.clone());
        let agent = agent.filter(|agent| agent.len() <= LONGEST_AGENT);
        let row = if let Some(sighting) = seen.get_mut(&place) {
            (sighting.at, sighting.address) = (now, address.or(sighting.address));
            if agent.is_some() && agent != sighting.agent.as_deref() {
                sighting.agent = agent.map(Into::into);
            }
            if now.saturating_sub(sighting.written) < SEEN_WITHIN {
                return;
            }
            sighting.written = now;
            sighting.row()
        } else {
            if seen.len() >= SEEN {
                seen.clear();
            }
            let sighting = Sighting { at: now, address, agent: agent.map(Into::into), written: now };
            let row = sighting.row();
            seen.insert(place, sighting);
            row
        };
        drop(seen);
        let mut write = self.store.write();
        write.put(DEVICES_SEEN, &(user.number, user.device.to_string()), &row);
        // Nobody waits for this row, and nothing is lost that cannot be.
        drop(write.commit());
    }
}

/// A device as its owner sees it.
#[derive(Debug, Clone)]
pub struct Device {
    /// Its ID.
    pub id: OwnedDeviceId,
    /// Its name.
    pub name: Option<String>,
    /// When it was last seen, in milliseconds since the epoch.
    pub seen_at: Option<u64>,
    /// From which address.
    pub seen_from: Option<String>,
    /// With which program, as it calls itself.
    pub seen_with: Option<String>,
}

/// The devices of a user.
pub fn of_user(users: &Users, user: UserNo) -> Result<Vec<Device>> {
    let rows = rows::of_user(&users.store, user)?;
    rows.into_iter().map(|(id, row)| device(users, user, id, row)).collect()
}

/// A device of a user.
pub fn find(users: &Users, user: UserNo, id: &DeviceId) -> Result<Option<Device>> {
    let row = rows::find(&users.store, user, id.as_str())?;
    row.map(|row| device(users, user, id.to_string(), row)).transpose()
}

fn device(users: &Users, user: UserNo, id: String, row: DeviceRow) -> Result<Device> {
    let sighting = users.inner.seen.0.lock().get(&(user, id.as_str().into())).map(Sighting::row);
    let seen = match sighting {
        Some(seen) => Some(seen),
        None => users.store.get(DEVICES_SEEN, &(user, id.clone()))?,
    };
    let (seen_at, seen_from, seen_with) = match seen {
        Some(SeenRow { at, address, agent }) => (Some(at), address, agent),
        None => (None, None, None),
    };
    Ok(Device { id: id.into(), name: row.name, seen_at, seen_from, seen_with })
}

/// Calls a device by another name, or by none.
pub async fn rename(users: &Users, user: UserNo, id: &DeviceId, name: Option<String>) -> Result<()> {
    if name.as_ref().is_some_and(|name| name.len() > sessions::NAME) {
        return Err(Error::too_large(format!("the name of a device has at most {} bytes", sessions::NAME)));
    }
    let done = {
        let _lock = users.lock(user);
        let _deciding = users.e2ee.decide(user);
        let mut write = users.store.write();
        let place = (user, id.to_string());
        let mut row = write.get(DEVICES, &place)?.ok_or_else(|| Error::not_found("you have no such device"))?;
        row.name = name;
        write.put(DEVICES, &place, &row);
        // Other people see the name together with the keys.
        if write.get(DEVICE_KEYS, &place)?.is_some() {
            device_lists::record_device(&mut write, user, id.as_str())?;
        }
        users.commit(write, vec![])
    };
    done.await
}

/// Logs devices out and forgets them. IDs of devices that are not there are left out.
pub async fn remove(users: &Users, user: UserNo, ids: &[OwnedDeviceId]) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let removing = users.e2ee.removing();
        let mut write = users.store.write();
        let mut closed = Vec::new();
        for id in ids {
            closed.extend(forget(users, &removing, &mut write, user, id.as_str())?);
        }
        users.commit(write, closed)
    };
    done.await
}

/// Logs all devices of a user out and forgets them.
pub async fn remove_all(users: &Users, user: UserNo) -> Result<()> {
    let done = {
        let _lock = users.lock(user);
        let removing = users.e2ee.removing();
        let mut write = users.store.write();
        let closed = forget_all(users, &removing, &mut write, user, None)?;
        users.commit(write, closed)
    };
    done.await
}

/// Makes a device on which nobody is logged in, instead of the one of this kind before.
///
/// Errors: 400 `M_INVALID_PARAM` if there is another device of this ID.  Spec: MSC3814
pub async fn dehydrate(
    users: &Users,
    device: e2ee::Device<'_>,
    name: Option<String>,
    new: dehydrated::New,
) -> Result<()> {
    if device.id.is_empty() || device.id.len() > sessions::NAME {
        return Err(Error::invalid_param(format!("a device ID has between 1 and {} bytes", sessions::NAME)));
    }
    if name.as_ref().is_some_and(|name| name.len() > sessions::NAME) {
        return Err(Error::too_large(format!("the name of a device has at most {} bytes", sessions::NAME)));
    }
    let done = {
        let _lock = users.lock(device.number);
        let removing = users.e2ee.removing();
        let mut write = users.store.write();
        let mut closed = Vec::new();
        if let Some(former) = write.get(DEHYDRATED, &device.number)? {
            closed = forget(users, &removing, &mut write, device.number, &former.device)?;
        }
        let place = (device.number, device.id.to_owned());
        if write.get(DEVICES, &place)?.is_some() {
            return Err(Error::invalid_param("you have another device of this ID"));
        }
        write.put(DEVICES, &place, &DeviceRow { name, created: users.clock.now(), ..Default::default() });
        dehydrated::put(&users.e2ee, &removing, &mut write, device, new)?;
        users.commit(write, closed)
    };
    done.await
}

/// Forgets all devices of a user but one, within a `Write`; returns the tokens that end.
pub(super) fn forget_all(
    users: &Users,
    removing: &Removing<'_>,
    write: &mut Write,
    user: UserNo,
    but: Option<&DeviceId>,
) -> Result<Vec<TokenKey>> {
    let mut closed = Vec::new();
    for ((_, id), _) in write.scan(DEVICES, &user)? {
        if but.is_none_or(|but| but.as_str() != id) {
            closed.extend(forget(users, removing, write, user, &id)?);
        }
    }
    Ok(closed)
}

/// Forgets a device within a `Write`: the one place where everything that belongs to a device goes.
fn forget(users: &Users, removing: &Removing<'_>, write: &mut Write, user: UserNo, id: &str) -> Result<Vec<TokenKey>> {
    let place = (user, id.to_owned());
    let Some(mut row) = write.get(DEVICES, &place)? else { return Ok(vec![]) };
    let closed = sessions::end(write, &mut row);
    write.delete(DEVICES, &place);
    // A sync that waits on this device ends.
    write.wake(user);
    write.delete(DEVICES_SEEN, &place);
    pushers::forget_device(write, user, id)?;
    users.e2ee.forget_device(removing, write, user, id)?;
    Ok(closed)
}
