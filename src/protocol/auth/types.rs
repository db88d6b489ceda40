//! Which state events have a say in whether an event is allowed.

use ruma::UserId;

use crate::protocol::{
    canonical::{Object, Value},
    event::Event,
    version::Rules,
};

/// Type and state key of the state events that a new event must name as its `auth_events`, where the
/// room has them. Spec: server-server-api#auth-events-selection
pub fn auth_types(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    content: &Object,
    rules: &Rules,
) -> Vec<(&'static str, String)> {
    let text = |name: &str| content.get(name).and_then(Value::as_str).map(str::to_owned);
    let token = || {
        let token = content.get("third_party_invite")?.get("signed")?.get("token")?;
        token.as_str().map(str::to_owned)
    };
    select(kind, sender, state_key, rules, text, token)
}

/// [`auth_types`] of an event that is there already.
pub fn auth_types_of(event: &Event, rules: &Rules) -> Vec<(&'static str, String)> {
    let text = |name: &str| event.content_field::<String>(name);
    let token = || {
        let invite = event.content_value("third_party_invite")?;
        Some(invite.get("signed")?.get("token")?.as_str()?.to_owned())
    };
    select(&event.kind, &event.sender, event.state_key.as_deref(), rules, text, token)
}

fn select(
    kind: &str,
    sender: &UserId,
    state_key: Option<&str>,
    rules: &Rules,
    text: impl Fn(&str) -> Option<String>,
    token: impl Fn() -> Option<String>,
) -> Vec<(&'static str, String)> {
    if kind == "m.room.create" {
        return Vec::new();
    }
    let mut types = Vec::with_capacity(6);
    if !rules.room_id_is_hash {
        types.push(("m.room.create", String::new()));
    }
    types.push(("m.room.power_levels", String::new()));
    types.push(("m.room.member", sender.to_string()));
    let ("m.room.member", Some(target)) = (kind, state_key) else {
        return types;
    };
    let mut member = |user: String| {
        let member = ("m.room.member", user);
        if !types.contains(&member) {
            types.push(member);
        }
    };
    member(target.to_owned());
    let membership = text("membership").unwrap_or_default();
    if membership == "join"
        && rules.restricted
        && let Some(authoriser) = text("join_authorised_via_users_server")
    {
        member(authoriser);
    }
    if matches!(membership.as_str(), "join" | "invite" | "knock") {
        types.push(("m.room.join_rules", String::new()));
    }
    if membership == "invite"
        && let Some(token) = token()
    {
        types.push(("m.room.third_party_invite", token));
    }
    types
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{
        canonical::{Numbers, parse_object},
        version::by_name,
    };

    fn check(version: &str, kind: &str, state_key: Option<&str>, content: &str, expected: &str) {
        let content = parse_object(content.as_bytes(), Numbers::Strict).unwrap();
        let sender = "@ann:a".try_into().unwrap();
        let types = auth_types(kind, sender, state_key, &content, by_name(version).unwrap());
        let found: Vec<_> =
            types.iter().map(|(kind, key)| format!("{}/{key}", kind.trim_start_matches("m.room."))).collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn a_message_needs_create_levels_and_sender() {
        check("11", "m.room.message", None, "{}", "create/ power_levels/ member/@ann:a");
        check("12", "m.room.message", None, "{}", "power_levels/ member/@ann:a");
        check("12", "m.room.create", Some(""), "{}", "");
    }

    #[test]
    fn a_membership_needs_what_decides_on_it() {
        let member =
            |version, target, content, expected| check(version, "m.room.member", Some(target), content, expected);
        member("12", "@ann:a", r#"{"membership":"join"}"#, "power_levels/ member/@ann:a join_rules/");
        member("12", "@bob:b", r#"{"membership":"ban"}"#, "power_levels/ member/@ann:a member/@bob:b");
        member(
            "12",
            "@bob:b",
            r#"{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}"#,
            "power_levels/ member/@ann:a member/@bob:b join_rules/ third_party_invite/t",
        );
        let restricted = r#"{"membership":"join","join_authorised_via_users_server":"@bob:b"}"#;
        member("12", "@ann:a", restricted, "power_levels/ member/@ann:a member/@bob:b join_rules/");
        member("7", "@ann:a", restricted, "create/ power_levels/ member/@ann:a join_rules/");
    }
}
