//! Which servers this one talks to: all of them, unless the configuration says otherwise.
//!
//! It holds in both directions, and for what others pass on: the key of a server that is not permitted is not
//! known, so nothing that it has signed counts. Server ACLs, which rooms have, are another matter
//! (`protocol::acl`).

use ruma::ServerName;

use crate::{config::Config, protocol::glob::Glob};

/// `federation.enabled`, `federation.allow` and `federation.deny`, ready to be asked.
#[derive(Debug, Clone)]
pub struct Permitted {
    enabled: bool,
    allow: Vec<Glob>,
    deny: Vec<Glob>,
}

impl Permitted {
    /// What a configuration says.
    pub fn new(config: &Config) -> Self {
        let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
        let federation = &config.federation;
        Self { enabled: federation.enabled, allow: globs(&federation.allow), deny: globs(&federation.deny) }
    }

    /// Whether this server talks to others at all.
    pub fn anybody(&self) -> bool {
        self.enabled
    }

    /// Whether this server talks to that one. Its port does not matter.
    pub fn is(&self, server: &ServerName) -> bool {
        let host = server.host();
        let listed = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(host));
        self.enabled && !listed(&self.deny) && (self.allow.is_empty() || listed(&self.allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(allow: &[&str], deny: &[&str], server: &str, expected: bool) {
        let mut config = Config::for_tests();
        let texts = |patterns: &[&str]| patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        (config.federation.allow, config.federation.deny) = (texts(allow), texts(deny));
        let server = ruma::OwnedServerName::try_from(server).unwrap();
        assert_eq!(Permitted::new(&config).is(&server), expected, "{server}");
        config.federation.enabled = false;
        assert!(!Permitted::new(&config).is(&server));
    }

    #[test]
    fn without_lists_everybody_is_permitted() {
        check(&[], &[], "anybody.example", true);
    }

    #[test]
    fn who_is_denied_is_not_permitted_whoever_allows_it() {
        check(&["*"], &["*.spam.example"], "more.spam.example:8448", false);
        check(&["*"], &["*.spam.example"], "spam.example", true);
    }

    #[test]
    fn where_some_are_allowed_no_others_are() {
        check(&["friends.example", "*.school.example"], &[], "Friends.Example:443", true);
        check(&["friends.example", "*.school.example"], &[], "maths.school.example", true);
        check(&["friends.example", "*.school.example"], &[], "anybody.example", false);
    }
}
