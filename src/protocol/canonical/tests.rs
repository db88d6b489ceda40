//! What goes in, and what comes out.

use proptest::prelude::*;

use super::*;

fn check(numbers: Numbers, text: &str, expected: &str) {
    let found = match parse(text.as_bytes(), numbers) {
        Ok(value) => write(&value),
        Err(error) => format!("error: {error}"),
    };
    assert_eq!(found, expected, "{text}");
}

fn check_refused(text: &[u8]) {
    for numbers in [Numbers::Strict, Numbers::Lax] {
        assert!(parse(text, numbers).is_err(), "{}", String::from_utf8_lossy(text));
    }
}

#[test]
fn the_examples_of_the_appendix_come_out_canonical() {
    for (text, expected) in [
        ("{}", "{}"),
        ("{\n \"one\": 1,\n \"two\": \"Two\"\n}", r#"{"one":1,"two":"Two"}"#),
        (r#"{ "b": "2", "a": "1" }"#, r#"{"a":"1","b":"2"}"#),
        (
            r#"{"auth": {"success": true, "mxid": "@john.doe:example.com", "profile": {"display_name":
                   "John Doe", "three_pids": [{"medium": "email", "address": "john.doe@example.org"},
                   {"medium": "msisdn", "address": "123456789"}]}}}"#,
            r#"{"auth":{"mxid":"@john.doe:example.com","profile":{"display_name":"John Doe","three_pids":[{"address":"john.doe@example.org","medium":"email"},{"address":"123456789","medium":"msisdn"}]},"success":true}}"#,
        ),
        (r#"{"a": "日本語"}"#, r#"{"a":"日本語"}"#),
        (r#"{"本": 2, "日": 1}"#, r#"{"日":1,"本":2}"#),
        (r#"{"a": "\u65E5"}"#, r#"{"a":"日"}"#),
        (r#"{"a": null}"#, r#"{"a":null}"#),
    ] {
        check(Numbers::Strict, text, expected);
        check(Numbers::Lax, text, expected);
    }
}

#[test]
fn strings_are_escaped_no_more_than_needed() {
    check(
        Numbers::Strict,
        r#""\u0000\u0001\b\t\n\u000b\f\r\u001f \"\\\/\u007f\ud83d\ude00""#,
        "\"\\u0000\\u0001\\b\\t\\n\\u000b\\f\\r\\u001f \\\"\\\\/\u{7f}😀\"",
    );
}

#[test]
fn strict_numbers_are_integers_of_53_bits() {
    for same in ["0", "-1", "9007199254740991", "-9007199254740991"] {
        check(Numbers::Strict, same, same);
    }
    for refused in ["-0", "1.0", "1e3", "9007199254740992", "-9007199254740992", "99999999999999999999"] {
        assert!(matches!(parse(refused.as_bytes(), Numbers::Strict), Err(JsonError::Number(_))), "{refused}");
    }
}

#[test]
fn lax_numbers_are_written_as_python_writes_them() {
    // Each pair was printed by json.dumps(json.loads(text)) of Python 3.
    for (text, expected) in [
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("0e5", "0.0"),
        ("1.0", "1.0"),
        ("1.10", "1.1"),
        ("50.57", "50.57"),
        ("1e10", "10000000000.0"),
        ("5.114698E4", "51146.98"),
        ("1e15", "1000000000000000.0"),
        ("1e16", "1e+16"),
        ("123456789012345678", "123456789012345678"),
        ("12345678901234567.0", "1.2345678901234568e+16"),
        ("1e22", "1e+22"),
        ("1e100", "1e+100"),
        ("1.5e-5", "1.5e-05"),
        ("0.0001", "0.0001"),
        ("0.00001", "1e-05"),
        ("5e-324", "5e-324"),
        ("1e-400", "0.0"),
        ("1.7976931348623157e308", "1.7976931348623157e+308"),
        ("-9223372036854775808", "-9223372036854775808"),
        ("9223372036854775808", "9223372036854775808"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
    ] {
        check(Numbers::Lax, text, expected);
    }
    assert!(parse(b"1e400", Numbers::Lax).is_err());
    assert!(parse("9".repeat(5000).as_bytes(), Numbers::Lax).is_err());
}

#[test]
fn the_last_of_two_equal_keys_counts() {
    check(Numbers::Strict, r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
}

#[test]
fn what_is_not_json_is_refused() {
    for text in [
        "",
        " ",
        "{",
        "[",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\"}",
        "{a:1}",
        "nul",
        "tru",
        "01",
        "-",
        "1.",
        ".5",
        "1e",
        "+1",
        "NaN",
        "Infinity",
        "\"a",
        "\"\n\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12",
        "1 2",
        "{} {}",
        "\u{feff}{}",
        "'a'",
        "\"\\",
        "\"\\ud800\"",
        "\"\\ud800\\u0041\"",
        "\"\\udc00\"",
        "\"\\u+123\"",
    ] {
        check_refused(text.as_bytes());
    }
    check_refused(b"\"\xff\"");
    check_refused(b"\"\xed\xa0\x80\"");
}

#[test]
fn nesting_has_an_end() {
    let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    assert!(parse(nested(MAX_DEPTH).as_bytes(), Numbers::Strict).is_ok());
    assert_eq!(parse(nested(MAX_DEPTH + 1).as_bytes(), Numbers::Strict), Err(JsonError::TooDeep));
    assert_eq!(parse("{\"a\":".repeat(1_000_000).as_bytes(), Numbers::Strict), Err(JsonError::TooDeep));
}

#[test]
fn serde_sees_the_same_value() {
    let text = r#"{"a":[1,-2,null,true,"x"],"b":{"c":{}}}"#;
    let value = parse(text.as_bytes(), Numbers::Strict).unwrap();
    assert_eq!(serde_json::from_str::<Value>(text).unwrap(), value);
    assert_eq!(serde_json::to_string(&value).unwrap(), text);
    assert_eq!(to_value(&value).unwrap(), value);
    assert!(serde_json::from_str::<Value>("1.5").is_err());
    let lax = parse(b"[1e16,99999999999999999999]", Numbers::Lax).unwrap();
    assert_eq!(serde_json::to_string(&lax).unwrap(), "[1e+16,99999999999999999999]");
}

/// Any value that canonical JSON may hold.
fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-MAX_INT..=MAX_INT).prop_map(Value::Int),
        any::<String>().prop_map(Value::String),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..6).prop_map(Value::Object),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_read_again(value in values()) {
        let text = write(&value);
        prop_assert_eq!(&parse(text.as_bytes(), Numbers::Strict).unwrap(), &value);
        prop_assert_eq!(&parse(text.as_bytes(), Numbers::Lax).unwrap(), &value);
        prop_assert_eq!(&serde_json::from_str::<Value>(&text).unwrap(), &value);
        prop_assert_eq!(&to_value(&value).unwrap(), &value);
    }

    #[test]
    fn others_write_the_same(value in values()) {
        let theirs: ruma::CanonicalJsonValue = serde_json::from_str(&write(&value)).unwrap();
        prop_assert_eq!(write(&value), theirs.to_string());
    }

    #[test]
    fn bytes_from_anywhere_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes, Numbers::Strict);
        let _ = parse(&bytes, Numbers::Lax);
    }

    #[test]
    fn damaged_json_is_read_as_serde_json_reads_it(
        value in values(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(br#"{}[]",:\u0123456789-+.eEtfn "#.to_vec()),
        insert in any::<bool>(),
    ) {
        let mut text = write(&value).into_bytes();
        let at = at.index(text.len());
        if insert { text.insert(at, byte) } else { text[at] = byte }
        let ours = parse(&text, Numbers::Lax);
        match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(_) => prop_assert!(ours.is_ok(), "{:?} on {}", ours, String::from_utf8_lossy(&text)),
            // serde_json refuses half a surrogate pair and huge floats as we do.
            Err(_) => prop_assert!(ours.is_err(), "{}", String::from_utf8_lossy(&text)),
        }
    }
}
