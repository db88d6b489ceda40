//! `ingle key`: the key with which the server signs what it says to other servers.

use clap::Subcommand;

use super::{
    Outcome,
    control::{Wish, ask},
};
use crate::config::Config;

/// The key with which the server signs.
#[derive(Subcommand)]
pub enum Command {
    /// Make a new key, which the server uses from its next start on
    ///
    /// Other servers learn of it by themselves, and still believe what the old key has signed until then. Do
    /// this when somebody else may have seen the file signing.key, or an old backup of it.
    Rotate,
}

pub fn run(config: Config, command: &Command) -> Outcome {
    match command {
        Command::Rotate => {
            let id: String = ask(config, &Wish::RotateKey)?;
            println!("The new key {id} is used from the next start of the server on: restart it, if it runs.");
            println!("Then make a backup: those from before know the old key alone.");
        }
    }
    Ok(())
}
