//! How the commands reach the server: through a socket in the data folder while it runs, else by opening
//! the data folder themselves.
//!
//! One line of JSON each way. The socket belongs to whoever runs the server, and nobody else may open it.

use std::{
    io::{BufRead, BufReader, ErrorKind, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt},
    runtime,
};
use tracing::{debug, warn};

use super::start;
use crate::{
    admin::{accounts, notices, status},
    app::Ctx,
    config::Config,
    error,
    remote::own_key,
    server,
};

/// The name of the socket in the data folder.
const SOCKET: &str = "control.sock";
/// How long a wish may be.
const LONGEST: u64 = 64 << 10;

/// What a command wants done.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum Wish {
    /// Make an account.
    AddUser {
        /// Its name, with or without the server's.
        name: String,
        /// Its password.
        password: String,
        /// Whether its owner looks after the server.
        admin: bool,
    },
    /// List all accounts.
    ListUsers,
    /// Set a password.
    SetPassword {
        /// Whose.
        name: String,
        /// The new one.
        password: String,
    },
    /// Make a link with which somebody sets a new password.
    MakeResetLink {
        /// Who.
        name: String,
    },
    /// Give an account up.
    Deactivate {
        /// Whose.
        name: String,
        /// Whether what they sent is hidden from whoever comes later.
        erase: bool,
    },
    /// Tell people something in the name of the server.
    SendNotice {
        /// Whom.
        names: Vec<String>,
        /// Whether everybody is told.
        everyone: bool,
        /// What.
        text: String,
    },
    /// Make an archive of the store.
    MakeArchive,
    /// Make a new key, for the next start.
    RotateKey,
    /// Say how the store is.
    Status,
}

/// What the other side answers.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Done(Value),
    Refused(String),
}

/// Has a wish fulfilled, by the running server or here.
pub fn ask<T: DeserializeOwned>(config: Config, wish: &Wish) -> Result<T, String> {
    let socket = socket(&config.data_dir);
    let answer = match UnixStream::connect(&socket) {
        Ok(stream) => through(stream, wish).map_err(|error| format!("the running server does not answer: {error}"))?,
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            return Err(format!(
                "{} may only be opened by whoever runs the server; try `sudo -u` with that user's name",
                socket.display()
            ));
        }
        Err(_) => here(config, wish)?,
    };
    match answer {
        Answer::Done(value) => {
            serde_json::from_value(value).map_err(|_| "the running server is of another version; restart it".to_owned())
        }
        Answer::Refused(why) => Err(why),
    }
}

fn through(mut stream: UnixStream, wish: &Wish) -> std::io::Result<Answer> {
    let mut line = serde_json::to_string(wish)?;
    line.push('\n');
    stream.write_all(line.as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}

fn here(mut config: Config, wish: &Wish) -> Result<Answer, String> {
    if !config.data_dir.is_dir() {
        // Not where the server keeps its things, most likely: nothing is begun by a slip.
        return Err(format!(
            "there is no data folder {}; run `ingle` first, or name the configuration with -c",
            config.data_dir.display()
        ));
    }
    // Nobody else is talked to from here; what must reach others waits until the server runs.
    config.federation.enabled = false;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let ctx = start::open(config, false).await?;
        Ok(fulfil(&ctx, wish).await)
    })
}

/// Listens on the socket until the server stops. Needs a tokio runtime.
pub fn listen(ctx: Ctx) {
    let (listener, file) = match server::unix_socket(&socket(&ctx.config.data_dir), 0o600) {
        Ok(opened) => opened,
        Err(why) => return warn!("commands such as `ingle user add` do not work while the server runs: {why}"),
    };
    tokio::spawn(async move {
        let _file = file;
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ctx.stop.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => drop(tokio::spawn(converse(ctx.clone(), stream))),
                Err(error) => {
                    warn!("the commands' socket is closed: {error}");
                    return;
                }
            }
        }
    });
}

async fn converse(ctx: Ctx, stream: tokio::net::UnixStream) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    let read = tokio::io::BufReader::new(read.take(LONGEST)).read_line(&mut line).await;
    let answer = match serde_json::from_str::<Wish>(&line) {
        Ok(wish) => fulfil(&ctx, &wish).await,
        Err(error) => Answer::Refused(format!("the running server does not understand this command: {error}")),
    };
    let mut text = json!(answer).to_string();
    text.push('\n');
    if let Err(error) = read.and(write.write_all(text.as_bytes()).await) {
        debug!("a command went away: {error}");
    }
}

async fn fulfil(ctx: &Ctx, wish: &Wish) -> Answer {
    match attempt(ctx, wish).await {
        Ok(value) => Answer::Done(value),
        Err(error) => {
            if let Some(cause) = &error.cause {
                warn!("a command failed: {cause}");
            }
            Answer::Refused(error.cause.map_or_else(|| error.message.to_string(), |cause| cause.to_string()))
        }
    }
}

async fn attempt(ctx: &Ctx, wish: &Wish) -> error::Result<Value> {
    let users = &ctx.users;
    Ok(match wish {
        Wish::AddUser { name, password, admin } => json!(accounts::add(users, name, password.clone(), *admin).await?),
        Wish::ListUsers => json!(accounts::list(users)?),
        Wish::SetPassword { name, password } => json!(accounts::set_password(users, name, password).await?),
        Wish::MakeResetLink { name } => json!(accounts::reset_link(users, name).await?),
        Wish::SendNotice { names, everyone, text } => json!(notices::send(&ctx.rooms, names, *everyone, text).await?),
        Wish::MakeArchive => {
            let store = ctx.store.clone();
            let made = tokio::task::spawn_blocking(move || store.archive()).await.map_err(error::Error::internal)?;
            json!(made?)
        }
        Wish::RotateKey => {
            let (folder, seed) = (ctx.config.data_dir.clone(), ctx.chance.bytes());
            let made = tokio::task::spawn_blocking(move || own_key::rotate(&folder, seed));
            let made = made.await.map_err(error::Error::internal)?;
            json!(made.map_err(|why| error::Error::invalid_param(why.to_string()))?)
        }
        Wish::Status => {
            let (store, clock) = (ctx.store.clone(), ctx.clock.clone());
            let looked = tokio::task::spawn_blocking(move || status::of(&store, &clock));
            json!(looked.await.map_err(error::Error::internal)??)
        }
        Wish::Deactivate { name, erase } => json!(accounts::deactivate(users, &ctx.rooms, name, *erase).await?),
    })
}

fn socket(data_dir: &Path) -> PathBuf {
    data_dir.join(SOCKET)
}
