//! `ingle notice`: what the server itself tells its people.

use clap::Subcommand;
use ruma::OwnedUserId;

use super::{
    Failure, Outcome,
    control::{Wish, ask},
};
use crate::config::Config;

/// Tell people something in the name of the server. Works while the server runs, and when it does not.
#[derive(Subcommand)]
pub enum Command {
    /// Send a message into everybody's own room for notices
    Send {
        /// What to say
        text: String,
        /// To whom, such as ann; may be written several times
        #[arg(long, value_name = "NAME")]
        to: Vec<String>,
        /// To everybody with an account here
        #[arg(long)]
        everyone: bool,
    },
}

pub fn run(config: Config, command: Command) -> Outcome {
    let Command::Send { text, to: names, everyone } = command;
    if names.is_empty() && !everyone {
        return Err(Failure::Usage("say to whom: --to ann, or --everyone".to_owned()));
    }
    let told: Vec<OwnedUserId> = ask(config, &Wish::SendNotice { names, everyone, text })?;
    println!("{} {} told.", told.len(), if told.len() == 1 { "person was" } else { "people were" });
    Ok(())
}
