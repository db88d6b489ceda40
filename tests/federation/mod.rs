//! Scenes with several servers.

mod directory;
mod doors;
mod handshakes;
mod hostile;
mod intake;
mod joining;
mod keys;
mod notary;
mod notifications;
mod outgoing;
mod own_keys;
mod permitted;
mod policy;
mod presence;
mod resident;
mod rooms;
mod sending;
mod serving;
mod signed;
mod simulation;
mod taken_back;
mod third_party;
mod wire;
