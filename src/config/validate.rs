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
    let turn = &config.turn;
    if !turn.uris.is_empty() && turn.shared_secret.is_none() && (turn.username.is_none() || turn.password.is_none()) {
        problems.push("[turn] has uris but no way in; write `shared_secret`, or `username` and `password`".to_owned());
    }
    if let Some(uri) =
        turn.uris.iter().find(|uri| !["turn:", "turns:", "stun:"].iter().any(|kind| uri.starts_with(kind)))
    {
        problems.push(format!("{uri:?} in [turn] is no address of a TURN server; write \"turn:{uri}\""));
    }
    let retention = &config.retention;
    if retention.longest_lifetime.is_some_and(|longest| longest < retention.shortest_lifetime) {
        problems.push("retention.longest_lifetime is shorter than retention.shortest_lifetime".to_owned());
    }
    let fits = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'=' | b'-' | b'/');
    if config.notices.sender.is_empty() || !config.notices.sender.bytes().all(fits) {
        problems.push("notices.sender is the name of an account; write small letters and digits".to_owned());
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
    fn a_turn_server_needs_an_address_and_a_way_in() {
        let mut config = Config::default();
        config.turn.uris = vec!["turn.example.org".into()];
        let problems = check(&config);
        assert!(problems[0].contains("no way in") && problems[1].contains("\"turn:turn.example.org\""), "{problems:?}");
        config.turn.uris = vec!["turn:turn.example.org".into()];
        config.turn.shared_secret = Some("secret".into());
        assert_eq!(check(&config), Vec::<String>::new());
    }

    #[test]
    fn two_listeners_on_one_address_are_one_too_many() {
        let mut config = Config::default();
        config.listen.push(config.listen[0].clone());
        assert!(check(&config)[0].contains("two listeners"));
    }
}
