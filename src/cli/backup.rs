//! `ingle backup`: a copy of everything, made while the server runs, and the way back.

use std::{
    fs,
    io::{self, IsTerminal},
    path::{PathBuf, absolute},
};

use clap::Subcommand;

use super::{
    Failure, Outcome,
    control::{Wish, ask},
    start,
};
use crate::{
    admin::backup,
    config::Config,
    store::{Options, Progress},
};

/// Make, prove and restore backups.
#[derive(Subcommand)]
pub enum Command {
    /// Make a backup, while the server runs or when it does not
    Make {
        /// A new folder for it
        folder: PathBuf,
    },
    /// Prove that a backup can be restored, by doing so aside
    Verify {
        /// The folder that `ingle backup make` has written
        folder: PathBuf,
    },
    /// Begin a server from a backup, where there is none
    ///
    /// The server must not run, and its old data must be moved away. Whoever is logged in stays so.
    Restore {
        /// The folder that `ingle backup make` has written
        folder: PathBuf,
    },
}

pub fn run(config: Config, command: Command) -> Outcome {
    match command {
        Command::Make { folder } => {
            let data_dir = config.data_dir.clone();
            let archive: PathBuf = ask(config, &Wish::MakeArchive)?;
            let bytes = backup::keep(&archive, &data_dir, &folder)?;
            println!("The backup is in {} ({} KiB), and was proved.", folder.display(), bytes.div_ceil(1024));
            println!("It holds everybody's messages and the key of the server: keep it where nobody else looks.");
        }
        Command::Verify { folder } => {
            backup::verify(&folder, scratch(&config)?)?;
            println!("{} can be restored.", folder.display());
        }
        Command::Restore { folder } => {
            start::private_folder(&config.data_dir)?;
            let options = Options { progress: progress(), ..start::store_options(&config)? };
            backup::restore(&folder, &config.data_dir, &options)?;
            println!("{} begins from {} at its next start.", config.server_name, folder.display());
        }
    }
    Ok(())
}

/// A place that is as large as the data: beside them, if there are any here.
fn scratch(config: &Config) -> Result<Options, Failure> {
    let beside = if config.data_dir.is_dir() { config.data_dir.clone() } else { std::env::temp_dir() };
    let folder = beside.join(format!("verify-{}", std::process::id()));
    let folder = absolute(&folder).unwrap_or(folder);
    fs::create_dir_all(&folder).map_err(|error| format!("{} cannot be made: {error}", folder.display()))?;
    Ok(Options { folder, progress: progress(), ..start::store_options(config)? })
}

/// Says on a terminal how far it is.
fn progress() -> Progress {
    if !io::stderr().is_terminal() {
        return Progress::default();
    }
    Progress::new(|what, done, total| match (done * 100).checked_div(total) {
        Some(percent) => eprintln!("{what}: {percent} %"),
        None => eprintln!("{what}: {done}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::accounts::Entry;

    fn config(folder: &std::path::Path) -> Config {
        let mut config = Config::for_tests();
        config.data_dir = folder.to_owned();
        config
    }

    fn done(outcome: Outcome) -> Result<(), String> {
        outcome.map_err(|failure| match failure {
            Failure::Usage(why) | Failure::Failed(why) => why,
        })
    }

    #[test]
    fn a_server_begins_again_from_its_backup() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (config(&folder.path().join("old")), config(&folder.path().join("new")));
        fs::create_dir(&old.data_dir).expect("a folder");
        let add = Wish::AddUser { name: "ann".into(), password: "x".into(), admin: true };
        let _: String = ask(old.clone(), &add).expect("an account");
        let to = folder.path().join("backup");
        done(run(old.clone(), Command::Make { folder: to.clone() })).expect("a backup");
        done(run(old.clone(), Command::Verify { folder: to.clone() })).expect("a good backup");
        done(run(new.clone(), Command::Restore { folder: to.clone() })).expect("restored");

        let all: Vec<Entry> = ask(new.clone(), &Wish::ListUsers).expect("a list");
        assert_eq!(all[0].id, "@ann:localhost");
        let key = |config: &Config| fs::read(config.data_dir.join("signing.key")).expect("a key");
        assert_eq!(key(&old), key(&new));
        assert_eq!(fs::read_dir(&old.data_dir).expect("a folder").count(), 2, "nothing is left over");

        let again = done(run(new, Command::Restore { folder: to.clone() })).expect_err("there is a server");
        assert!(again.contains("move it away first"), "{again}");
        let again = done(run(old, Command::Make { folder: to })).expect_err("it has one");
        assert!(again.contains("is not empty"), "{again}");
    }

    #[test]
    fn a_damaged_backup_is_found_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let old = config(&folder.path().join("old"));
        fs::create_dir(&old.data_dir).expect("a folder");
        let to = folder.path().join("backup");
        done(run(old.clone(), Command::Make { folder: to.clone() })).expect("a backup");
        let archive = to.join("archive.ingle");
        let mut bytes = fs::read(&archive).expect("an archive");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&archive, bytes).expect("a file");
        done(run(old, Command::Verify { folder: to })).expect_err("a damaged backup");
    }
}
