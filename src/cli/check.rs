//! `ingle check-config`: reads the configuration and everything that it names, without starting.

use tokio::runtime;

use super::{Failure, Outcome, Place};
use crate::{
    config::{Config, paths},
    observe::logs,
    remote, server,
};

pub fn run(place: &Place) -> Outcome {
    let file = place.file();
    let config = place.config()?;
    let problems = problems(&config);
    if !problems.is_empty() {
        return Err(Failure::Usage(problems.join("\ningle: ")));
    }
    match file {
        Some(file) => println!("{} is right.", file.display()),
        None => println!("There is no {}; the defaults hold.", paths::config_dir().join(paths::FILE_NAME).display()),
    }
    println!("The server is {}, keeps its data in {},", config.server_name, config.data_dir.display());
    println!("is reached at {} and listens on:", config.public_url());
    for listen in &config.listen {
        println!("  {}{}", listen.address, if listen.tls { " with TLS" } else { "" });
    }
    Ok(())
}

fn problems(config: &Config) -> Vec<String> {
    let mut problems = vec![];
    match server::Certificates::load(config) {
        Ok(certificates) => problems.extend(certificates.and_then(|certificates| certificates.expired())),
        Err(why) => problems.push(why),
    }
    problems.extend(remote::tls::client(&config.tls.extra_roots, &[]).err().map(|error| error.to_string()));
    problems.extend(logs::filter(&config.log).err());
    problems.extend(refused_ports(config));
    problems
}

/// Addresses that cannot be opened, other than because the server runs already.
fn refused_ports(config: &Config) -> Vec<String> {
    let Ok(runtime) = runtime::Builder::new_current_thread().enable_all().build() else { return vec![] };
    let _inside = runtime.enter();
    let tcp = config.listen.iter().filter(|listen| matches!(listen.address, crate::config::Address::Tcp(_)));
    tcp.filter_map(|listen| server::Socket::open(listen).err()).filter(|why| !why.contains("in use")).collect()
}
