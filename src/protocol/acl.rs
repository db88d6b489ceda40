//! Server ACLs: which servers may take part in a room.
//!
//! A [`ServerAcl`] is read from the room's `m.room.server_acl` once and kept; a room without one lets
//! every server in. Where it is asked (which endpoints, each PDU, each EDU of the room) is up to the
//! federation API. Spec: server-server-api#server-access-control-lists-acls

use ruma::ServerName;

use super::{canonical::Value, event::Event, glob::Glob};

/// A room's server ACL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAcl {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    ip_literals: bool,
}

impl ServerAcl {
    /// Reads an `m.room.server_acl`. What is no list of patterns is an empty one.
    pub fn new(event: &Event) -> Self {
        let globs = |name: &str| {
            let list = event.content_value(name);
            let list = list.as_ref().and_then(Value::as_array).unwrap_or_default();
            list.iter().filter_map(Value::as_str).map(Glob::new).collect()
        };
        Self {
            allow: globs("allow"),
            deny: globs("deny"),
            ip_literals: event.content_field("allow_ip_literals").unwrap_or(true),
        }
    }

    /// Whether the server may take part. Ports and case do not count.
    /// Spec: client-server-api#mroomserver_acl
    pub fn allows(&self, server: &ServerName) -> bool {
        if server.is_ip_literal() && !self.ip_literals {
            return false;
        }
        let host = server.host().to_lowercase();
        let listed = |globs: &[Glob]| globs.iter().any(|glob| glob.matches_lower(&host));
        !listed(&self.deny) && listed(&self.allow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::testing::Graph;

    fn allowed(content: &str, servers: &[&str]) -> String {
        let graph = Graph::chain("11", &format!("acl @ann server_acl {content}"));
        let acl = ServerAcl::new(&graph.event("acl"));
        let allowed = servers.iter().filter(|server| acl.allows((**server).try_into().unwrap()));
        allowed.copied().collect::<Vec<_>>().join(" ")
    }

    const SERVERS: &[&str] = &["evil.com", "EVIL.com:8448", "sub.evil.com", "good.org:1", "1.2.3.4", "[::1]:8448"];

    #[test]
    fn denied_comes_before_allowed_and_what_is_not_allowed_is_denied() {
        assert_eq!(allowed(r#"{"allow":["*"]}"#, SERVERS), SERVERS.join(" "));
        assert_eq!(
            allowed(r#"{"allow":["*"],"deny":["Evil.com"]}"#, SERVERS),
            "sub.evil.com good.org:1 1.2.3.4 [::1]:8448"
        );
        assert_eq!(allowed(r#"{"allow":["*"],"deny":["*evil.com"]}"#, SERVERS), "good.org:1 1.2.3.4 [::1]:8448");
        assert_eq!(allowed(r#"{"allow":["good.*"]}"#, SERVERS), "good.org:1");
        assert_eq!(allowed("{}", SERVERS), "");
    }

    #[test]
    fn addresses_can_be_shut_out() {
        let rest = "evil.com EVIL.com:8448 sub.evil.com good.org:1";
        assert_eq!(allowed(r#"{"allow":["*"],"allow_ip_literals":false}"#, SERVERS), rest);
        assert_eq!(allowed(r#"{"allow":["*"],"allow_ip_literals":"no"}"#, SERVERS), SERVERS.join(" "));
    }

    #[test]
    fn what_is_malformed_is_passed_over() {
        assert_eq!(allowed(r#"{"allow":[5,null,"good.org"],"deny":"good.org"}"#, SERVERS), "good.org:1");
    }
}
