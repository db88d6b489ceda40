//! What `ingle serve` and the commands that work without a running server have in common: opening the
//! data folder.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
    sync::Arc,
};

use crate::{
    admin,
    app::{App, Ctx, SWEEPS},
    chance::Chance,
    clock::Clock,
    config::{Config, memory},
    remote::{
        discovery::Discovery,
        https::Https,
        own_key, tls,
        transport::{Transport, WithoutServers},
    },
    store::{Options, Progress, Store, Verifier},
};

/// Opens the data folder and what is kept in it, making it if this is the first time.
///
/// With `accept_loss` also when a part of what was saved is lost for good.
pub async fn open(config: Config, accept_loss: bool) -> Result<Ctx, String> {
    private_folder(&config.data_dir)?;
    let options = Options { accept_loss, ..store_options(&config)? };
    let store = Store::open(options).map_err(|error| error.to_string())?;
    admin::identity::settle(&store, &config.server_name).await.map_err(|error| error.message.to_string())?;
    let (clock, chance) = (Clock::system(), Chance::system());
    let keys = own_key::load_or_create(&config.data_dir, chance.bytes(), clock.now());
    let keys = keys.map_err(|error| error.to_string())?;
    let transport = transport(&config, &clock)?;
    App::new(config, clock, chance, store, keys, transport).map_err(|error| format!("{error:?}"))
}

/// Where the store is and what it may use.
pub fn store_options(config: &Config) -> Result<Options, String> {
    let mut options = Options::new(config.data_dir.join("store"));
    options.cache = memory::share(config, memory::Share::Pages);
    options.verifier = Verifier::this_program().map_err(|error| error.to_string())?;
    options.sweeps = SWEEPS;
    options.progress = Progress::new(|what, done, total| match (done * 100).checked_div(total) {
        Some(percent) => tracing::info!("{what}: {percent} %"),
        None => tracing::info!("{what}: {done}"),
    });
    Ok(options)
}

fn transport(config: &Config, clock: &Clock) -> Result<Arc<dyn Transport>, String> {
    let tls = tls::client(&config.tls.extra_roots, &[b"h2", b"http/1.1"]).map_err(|error| error.to_string())?;
    let memory = memory::share(config, memory::Share::Remote) / 4;
    let discovery = Discovery::new(clock.clone(), config.federation.allow_private_addresses, memory);
    let https = Https::new(discovery, tls);
    match config.federation.enabled {
        true => Ok(Arc::new(https)),
        false => Ok(Arc::new(WithoutServers(https))),
    }
}

/// A folder that only its owner may look into: people's letters are in it.
pub fn private_folder(folder: &Path) -> Result<(), String> {
    let show = folder.display();
    let refused = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::PermissionDenied => format!(
            "the data folder {show} may not be used; give it to the user who runs the server, or choose another \
             with --data-dir"
        ),
        _ => format!("the data folder {show} cannot be used: {error}"),
    };
    if !folder.is_dir() {
        return fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(refused);
    }
    let mode = fs::metadata(folder).map_err(refused)?.permissions().mode();
    if mode & 0o007 != 0 {
        // A folder that somebody made beforehand, with the usual rights. Others' rights go, a group's stay.
        _ = fs::set_permissions(folder, fs::Permissions::from_mode(mode & 0o770));
    }
    Ok(())
}
