//! What the server remembers of itself.

use crate::store::Table;

/// The name of the server, since its first start. One row. Written by `admin::identity`.
pub const SERVER_NAME: Table<(), String> = Table::new("server_name");
