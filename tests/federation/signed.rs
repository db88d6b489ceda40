//! How other servers say who they are: the forms of the `X-Matrix` header that are understood, and what is refused.

use bytes::Bytes;
use http::Request;
use ingle::remote::x_matrix::Signed;

use crate::harness::{Server, network};

const URI: &str = "/_matrix/federation/v1/query/profile?user_id=%40ann%3Aa.example&field=displayname";

/// The name of `from`'s key, and its signature of a request for `uri` to the server `to`.
fn signature(from: &Server, to: &str, uri: &str) -> (String, String) {
    let (origin, key) = (&from.ctx.config.server_name, &from.ctx.remote.key);
    let to = to.try_into().expect("a server name");
    let header = Signed { origin, destination: to, method: "GET", uri, content: None }.header(key);
    let (_, signature) = header.split_once("sig=\"").expect("a signature");
    (key.id(), signature.trim_end_matches('"').to_owned())
}

async fn answer(by: &Server, uri: &str, header: String) -> String {
    let request = Request::builder().uri(uri).header("Authorization", header).body(Bytes::new());
    by.send(request.expect("a request")).await.summary()
}

#[tokio::test]
async fn every_form_of_a_good_signature_is_understood() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    a.with_user("ann").await;
    let (key, sig) = signature(&b, "a.example", URI);
    for header in [
        format!(r#"X-Matrix origin="b.example",destination="a.example",key="{key}",sig="{sig}""#),
        format!(r#"X-Matrix origin="b.example", key="{key}", sig="{sig}", destination="a.example""#),
        // Old servers quote only some, and name no destination.
        format!(r#"X-Matrix origin=b.example,key="{key}",sig="{sig}""#),
        format!(r#"X-Matrix origin=b.example,key={key},sig="{sig}""#),
        format!(r#"x-matrix Origin="b.example",Key="{key}",Sig="{sig}",Destination="a.example""#),
    ] {
        assert_eq!(answer(&a, URI, header.clone()).await, "200", "{header}");
    }
}

#[tokio::test]
async fn what_was_signed_for_something_else_is_refused() {
    let network = network();
    let (a, b) = (network.server("a.example").await, network.server("b.example").await);
    let c = network.server("c.example").await;
    a.with_user("ann").await;
    let header = |origin: &str, destination: &str, (key, sig): (String, String)| {
        format!(r#"X-Matrix origin="{origin}",destination="{destination}",key="{key}",sig="{sig}""#)
    };
    let refused = "401 M_UNAUTHORIZED";
    // For another server, whatever the header says.
    assert_eq!(answer(&a, URI, header("b.example", "c.example", signature(&b, "c.example", URI))).await, refused);
    assert_eq!(answer(&a, URI, header("b.example", "a.example", signature(&b, "c.example", URI))).await, refused);
    // By another server, also by the very one that is asked.
    assert_eq!(answer(&a, URI, header("b.example", "a.example", signature(&c, "a.example", URI))).await, refused);
    assert_eq!(answer(&a, URI, header("a.example", "a.example", signature(&a, "a.example", URI))).await, refused);
    // The path is signed as it is sent, not as it is meant.
    let same = URI.replace("%40", "@");
    assert_eq!(answer(&a, &same, header("b.example", "a.example", signature(&b, "a.example", URI))).await, refused);
    assert_eq!(answer(&a, &same, header("b.example", "a.example", signature(&b, "a.example", &same))).await, "200");
    assert_eq!(answer(&a, URI, "X-Matrix".to_owned()).await, refused);
    assert_eq!(answer(&a, URI, format!("X-Matrix origin=\"{}\"", "b".repeat(10_000))).await, refused);
}
