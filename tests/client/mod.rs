//! Scenes of the Client-Server API, in files named as those of `src/api/client`.

mod account;
