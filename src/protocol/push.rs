//! Push rules: whether an event is worth telling a user about, and how loudly.
//!
//! The rules themselves are ruma's [`Ruleset`]. An event is prepared once ([`Subject::new`]) and then
//! evaluated for each user who should hear of it ([`evaluate`]); what differs between users is the
//! ruleset and a small [`Context`]. Whether the notification is counted, kept or sent out is not
//! decided here. Spec: client-server-api#push-rules

use std::{borrow::Cow, cell::OnceCell};

use ruma::{
    UInt, UserId,
    push::{Action, PushCondition, Ruleset, ScalarJsonValue, SoundTweakValue, Tweak},
};

use super::{
    auth::PowerLevels,
    canonical::{Numbers, Value, parse},
    event::Event,
    glob::{Glob, contains_word},
};

/// The server-default rules of v1.19. Spec: client-server-api#predefined-rules
pub fn default_rules(user: &UserId) -> Ruleset {
    let mut rules = Ruleset::server_default(user);
    // Thread subscriptions are no part of the specification yet.
    rules.postcontent.clear();
    rules
}

/// An event, prepared to be evaluated for any number of users.
pub struct Subject<'a> {
    event: &'a Event,
    content: Value,
    body: OnceCell<Option<String>>,
}

impl<'a> Subject<'a> {
    pub fn new(event: &'a Event) -> Self {
        let content = parse(event.content().as_bytes(), Numbers::Lax).unwrap_or(Value::Null);
        Self { event, content, body: OnceCell::new() }
    }

    /// The text that content rules look into, in lower case.
    fn body(&self) -> Option<&str> {
        let body = || self.content.get("body").and_then(Value::as_str).map(str::to_lowercase);
        self.body.get_or_init(body).as_deref()
    }

    /// The string under a path, in lower case.
    fn text(&self, path: &str) -> Option<Cow<'_, str>> {
        let lower = |text: &'a str| Some(Cow::Owned(text.to_lowercase()));
        match path {
            "type" => lower(&self.event.kind),
            "sender" => lower(self.event.sender.as_str()),
            "room_id" => lower(self.event.room_id.as_str()),
            "event_id" => lower(self.event.event_id.as_str()),
            "state_key" => lower(self.event.state_key.as_deref()?),
            "redacts" => lower(self.event.redacts.as_ref()?.as_str()),
            "content.body" => self.body().map(Cow::Borrowed),
            _ => Some(Cow::Owned(self.in_content(path)?.as_str()?.to_lowercase())),
        }
    }

    /// The value under a path of the content. Spec: appendices#dot-separated-property-paths
    fn in_content(&self, path: &str) -> Option<&Value> {
        segments(path.strip_prefix("content.")?).try_fold(&self.content, |value, key| value.get(&key))
    }

    fn property_is(&self, path: &str, wanted: &ScalarJsonValue) -> bool {
        let envelope = match path {
            "type" => Some(self.event.kind.as_str()),
            "sender" => Some(self.event.sender.as_str()),
            "room_id" => Some(self.event.room_id.as_str()),
            "event_id" => Some(self.event.event_id.as_str()),
            "state_key" => self.event.state_key.as_deref(),
            "redacts" => self.event.redacts.as_ref().map(|id| id.as_str()),
            "origin_server_ts" => {
                return wanted.as_integer().map(i64::from) == i64::try_from(self.event.origin_server_ts).ok();
            }
            _ => return self.in_content(path).is_some_and(|value| equals(value, wanted)),
        };
        envelope.is_some() && envelope == wanted.as_str()
    }
}

/// What else decides on a notification: who would be told, and in what room.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Who would be told.
    pub user: &'a UserId,
    /// The user's name in this room.
    pub display_name: Option<&'a str>,
    /// How many have joined the room.
    pub member_count: u64,
    /// The room's power levels, to know whether the sender may notify everybody.
    pub power_levels: Option<&'a PowerLevels>,
}

/// What some rules ask for, beside the event: whoever evaluates them need not look up more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    /// The user's name in the room.
    pub display_name: bool,
    /// The power levels, also for events that do not mention the whole room.
    pub power_levels: bool,
}

