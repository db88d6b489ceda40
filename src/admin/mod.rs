//! What whoever runs the server does: one function each, for the command line, the pages and the API.

pub mod accounts;
pub mod backup;
pub mod first;
pub mod identity;
pub mod notices;
pub mod status;
