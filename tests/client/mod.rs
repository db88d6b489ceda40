//! Scenes of the Client-Server API, in files named as those of `src/api/client`.

mod account;
mod account_data;
mod admin_register;
mod audit;
mod bad_input;
mod calls;
mod delayed;
mod devices;
mod discovery;
mod encryption;
mod events;
mod fallback;
mod filters;
mod guests;
mod login;
mod moderation;
mod notices;
mod notifications;
mod presence;
mod profile;
mod push_rules;
mod pushers;
mod register;
mod rooms;
mod search;
mod sync;