/// What rules ask for.
pub fn asks(rules: &Ruleset) -> Asks {
    let conditional = rules.override_.iter().chain(&rules.underride).filter(|rule| rule.enabled);
    let mut asks = Asks::default();
    for rule in conditional {
        #[allow(deprecated)]
        for condition in &rule.conditions {
            asks.display_name |= matches!(condition, PushCondition::ContainsDisplayName);
            let levels = matches!(condition, PushCondition::SenderNotificationPermission(_));
            asks.power_levels |= levels && rule.rule_id != ".m.rule.is_room_mention";
        }
    }
    asks
}

/// What the first matching rule says; nothing, if none matches.
#[derive(Clone, Copy, Debug, Default)]
pub struct Actions<'r> {
    /// The rule's actions, as clients and push gateways are told them.
    pub list: &'r [Action],
}

impl<'r> Actions<'r> {
    /// Whether the user is notified at all.
    pub fn notify(&self) -> bool {
        self.list.iter().any(|action| matches!(action, Action::Notify))
    }

    /// Whether the event is highlighted, as a mention is.
    pub fn highlight(&self) -> bool {
        self.notify() && self.list.iter().any(Action::is_highlight)
    }

    /// The sound to play.
    pub fn sound(&self) -> Option<&'r SoundTweakValue> {
        self.list.iter().find_map(|action| match action {
            Action::SetTweak(Tweak::Sound(sound)) => Some(sound),
            _ => None,
        })
    }
}

/// Finds the first rule that matches, in the order of their kinds. Nobody is told of their own events.
pub fn evaluate<'r>(rules: &'r Ruleset, subject: &Subject<'_>, context: &Context<'_>) -> Actions<'r> {
    if subject.event.sender == context.user {
        return Actions::default();
    }
    let conditional = |rule: &&ruma::push::ConditionalPushRule| {
        rule.enabled && rule.conditions.iter().all(|condition| applies(condition, subject, context))
    };
    let content = |rule: &&ruma::push::PatternedPushRule| rule.enabled && matches_body(&rule.pattern, subject);
    let found = rules
        .override_
        .iter()
        .find(conditional)
        .map(|rule| &rule.actions)
        .or_else(|| rules.content.iter().find(content).map(|rule| &rule.actions))
        .or_else(|| {
            rules.room.get(subject.event.room_id.as_str()).filter(|rule| rule.enabled).map(|rule| &rule.actions)
        })
        .or_else(|| {
            rules.sender.get(subject.event.sender.as_str()).filter(|rule| rule.enabled).map(|rule| &rule.actions)
        })
        .or_else(|| rules.underride.iter().find(conditional).map(|rule| &rule.actions));
    Actions { list: found.map_or(&[], Vec::as_slice) }
}

/// Spec: client-server-api#conditions-1
fn applies(condition: &PushCondition, subject: &Subject<'_>, context: &Context<'_>) -> bool {
    match condition {
        PushCondition::EventMatch(data) if data.key == "content.body" => matches_body(&data.pattern, subject),
        PushCondition::EventMatch(data) => match subject.text(&data.key) {
            // Most rules name a type, without any wildcard.
            Some(text) if !data.pattern.contains(['*', '?']) => text == data.pattern.to_lowercase(),
            Some(text) => Glob::new(&data.pattern).matches_lower(&text),
            None => false,
        },
        #[allow(deprecated)]
        PushCondition::ContainsDisplayName => match (context.display_name, subject.body()) {
            (Some(name), Some(body)) => contains_word(body, &name.to_lowercase()),
            _ => false,
        },
        PushCondition::RoomMemberCount(data) => {
            use std::ops::RangeBounds;
            data.is.contains(&UInt::new_saturating(context.member_count))
        }
        PushCondition::SenderNotificationPermission(data) => {
            context.power_levels.is_some_and(|levels| levels.can_notify(&subject.event.sender, data.key.as_ref()))
        }
        PushCondition::EventPropertyIs(data) => subject.property_is(&data.key, &data.value),
        PushCondition::EventPropertyContains(data) => subject
            .in_content(&data.key)
            .and_then(Value::as_array)
            .is_some_and(|items| items.iter().any(|item| equals(item, &data.value))),
        _ => false,
    }
}

fn matches_body(pattern: &str, subject: &Subject<'_>) -> bool {
    subject.body().is_some_and(|body| Glob::new(pattern).matches_word_lower(body))
}

