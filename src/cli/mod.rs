//! The command line: one file per command. Nothing is decided here; each command calls who knows.
//!
//! An error is one sentence that says what to do. The exit status is 0 when it worked, 1 when it did
//! not, 2 when the arguments or the configuration are wrong.

mod backup;
mod check;
mod config;
mod control;
mod key;
mod notice;
mod serve;
mod start;
mod status;
mod user;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::config::{Config, load, paths};

/// Ingle, a Matrix homeserver for one household.
///
/// Without a command it runs the server. Without a configuration the server is called `localhost`,
/// answers on this machine alone (http://localhost:8008), and prints a link with which you make the
/// first account.
#[derive(Parser)]
#[command(name = "ingle", version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  ingle                                  run the server
  ingle config sample > ingle.toml       write a configuration to change as you like
  ingle -c ingle.toml check-config       say whether it is right
  ingle user add ann --admin             make an account for Ann, who looks after the server";

/// Where the server's things are.
#[derive(Args, Clone)]
struct Place {
    /// The configuration file. Otherwise ~/.config/ingle/ingle.toml or /etc/ingle/ingle.toml, if there is one
    #[arg(short, long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The folder in which everything is kept, in place of the one that the configuration names
    #[arg(long, value_name = "FOLDER", global = true)]
    data_dir: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Run the server (the same as no command)
    Serve {
        /// Begin although a part of what was saved cannot be read any more. What can be read is kept, and
        /// what cannot is set aside, not removed
        #[arg(long)]
        accept_loss: bool,
    },
    /// Say whether a configuration is right, and what to change
    CheckConfig {
        /// The configuration file
        file: Option<PathBuf>,
    },
    /// Make, list and end accounts
    ///
    /// Works while the server runs, and when it does not.
    #[command(subcommand)]
    User(user::Command),
    /// Tell people something in the name of the server
    #[command(subcommand)]
    Notice(notice::Command),
    /// Make, prove and restore backups
    #[command(subcommand)]
    Backup(backup::Command),
    /// Change the key with which the server signs what it says to other servers
    #[command(subcommand)]
    Key(key::Command),
    /// Say whether what is kept is in order, what was noticed at the last start, and how old the newest backup is
    Status {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show what can be configured
    #[command(subcommand)]
    Config(config::Command),
}

/// Why a command did not work.
enum Failure {
    /// The arguments or the configuration are wrong.
    Usage(String),
    /// It could not be done.
    Failed(String),
}

type Outcome = Result<(), Failure>;

impl<T: Into<String>> From<T> for Failure {
    fn from(message: T) -> Self {
        Self::Failed(message.into())
    }
}

/// Reads the arguments and does what they say.
pub fn run() -> ExitCode {
    let Arguments { place, command } = Arguments::parse();
    let done = match command.unwrap_or(Command::Serve { accept_loss: false }) {
        Command::Serve { accept_loss } => place.config().and_then(|config| serve::run(config, accept_loss)),
        Command::CheckConfig { file } => check::run(&Place { config: file.or(place.config.clone()), ..place }),
        Command::User(command) => place.config().and_then(|config| user::run(config, command)),
        Command::Notice(command) => place.config().and_then(|config| notice::run(config, command)),
        Command::Backup(command) => place.config().and_then(|config| backup::run(config, command)),
        Command::Key(command) => place.config().and_then(|config| key::run(config, &command)),
        Command::Status { json } => place.config().and_then(|config| status::run(config, json)),
        Command::Config(command) => config::run(&command),
    };
    let (message, status) = match done {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Failed(message)) => (message, 1),
        Err(Failure::Usage(message)) => (message, 2),
    };
    eprintln!("ingle: {message}");
    ExitCode::from(status)
}

impl Place {
    /// The file that is read, if any.
    fn file(&self) -> Option<PathBuf> {
        self.config.clone().or_else(paths::config_file)
    }

    /// The configuration.
    fn config(&self) -> Result<Config, Failure> {
        let mut config = match self.file() {
            Some(file) => load(&file).map_err(|error| Failure::Usage(error.to_string()))?,
            None => Config::default(),
        };
        if let Some(folder) = &self.data_dir {
            config.data_dir = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_do_not_contradict_each_other() {
        Arguments::command().debug_assert();
    }
}
