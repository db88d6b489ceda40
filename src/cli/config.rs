//! `ingle config`: what can be configured.

use clap::Subcommand;

use super::Outcome;
use crate::config::{Config, option};

/// Show what can be configured.
#[derive(Subcommand)]
pub enum Command {
    /// Print a whole configuration file, with every option explained and commented out
    Sample,
    /// Print every option on one line, with its default and what it takes
    List,
    /// Print the options as a table in Markdown
    #[command(hide = true)]
    Table,
}

pub fn run(command: &Command) -> Outcome {
    let print = match command {
        Command::Sample => option::sample,
        Command::List => option::list,
        Command::Table => option::table,
    };
    print!("{}", print(Config::SECTIONS));
    Ok(())
}
