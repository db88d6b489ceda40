//! Dehydrated devices: a device without anybody logged in on it, to which keys can be sent while all
//! other devices of its user are off. Its private part is kept here, encrypted by the client; a new login
//! takes it up, reads what has arrived, and makes another.
//!
//! The device itself, its ID and name, is a row of `users`; [`put`] fills it.
//!
//! Spec: MSC3814

use super::{Device, E2ee, Removing, keys};
use crate::{
    error::{Error, Result},
    store::{
        Store, StoreError, Write,
        schema::{
            UserNo,
            e2ee::{DEHYDRATED, DehydratedRow, SignedRow},
        },
    },
};

/// How long the encrypted private part may be, in bytes.
const MOST_DATA: usize = 64 * 1024;

/// A dehydrated device that was checked.
pub struct New {
    data: String,
    upload: keys::Upload,
    identity: SignedRow,
}

/// Checks what a client wants to keep as a dehydrated device: `data` is the private part as JSON text.
///
/// Errors: as [`keys::upload`], and 413 `M_TOO_LARGE`.
pub fn check(device: Device<'_>, data: String, upload: keys::Upload) -> Result<New> {
    if data.len() > MOST_DATA {
        return Err(Error::too_large(format!("the data of a dehydrated device has at most {MOST_DATA} bytes")));
    }
    let identity = upload.identity.as_ref().ok_or_else(|| Error::missing_param("the device needs its keys"))?;
    let identity = keys::check_identity(identity, device)?;
    keys::check_one_time(&upload, device, Some(&identity))?;
    Ok(New { data, upload, identity })
}

/// Keeps a dehydrated device, within the `Write` that makes its row and removes the one before.
pub fn put(e2ee: &E2ee, _: &Removing<'_>, write: &mut Write, device: Device<'_>, new: New) -> Result<()> {
    keys::put(e2ee, write, device, &new.upload, Some(new.identity))?;
    write.put(DEHYDRATED, &device.number, &DehydratedRow { device: device.id.to_owned(), data: new.data });
    Ok(())
}

/// The dehydrated device of a user.
pub fn find(store: &Store, user: UserNo) -> Result<Option<DehydratedRow>, StoreError> {
    store.get(DEHYDRATED, &user)
}
