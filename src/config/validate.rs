//! What each option allows but what cannot work together, said before the server starts.
//!
//! Certificates are looked at by the server, which loads them; sockets by the server, which opens them.

use super::Config;

/// Every problem, as a sentence that says what to write.
pub fn check(config: &Config) -> Vec<String> {
    let mut problems = vec![];
    let tls = &config.tls;
    if tls.certificate.len() != tls.key.len() {
        problems.push(format!(
            "[tls] names {} of certificate and {} of key; write as many keys as certificates, in the same order",
            tls.certificate.len(),
            tls.key.len()
        ));
    }
    if tls.certificate.is_empty()
        && let Some(listen) = config.listen.iter().find(|listen| listen.tls)
    {
        problems.push(format!(
            "the listener on {} has tls = true, but there is no certificate; write `certificate` and `key` under [tls]",
            listen.address
        ));
    }
    for (nth, listen) in config.listen.iter().enumerate() {
        if config.listen[..nth].iter().any(|other| other.address == listen.address) {
            problems.push(format!("there are two listeners on {}; remove one", listen.address));
        }
    }
    if config.listen.is_empty() {
        problems.push("there is no listener; write one under [[listen]]".to_owned());
    }
    if config.registration.shared_secret.as_ref().is_some_and(|secret| secret.len() < 8) {
        problems.push("registration.shared_secret is too short to be a secret; write at least 8 characters".to_owned());
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tls_listener_needs_a_certificate() {
        let mut config = Config::default();
        config.listen[0].tls = true;
        assert!(check(&config)[0].contains("no certificate"));
        config.tls.certificate = vec!["a.pem".into()];
        assert!(check(&config)[0].contains("as many keys"));
        config.tls.key = vec!["a.key".into()];
        assert_eq!(check(&config), Vec::<String>::new());
    }

    #[test]
    fn two_listeners_on_one_address_are_one_too_many() {
        let mut config = Config::default();
        config.listen.push(config.listen[0].clone());
        assert!(check(&config)[0].contains("two listeners"));
    }
}
