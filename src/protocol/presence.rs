//! Presence: what the devices of a user together say of their owner, and until when.
//!
//! Each device claims something and is in contact with the server or not ([`Device`]); [`merge`] makes one
//! picture of all of them. The time is an argument. Who may see it is not decided here.
//!
//! Spec: client-server-api#presence

/// How long after the last thing that they did somebody still counts as doing something, in milliseconds.
pub const ACTIVE: u64 = 60_000;
/// How long after that they are taken to be away from their devices.
pub const IDLE: u64 = 5 * 60_000;
/// How long after its last contact a device is taken to be gone: clients ask again at once.
pub const GONE: u64 = 30_000;

/// Where somebody is. What is greater goes before what is less when devices say different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum State {
    /// Not there, or not willing to say.
    #[default]
    Offline,
    /// There, but not looking.
    Unavailable,
    /// There.
    Online,
}

impl State {
    /// Reads a state by its name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "offline" => Some(Self::Offline),
            "unavailable" => Some(Self::Unavailable),
            "online" => Some(Self::Online),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Unavailable => "unavailable",
            Self::Online => "online",
        }
    }
}

/// What one device says of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Device {
    /// What it claims.
    pub claim: State,
    /// When it was last in contact, in milliseconds since the epoch.
    pub contact: u64,
    /// How many of its requests are waiting for news at this moment.
    pub waiting: u32,
}

impl Device {
    /// Whether the device is there.
    pub fn is_there(&self, now: u64) -> bool {
        self.waiting > 0 || now < self.contact.saturating_add(GONE)
    }

    /// When the device will be taken to be gone, if nothing happens.
    fn gone(&self) -> Option<u64> {
        (self.waiting == 0).then(|| self.contact.saturating_add(GONE))
    }
}

/// What others see of a user, but for what they say in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Merged {
    /// Where they are.
    pub state: State,
    /// Whether they are doing something.
    pub active: bool,
    /// When this changes if nothing happens, in milliseconds since the epoch.
    pub until: Option<u64>,
}

/// What the devices of a user say together. `active` is when the user last did something.
pub fn merge<'a>(devices: impl Iterator<Item = &'a Device> + Clone, active: u64, now: u64) -> Merged {
    let there = devices.filter(|device| device.is_there(now));
    let claimed = there.clone().map(|device| device.claim).max().unwrap_or_default();
    let idle = active.saturating_add(IDLE) <= now;
    let state = if claimed == State::Online && idle { State::Unavailable } else { claimed };
    let is_active = state == State::Online && now < active.saturating_add(ACTIVE);
    let own = match (state, is_active) {
        (State::Online, true) => Some(active.saturating_add(ACTIVE)),
        (State::Online, false) => Some(active.saturating_add(IDLE)),
        _ => None,
    };
    let until = there.filter_map(Device::gone).chain(own).min();
    Merged { state, active: is_active, until }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Devices as `claim@contact`, with `+` for one whose request is waiting.
    fn check(devices: &str, active: u64, now: u64, expected: &str) {
        let devices: Vec<_> = devices
            .split_whitespace()
            .map(|text| {
                let (claim, contact) = text.trim_end_matches('+').split_once('@').unwrap();
                let waiting = u32::from(text.ends_with('+'));
                Device { claim: State::parse(claim).unwrap(), contact: contact.parse().unwrap(), waiting }
            })
            .collect();
        let Merged { state, active, until } = merge(devices.iter(), active, now);
        let until = until.map_or("-".to_owned(), |until| until.to_string());
        assert_eq!(format!("{} {} {until}", state.name(), if active { "active" } else { "quiet" }), expected);
    }

    #[test]
    fn somebody_becomes_quiet_then_idle_then_goes() {
        check("online@0+", 0, 59_999, "online active 60000");
        check("online@0+", 0, 60_000, "online quiet 300000");
        check("online@0+", 0, 300_000, "unavailable quiet -");
        check("online@0", 0, 29_999, "online active 30000");
        check("online@0", 0, 30_000, "offline quiet -");
        check("unavailable@0", 0, 1, "unavailable quiet 30000");
        check("", 0, 1, "offline quiet -");
    }

    #[test]
    fn the_device_that_is_most_there_counts() {
        check("unavailable@0+ online@0+", 0, 1, "online active 60000");
        check("unavailable@0+ online@0", 0, 40_000, "unavailable quiet -");
        check("offline@0+ unavailable@0+", 0, 1, "unavailable quiet -");
        check("offline@0+", 0, 1, "offline quiet -");
    }
}
