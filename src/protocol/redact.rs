//! What stays of an event when it is redacted, in each room version.
//!
//! [`redact`] is used on the way to hashes and signatures as well: both must hold for the redacted
//! event. Whether a redaction may be applied is decided elsewhere ([`super::auth::power`]).

use super::{
    canonical::{Object, Value, write_object, write_string, write_value},
    version::Rules,
};

/// The event without what redaction strips. Spec: rooms/v12#redactions
pub fn redact(event: &Object, rules: &Rules) -> Object {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut kept = Object::new();
    for (key, value) in event {
        if key == "content" {
            let content = value.as_object().map(|content| redact_content(kind, content, rules));
            kept.insert(key.clone(), Value::Object(content.unwrap_or_default()));
        } else if keeps(key, rules) {
            kept.insert(key.clone(), value.clone());
        }
    }
    kept
}

/// What the signatures and the reference hash of an event cover: the canonical text of what redaction keeps, without
/// the signatures. Nothing is copied for it but that.
pub fn signed_text(event: &Object, rules: &Rules) -> String {
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
    let mut out = String::with_capacity(1024);
    out.push('{');
    for (key, value) in event {
        if key == "signatures" || (key != "content" && !keeps(key, rules)) {
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        write_string(&mut out, key);
        out.push(':');
        match key == "content" {
            true => {
                let content = value.as_object().map(|content| redact_content(kind, content, rules));
                out.push_str(&write_object(&content.unwrap_or_default()));
            }
            false => write_value(&mut out, value),
        }
    }
    out.push('}');
    out
}

/// The content of an event of this type without what redaction strips.
pub fn redact_content(kind: &str, content: &Object, rules: &Rules) -> Object {
    let modern = rules.modern_redaction;
    let keys: &[&str] = match kind {
        "m.room.create" if modern => return content.clone(),
        "m.room.create" => &["creator"],
        "m.room.member" if rules.redaction_keeps_authoriser => &["membership", "join_authorised_via_users_server"],
        "m.room.member" => &["membership"],
        "m.room.join_rules" if rules.redaction_keeps_allow => &["join_rule", "allow"],
        "m.room.join_rules" => &["join_rule"],
        "m.room.power_levels" => {
            &["ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default", "invite"]
                [..if modern { 9 } else { 8 }]
        }
        "m.room.aliases" if rules.special_aliases => &["aliases"],
        "m.room.history_visibility" => &["history_visibility"],
        "m.room.redaction" if modern => &["redacts"],
        _ => &[],
    };
    let mut kept: Object = keys.iter().filter_map(|key| Some((key.to_string(), content.get(*key)?.clone()))).collect();
    if kind == "m.room.member"
        && modern
        && let Some(Value::Object(invite)) = content.get("third_party_invite")
    {
        let signed = invite.get_key_value("signed").map(|(key, signed)| (key.clone(), signed.clone()));
        kept.insert("third_party_invite".to_owned(), Value::Object(signed.into_iter().collect()));
    }
    kept
}

fn keeps(key: &str, rules: &Rules) -> bool {
    match key {
        "event_id" | "type" | "room_id" | "sender" | "state_key" | "hashes" | "signatures" | "depth"
        | "prev_events" | "auth_events" | "origin_server_ts" => true,
        "origin" | "membership" | "prev_state" => !rules.modern_redaction,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        canonical::{Numbers, parse_object, write_object, write_without},
        version::by_name,
    };

    fn check(version: &str, kind: &str, content: &str, expected: &str) {
        let content = parse_object(content.as_bytes(), Numbers::Strict).unwrap();
        let kept = redact_content(kind, &content, by_name(version).unwrap());
        assert_eq!(write_object(&kept), expected, "{kind} in version {version}");
    }

    #[test]
    fn the_envelope_keeps_what_identifies_and_places_the_event() {
        let event = br#"{"auth_events":[],"content":{"body":"x"},"depth":1,"event_id":"$1","hashes":{},"membership":"join",
            "origin":"a","origin_server_ts":1,"prev_events":[],"prev_state":[],"redacts":"$0","room_id":"!r","sender":"@a:a",
            "signatures":{},"state_key":"","type":"x","unsigned":{},"extra":1}"#;
        let event = parse_object(event, Numbers::Strict).unwrap();
        let keys = |version| redact(&event, by_name(version).unwrap()).into_keys().collect::<Vec<_>>().join(" ");
        for version in ["1", "10", "11", "12"] {
            let rules = by_name(version).unwrap();
            let text = write_without(&redact(&event, rules), &["signatures", "unsigned"]);
            assert_eq!(signed_text(&event, rules), text, "version {version}");
        }
        assert_eq!(
            keys("10"),
            "auth_events content depth event_id hashes membership origin origin_server_ts prev_events prev_state room_id \
             sender signatures state_key type"
        );
        assert_eq!(
            keys("11"),
            "auth_events content depth event_id hashes origin_server_ts prev_events room_id sender signatures state_key type"
        );
    }

    #[test]
    fn a_message_keeps_nothing_of_its_content() {
        for version in ["1", "12"] {
            check(version, "m.room.message", r#"{"body":"secret","membership":"join"}"#, "{}");
        }
    }

    #[test]
    fn a_member_keeps_more_in_newer_versions() {
        let content = r#"{"membership":"join","displayname":"Ann","join_authorised_via_users_server":"@b:c",
            "third_party_invite":{"display_name":"x","signed":{"token":"t"}}}"#;
        check("8", "m.room.member", content, r#"{"membership":"join"}"#);
        check("9", "m.room.member", content, r#"{"join_authorised_via_users_server":"@b:c","membership":"join"}"#);
        check(
            "11",
            "m.room.member",
            content,
            r#"{"join_authorised_via_users_server":"@b:c","membership":"join","third_party_invite":{"signed":{"token":"t"}}}"#,
        );
    }

    #[test]
    fn the_other_types_keep_what_authorization_reads() {
        check("10", "m.room.create", r#"{"creator":"@a:b","room_version":"10"}"#, r#"{"creator":"@a:b"}"#);
        check("11", "m.room.create", r#"{"room_version":"11","x":[1]}"#, r#"{"room_version":"11","x":[1]}"#);
        check("7", "m.room.join_rules", r#"{"join_rule":"restricted","allow":[]}"#, r#"{"join_rule":"restricted"}"#);
        check(
            "8",
            "m.room.join_rules",
            r#"{"join_rule":"restricted","allow":[]}"#,
            r#"{"allow":[],"join_rule":"restricted"}"#,
        );
        check("10", "m.room.power_levels", r#"{"ban":1,"invite":2,"notifications":{}}"#, r#"{"ban":1}"#);
        check("11", "m.room.power_levels", r#"{"ban":1,"invite":2,"notifications":{}}"#, r#"{"ban":1,"invite":2}"#);
        check("5", "m.room.aliases", r##"{"aliases":["#a:b"]}"##, r##"{"aliases":["#a:b"]}"##);
        check("6", "m.room.aliases", r##"{"aliases":["#a:b"]}"##, "{}");
        check("10", "m.room.redaction", r#"{"redacts":"$x","reason":"y"}"#, "{}");
        check("11", "m.room.redaction", r#"{"redacts":"$x","reason":"y"}"#, r#"{"redacts":"$x"}"#);
        check(
            "1",
            "m.room.history_visibility",
            r#"{"history_visibility":"shared","x":1}"#,
            r#"{"history_visibility":"shared"}"#,
        );
    }
}
