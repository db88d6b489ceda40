//! Which endpoints of the specification there are: each row of it stands in `tests/golden/endpoints.txt`.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect_file;
use ingle::{api, http::Facts};

/// Every endpoint of version 1.19 that a homeserver may have: path, method, who may call, whether the rate is limited.
const SPECIFICATION: &str = include_str!("../golden/specification.txt");

/// A path whose arguments have no names, and no slash at its end.
fn shape(path: &str) -> String {
    let segments = path.trim_end_matches('/').split('/');
    segments.map(|segment| if segment.starts_with('{') { "{}" } else { segment }).collect::<Vec<_>>().join("/")
}

fn rows() -> impl Iterator<Item = [&'static str; 4]> {
    SPECIFICATION.lines().map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        fields.try_into().expect("four fields")
    })
}

fn routes() -> BTreeMap<(String, String), Facts> {
    let mut routes = BTreeMap::new();
    for (path, method, facts) in api::routes().each() {
        // A route on condition stands behind the one that it shares its place with.
        routes.entry((shape(path), method.to_string())).or_insert(facts);
    }
    routes
}

#[test]
fn every_row_of_the_specification_is_served_or_known_to_be_missing() {
    let routes = routes();
    let lines: BTreeSet<String> = rows()
        .map(|[path, method, ..]| {
            let served = routes.contains_key(&(shape(path), method.to_owned()));
            format!("{path} {method} {}\n", if served { "served" } else { "not yet" })
        })
        .collect();
    expect_file!["../golden/endpoints.txt"].assert_eq(&lines.into_iter().collect::<String>());
}

#[test]
fn rates_are_limited_where_the_specification_says_so() {
    let routes = routes();
    for [path, method, auth, limited] in rows() {
        let Some(facts) = routes.get(&(shape(path), method.to_owned())) else { continue };
        // Who is known by the signature of a server is never limited.
        if auth != "server" {
            assert_eq!(facts.rate_limited, limited == "limited", "{method} {path}");
        }
    }
}

#[test]
fn guests_may_call_what_the_specification_lets_them() {
    let routes = routes();
    for [path, method, auth, _] in rows().filter(|[.., auth, _]| *auth == "guest") {
        if let Some(facts) = routes.get(&(shape(path), method.to_owned())) {
            assert!(facts.guests, "{method} {path} {auth}");
        }
    }
}
