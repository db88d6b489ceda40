//! Requests between servers are signed: the `X-Matrix` header, made and checked.
//!
//! What is signed is the method, the path with its query as it stands in the request line, both names and
//! the body. Which key is the right one is not decided here.
//!
//! Spec: server-server-api#request-authentication

use ruma::{ServerName, api::federation::authentication::XMatrix};

use crate::protocol::{
    canonical::{self, Object, Value},
    sign::{KeyPair, PublicKey},
};

/// A request as it is signed.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// Who asks.
    pub origin: &'a ServerName,
    /// Who is asked.
    pub destination: &'a ServerName,
    /// The method, in capitals.
    pub method: &'a str,
    /// Path and query, as in the request line.
    pub uri: &'a str,
    /// The JSON body, if there is one.
    pub content: Option<&'a Value>,
}

impl Signed<'_> {
    fn text(&self) -> String {
        let mut object = Object::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("method", self.method.into());
        put("uri", self.uri.into());
        put("origin", self.origin.as_str().into());
        put("destination", self.destination.as_str().into());
        if let Some(content) = self.content {
            put("content", content.clone());
        }
        canonical::write_object(&object)
    }

    /// The value of the `Authorization` header with our signature.
    pub fn header(&self, key: &KeyPair) -> String {
        let signature = key.sign(self.text().as_bytes());
        format!(
            r#"X-Matrix origin="{}",destination="{}",key="{}",sig="{signature}""#,
            self.origin,
            self.destination,
            key.id()
        )
    }

    /// Whether the signature in a header was made with this key.
    pub fn verifies(&self, header: &XMatrix, key: &PublicKey) -> bool {
        key.verifies(self.text().as_bytes(), &header.sig.encode())
    }
}

/// Reads a header. Old servers write names with a port, and the IDs of keys, without quotes, which only a text
/// without colons may do.
pub fn parse(header: &str) -> Option<XMatrix> {
    XMatrix::parse(header).ok().or_else(|| XMatrix::parse(quoted(header)?).ok())
}

/// The same header with quotes around every value.
fn quoted(header: &str) -> Option<String> {
    let (scheme, fields) = header.trim().split_once(' ')?;
    let mut quoted = Vec::new();
    for field in fields.split(',') {
        let (name, value) = field.trim().split_once('=')?;
        quoted.push(format!("{}=\"{}\"", name.trim(), value.trim().trim_matches('"')));
    }
    Some(format!("{scheme} {}", quoted.join(",")))
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn a_signed_request_is_recognized_and_a_changed_one_is_not() {
        let key = KeyPair::from_seed(&[3; 32], "1");
        let content = Value::Object([("a".to_owned(), Value::Int(1))].into_iter().collect());
        let request = Signed {
            origin: server_name!("a.example"),
            destination: server_name!("b.example:8448"),
            method: "PUT",
            uri: "/_matrix/federation/v1/send/1?x=%20",
            content: Some(&content),
        };
        let header = XMatrix::parse(request.header(&key)).unwrap();
        assert_eq!(header.destination.as_deref(), Some(server_name!("b.example:8448")));
        assert!(request.verifies(&header, &key.public()));
        assert!(!Signed { uri: "/_matrix/federation/v1/send/1?x= ", ..request }.verifies(&header, &key.public()));
        assert!(!Signed { content: None, ..request }.verifies(&header, &key.public()));
        assert!(!request.verifies(&header, &KeyPair::from_seed(&[4; 32], "1").public()));
    }
}
