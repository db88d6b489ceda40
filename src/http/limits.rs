//! How often somebody may call the endpoints whose rate the specification limits.
//!
//! A user has a bucket, and so has an address from which somebody calls without an account. The
//! numbers are made for people: a family behind one address, a phone that catches up after a flight.
//! Guessing passwords is counted apart, where passwords are checked.

use std::net::{IpAddr, Ipv6Addr};

use super::caller::Evidence;
use crate::{
    error::{Error, Result},
    limits::{Buckets, Rate},
    store::schema::UserNo,
};

const USER: Rate = Rate { burst: 100.0, per_second: 10.0 };
const ADDRESS: Rate = Rate { burst: 60.0, per_second: 2.0 };

pub(super) struct Limits {
    enabled: bool,
    users: Buckets<UserNo>,
    addresses: Buckets<Option<IpAddr>>,
}

impl Limits {
    pub fn new(enabled: bool) -> Self {
        Self { enabled, users: Buckets::new(USER, 4096), addresses: Buckets::new(ADDRESS, 4096) }
    }

    /// Spec: client-server-api#rate-limiting
    pub fn check(&self, user: Option<UserNo>, evidence: &Evidence<'_>, now: u64) -> Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let taken = match user {
            Some(user) => self.users.take(&user, now),
            None => self.addresses.take(&evidence.address().map(household), now),
        };
        taken.map_err(Error::limit_exceeded)
    }
}

/// What belongs to one household: an IPv4 address, or the first half of an IPv6 address.
fn household(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => IpAddr::V4(address),
            None => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_household_is_one_address_or_one_network() {
        let check = |address: &str, expected: &str| {
            assert_eq!(household(address.parse().expect("an address")).to_string(), expected);
        };
        check("192.0.2.7", "192.0.2.7");
        check("::ffff:192.0.2.7", "192.0.2.7");
        check("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::");
    }
}