fn equals(value: &Value, wanted: &ScalarJsonValue) -> bool {
    match (value, wanted) {
        (Value::Null, ScalarJsonValue::Null) => true,
        (Value::Bool(value), ScalarJsonValue::Bool(wanted)) => value == wanted,
        (Value::Int(value), ScalarJsonValue::Integer(wanted)) => *value == i64::from(*wanted),
        (Value::String(value), ScalarJsonValue::String(wanted)) => value == wanted,
        _ => false,
    }
}

/// The keys of a path: divided by dots, where `\.` is a dot and `\\` a backslash within a key.
fn segments(path: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let mut rest = Some(path);
    std::iter::from_fn(move || {
        let text = rest?;
        let mut escaped = false;
        let end = text.bytes().position(|byte| {
            let ends = byte == b'.' && !escaped;
            escaped = byte == b'\\' && !escaped;
            ends
        });
        rest = end.map(|end| &text[end + 1..]);
        let key = &text[..end.unwrap_or(text.len())];
        Some(if key.contains('\\') { Cow::Owned(unescape(key)) } else { Cow::Borrowed(key) })
    })
}

fn unescape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    let mut chars = key.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('\\', Some(next @ ('.' | '\\'))) => {
                out.push(*next);
                chars.next();
            }
            _ => out.push(char),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{testing::Graph, version::by_name};

    fn user() -> &'static UserId {
        "@bob:b".try_into().unwrap()
    }

    fn run(rules: &Ruleset, line: &str, member_count: u64) -> String {
        let graph = Graph::chain("11", &format!("pl @ann power_levels ann=100\n{line}"));
        let levels = PowerLevels::new(by_name("11").unwrap(), None, Some(&graph.event("pl")));
        let event = graph.event(graph.last());
        let context =
            Context { user: user(), display_name: Some("Bobby T"), member_count, power_levels: Some(&levels) };
        let subject = Subject::new(&event);
        let actions = evaluate(rules, &subject, &context);
        let mut out = Vec::new();
        if actions.notify() {
            out.push("notify".to_owned());
        }
        if actions.highlight() {
            out.push("highlight".to_owned());
        }
        out.extend(actions.sound().map(|sound| serde_json::to_string(sound).unwrap().replace('"', "")));
        out.join(" ")
    }

    fn by_default(line: &str, member_count: u64) -> String {
        run(&default_rules(user()), line, member_count)
    }

    /// Evaluates the user's own rules only.
    fn with(rules: &str, line: &str) -> String {
        run(&serde_json::from_str(rules).unwrap(), line, 5)
    }

    #[test]
    fn messages_notify_and_in_rooms_of_two_they_sound() {
        assert_eq!(by_default("x @ann message hello", 5), "notify");
        assert_eq!(by_default("x @ann message hello", 2), "notify default");
        assert_eq!(by_default("x @ann m.room.encrypted", 5), "notify");
        assert_eq!(by_default("x @ann m.room.encrypted", 2), "notify default");
        assert_eq!(by_default("x @ann m.call.invite", 2), "notify ring");
        assert_eq!(by_default("x @bob:b message hello", 2), "");
    }

    #[test]
    fn mentions_are_highlighted() {
        let mention = r#"{"body":"hi","m.mentions":{"user_ids":["@cat:a","@bob:b"]}}"#;
        assert_eq!(by_default(&format!("x @ann message {mention}"), 5), "notify highlight default");
        assert_eq!(by_default(r#"x @ann message {"body":"@bob:b","m.mentions":{"user_ids":["@cat:a"]}}"#, 5), "notify");
        let room = r#"message {"body":"all","m.mentions":{"room":true}}"#;
        assert_eq!(by_default(&format!("x @ann {room}"), 5), "notify highlight");
        assert_eq!(by_default(&format!("x @eve {room}"), 5), "notify");
    }

    #[test]
    fn what_is_quiet_stays_quiet() {
        assert_eq!(by_default(r#"x @ann message {"body":"x","msgtype":"m.notice"}"#, 2), "");
        assert_eq!(by_default(r#"x @ann message {"body":"x","m.relates_to":{"rel_type":"m.replace"}}"#, 2), "");
        assert_eq!(by_default("x @ann m.reaction", 2), "");
        assert_eq!(by_default("x @ann server_acl", 2), "");
        assert_eq!(by_default("x @ann topic tea", 2), "");
        assert_eq!(by_default("x @ann member cat join", 2), "");
    }

    #[test]
    fn an_invitation_for_me_and_a_tombstone_are_told() {
        assert_eq!(by_default("x @ann member bob:b invite", 2), "notify default");
        assert_eq!(by_default("x @ann member cat invite", 2), "");
        assert_eq!(by_default("x @ann tombstone moved", 5), "notify highlight");
        assert_eq!(by_default("x @ann m.room.tombstone", 5), "");
    }

    #[test]
    fn the_master_rule_silences_everything() {
        let mut rules = default_rules(user());
        rules.set_enabled(ruma::push::RuleKind::Override, ".m.rule.master", true).unwrap();
        assert_eq!(run(&rules, "x @ann message hello", 2), "");
    }

    #[test]
    fn kinds_have_an_order() {
        let rule = |kind: &str, rule: &str, sound: &str| {
            format!(
                r#""{kind}":[{{"default":false,"enabled":true,{rule},"actions":["notify",{{"set_tweak":"sound","value":"{sound}"}}]}}]"#
            )
        };
        let kinds = [
            rule(
                "override",
                r#""rule_id":"o","conditions":[{"kind":"event_match","key":"content.x","pattern":"y*"}]"#,
                "1",
            ),
            rule("content", r#""rule_id":"c","pattern":"cake""#, "2"),
            rule("room", r#""rule_id":"!room:a""#, "3"),
            rule("sender", r#""rule_id":"@ann:a""#, "4"),
            rule("underride", r#""rule_id":"u","conditions":[]"#, "5"),
        ];
        let event = r#"x @ann message {"body":"a Cake","x":"yes"}"#;
        for (index, sound) in ["1", "2", "3", "4", "5"].iter().enumerate() {
            let rules = format!("{{{}}}", kinds[index..].join(","));
            assert_eq!(with(&rules, event), format!("notify {sound}"));
        }
    }

    #[test]
    fn each_condition_looks_where_it_says() {
        let check = |condition: &str, content: &str, expected: bool| {
            let rules = format!(
                r#"{{"override":[{{"rule_id":"o","default":false,"enabled":true,"actions":["notify"],"conditions":[{condition}]}}]}}"#
            );
            let found = with(&rules, &format!("x @ann message {content}"));
            assert_eq!(found == "notify", expected, "{condition} on {content}");
        };
        let matches = r#"{"kind":"event_match","key":"content.a.b\\.c","pattern":"X?z"}"#;
        check(matches, r#"{"a":{"b.c":"xyz"}}"#, true);
        check(matches, r#"{"a":{"b":{"c":"xyz"}}}"#, false);
        check(matches, r#"{"a":{"b.c":5}}"#, false);
        check(r#"{"kind":"event_match","key":"content.a","pattern":"*"}"#, "{}", false);
        check(r#"{"kind":"event_match","key":"content.a","pattern":"*"}"#, r#"{"a":""}"#, true);
        check(r#"{"kind":"event_match","key":"content.a\\\\b","pattern":"x"}"#, r#"{"a\\b":"x"}"#, true);
        check(r#"{"kind":"event_match","key":"state_key","pattern":"*"}"#, "{}", false);
        check(r#"{"kind":"event_match","key":"sender","pattern":"@ANN:*"}"#, "{}", true);
        check(r#"{"kind":"event_match","key":"content.body","pattern":"tea"}"#, r#"{"body":"Tea, please"}"#, true);
        check(r#"{"kind":"event_match","key":"content.body","pattern":"tea"}"#, r#"{"body":"steam"}"#, false);
        check(r#"{"kind":"event_property_is","key":"content.a","value":null}"#, r#"{"a":null}"#, true);
        check(r#"{"kind":"event_property_is","key":"content.a","value":null}"#, "{}", false);
        check(r#"{"kind":"event_property_is","key":"content.a","value":1}"#, r#"{"a":1}"#, true);
        check(r#"{"kind":"event_property_is","key":"content.a","value":true}"#, r#"{"a":"true"}"#, false);
        check(r#"{"kind":"event_property_is","key":"type","value":"m.room.message"}"#, "{}", true);
        check(r#"{"kind":"event_property_contains","key":"content.a","value":"x"}"#, r#"{"a":[1,"x"]}"#, true);
        check(r#"{"kind":"event_property_contains","key":"content.a","value":"x"}"#, r#"{"a":"x"}"#, false);
        check(r#"{"kind":"room_member_count","is":">4"}"#, "{}", true);
        check(r#"{"kind":"room_member_count","is":"<5"}"#, "{}", false);
        check(r#"{"kind":"room_member_count","is":"5"}"#, "{}", true);
        check(r#"{"kind":"contains_display_name"}"#, r#"{"body":"hey BOBBY t!"}"#, true);
        check(r#"{"kind":"contains_display_name"}"#, r#"{"body":"hey Bobby"}"#, false);
        check(r#"{"kind":"org.example.unknown"}"#, "{}", false);
        check(r#"{"kind":"sender_notification_permission","key":"room"}"#, "{}", true);
        check(r#"{"kind":"sender_notification_permission","key":"other"}"#, "{}", true);
    }

    #[test]
    fn the_default_rules_are_those_of_the_specification() {
        let rules = serde_json::to_value(default_rules(user())).unwrap();
        let summary = |kind: &str| {
            let rules = rules[kind].as_array().unwrap().iter();
            rules
                .map(|rule| {
                    let conditions: Vec<_> = rule["conditions"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|c| {
                            let get = |key: &str| c[key].as_str().unwrap_or_default().to_owned();
                            let value = if c["value"].is_null() { String::new() } else { c["value"].to_string() };
                            [get("kind"), get("key"), get("pattern"), get("is"), value]
                                .join(" ")
                                .split_whitespace()
                                .collect::<Vec<_>>()
                                .join(" ")
                        })
                        .collect();
                    let (id, enabled) = (rule["rule_id"].as_str().unwrap(), rule["enabled"].as_bool().unwrap());
                    assert_eq!(rule["default"], true);
                    format!(
                        "{id}{}: {} -> {}\n",
                        if enabled { "" } else { " (off)" },
                        conditions.join(", "),
                        rule["actions"]
                    )
                })
                .collect::<String>()
        };
        expect_test::expect![[r#"
            .m.rule.master (off):  -> []
            .m.rule.suppress_notices: event_match content.msgtype m.notice -> []
            .m.rule.invite_for_me: event_match type m.room.member, event_match content.membership invite, event_match state_key @bob:b -> ["notify",{"set_tweak":"sound","value":"default"}]
            .m.rule.member_event: event_match type m.room.member -> []
            .m.rule.is_user_mention: event_property_contains content.m\.mentions.user_ids "@bob:b" -> ["notify",{"set_tweak":"sound","value":"default"},{"set_tweak":"highlight"}]
            .m.rule.is_room_mention: event_property_is content.m\.mentions.room true, sender_notification_permission room -> ["notify",{"set_tweak":"highlight"}]
            .m.rule.tombstone: event_match type m.room.tombstone, event_match state_key -> ["notify",{"set_tweak":"highlight"}]
            .m.rule.reaction: event_match type m.reaction -> []
            .m.rule.room.server_acl: event_match type m.room.server_acl, event_match state_key -> []
            .m.rule.suppress_edits: event_property_is content.m\.relates_to.rel_type "m.replace" -> []
        "#]]
        .assert_eq(&summary("override"));
        expect_test::expect![[r#"
            .m.rule.call: event_match type m.call.invite -> ["notify",{"set_tweak":"sound","value":"ring"}]
            .m.rule.encrypted_room_one_to_one: room_member_count 2, event_match type m.room.encrypted -> ["notify",{"set_tweak":"sound","value":"default"}]
            .m.rule.room_one_to_one: room_member_count 2, event_match type m.room.message -> ["notify",{"set_tweak":"sound","value":"default"}]
            .m.rule.message: event_match type m.room.message -> ["notify"]
            .m.rule.encrypted: event_match type m.room.encrypted -> ["notify"]
        "#]]
        .assert_eq(&summary("underride"));
        assert_eq!(rules.as_object().unwrap().len(), 2);
    }
}
