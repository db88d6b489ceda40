//! The whole Client-Server API as one list, in the order of the specification.

mod account;

use crate::http::Routes;

/// All endpoints of the Client-Server API.
pub fn routes(to: &mut Routes) {
    to.add(account::whoami).guests();
}
