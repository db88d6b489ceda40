//! `ingle user`: the accounts of the people in the house.

use std::io::{self, BufRead, IsTerminal, Write};

use clap::Subcommand;
use ruma::OwnedUserId;

use super::{
    Failure, Outcome,
    control::{Wish, ask},
};
use crate::{admin::accounts::Entry, config::Config};

/// Make, list and end accounts. Works while the server runs, and when it does not.
#[derive(Subcommand)]
pub enum Command {
    /// Make an account. Asks for a password, or reads it from the standard input
    Add {
        /// The name, such as ann
        name: String,
        /// This person looks after the server
        #[arg(long)]
        admin: bool,
    },
    /// List all accounts
    List {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Set a new password and log all devices of that person out
    Passwd {
        /// The name, such as ann
        name: String,
    },
    /// Print a link with which a person who has forgotten the password chooses a new one. It works once,
    /// within a day
    ResetLink {
        /// The name, such as ann
        name: String,
    },
    /// Give an account up for ever: the person leaves all rooms, and nobody can have the name again
    Deactivate {
        /// The name, such as ann
        name: String,
        /// Also hide what the person wrote from whoever joins their rooms later
        #[arg(long)]
        erase: bool,
        /// Do not ask whether this is meant
        #[arg(long)]
        yes: bool,
    },
}

pub fn run(config: Config, command: Command) -> Outcome {
    match command {
        Command::Add { name, admin } => {
            let password = new_password(&name)?;
            let id: OwnedUserId = ask(config, &Wish::AddUser { name, password, admin })?;
            println!("{id} can log in now{}.", if admin { ", and looks after the server" } else { "" });
        }
        Command::List { json } => {
            let all: Vec<Entry> = ask(config, &Wish::ListUsers)?;
            print!("{}", if json { lines_for_programs(&all) } else { table(&all) });
        }
        Command::Passwd { name } => {
            let password = new_password(&name)?;
            let id: OwnedUserId = ask(config, &Wish::SetPassword { name, password })?;
            println!("{id} has the new password, and must log in again everywhere.");
        }
        Command::ResetLink { name } => {
            let link: String = ask(config, &Wish::MakeResetLink { name })?;
            println!("{link}");
        }
        Command::Deactivate { name, erase, yes } => {
            if !yes && !sure(&name)? {
                return Err(Failure::Failed("nothing was changed".to_owned()));
            }
            let id: OwnedUserId = ask(config, &Wish::Deactivate { name, erase })?;
            println!("{id} has left; the account is closed for ever.");
        }
    }
    Ok(())
}

/// Asks twice without showing it; a program writes it on the standard input, once.
fn new_password(name: &str) -> Result<String, Failure> {
    let unread = |error: io::Error| Failure::Failed(format!("the password cannot be read: {error}"));
    let password = if io::stdin().is_terminal() {
        let password = rpassword::prompt_password(format!("Password for {name}: ")).map_err(unread)?;
        if rpassword::prompt_password("The same again: ").map_err(unread)? != password {
            return Err("the two passwords are not the same; nothing was changed".into());
        }
        password
    } else {
        first_line(io::stdin().lock()).map_err(unread)?
    };
    match password.as_str() {
        "" => Err("a password cannot be empty; nothing was changed".into()),
        _ => Ok(password),
    }
}

fn first_line(mut input: impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    input.read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn sure(name: &str) -> Result<bool, Failure> {
    print!("Close the account of {name} for ever? This cannot be taken back. Write yes: ");
    io::stdout()
        .flush()
        .and_then(|()| first_line(io::stdin().lock()))
        .map(|line| line.trim() == "yes")
        .map_err(|error| Failure::Failed(format!("the answer cannot be read: {error}; --yes answers beforehand")))
}

fn lines_for_programs(all: &[Entry]) -> String {
    all.iter().filter_map(|entry| serde_json::to_string(entry).ok()).map(|line| line + "\n").collect()
}

fn table(all: &[Entry]) -> String {
    if all.is_empty() {
        return "Nobody has an account yet. `ingle user add ann --admin` makes one.\n".to_owned();
    }
    let width = all.iter().map(|entry| entry.id.as_str().len()).max().unwrap_or(0);
    let lines = all.iter().map(|entry| {
        let name = entry.display_name.as_deref().unwrap_or("");
        let facts = [
            (entry.admin, "looks after the server"),
            (entry.guest, "guest"),
            (entry.bridge, "of a bridge"),
            (entry.deactivated, "closed"),
        ];
        let facts: Vec<_> = facts.into_iter().filter_map(|(is, fact)| is.then_some(fact)).collect();
        let line = format!("{:width$}  {name:20}  {}", entry.id.as_str(), facts.join(", "));
        format!("{}\n", line.trim_end())
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{app::App, cli::control, config::PasswordCost};

    /// A configuration whose data are in `folder`.
    fn config(folder: &std::path::Path) -> Config {
        let mut config = Config::for_tests();
        config.data_dir = folder.to_owned();
        config.registration.password_cost = PasswordCost::Minimal;
        config
    }

    fn add(config: &Config, name: &str) -> Result<String, String> {
        ask(config.clone(), &Wish::AddUser { name: name.into(), password: "x".into(), admin: false })
    }

    #[test]
    fn commands_work_without_a_running_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path());
        assert_eq!(add(&config, "ann"), Ok("@ann:localhost".to_owned()));
        assert_eq!(add(&config, "ann"), Err("this name is taken".to_owned()));
        let _: String = ask(config.clone(), &Wish::Deactivate { name: "ann".into(), erase: false }).expect("closed");
        let all: Vec<Entry> = ask(config, &Wish::ListUsers).expect("a list");
        assert!(all.len() == 1 && all[0].deactivated);
    }

    #[test]
    fn commands_reach_the_running_server() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(folder.path());
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let ctx = App::with_config(config.clone());
        {
            let _inside = runtime.enter();
            control::listen(ctx.clone());
        }
        assert_eq!(add(&config, "@bob:localhost"), Ok("@bob:localhost".to_owned()));
        let all = crate::admin::accounts::list(&ctx.users).expect("a list");
        assert_eq!(all[0].id, "@bob:localhost");
        expect_test::expect![[r#"
            @bob:localhost  bob
        "#]]
        .assert_eq(&table(&all));
    }

    #[test]
    fn a_folder_that_is_not_there_is_not_made_by_a_slip() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = config(&folder.path().join("other"));
        assert!(add(&config, "ann").is_err_and(|why| why.contains("run `ingle` first")));
    }

    #[test]
    fn a_password_is_the_first_line_without_its_end() {
        assert_eq!(first_line("the kettle \r\nmore".as_bytes()).expect("a line"), "the kettle ");
    }
}
