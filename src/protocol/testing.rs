//! Rooms written as text, for tests.
//!
//! One event per line: a name (its ID is `$name`), the sender, the type without `m.room.`, the state key
//! where the type needs one, the content in short form or as JSON, and after `<-` the previous events
//! (left out: the line before). Users are of the server `a` unless they name another.
//!
//! ```text
//! create  @ann      create
//! join    @ann      member ann   join
//! pl      @ann      power_levels ann=100 bob:b=50 events.m.room.topic=10
//! topic   @bob:b    topic        tea              <- pl
//! ```
//!
//! Depth and time follow from the place in the text; auth events are selected as the rules say.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    auth::auth_types,
    canonical::{Numbers, Object, Value, parse_object, write_object},
    compose::Draft,
    event::Event,
    version::{Rules, by_name},
};

/// Names of state events by type and state key.
pub type State = BTreeMap<(String, String), String>;

/// A room from text.
pub struct Graph {
    pub rules: &'static Rules,
    pub events: HashMap<String, Arc<Event>>,
    /// Names in the order of the text.
    pub order: Vec<String>,
    /// The state after each event.
    pub after: HashMap<String, State>,
    /// The state before each event.
    pub before: HashMap<String, State>,
}

impl Graph {
    /// Reads the text; where an event has several previous ones, `merge` resolves their states.
    pub fn parse(version: &str, text: &str, merge: &dyn Fn(&Graph, &[State]) -> State) -> Self {
        let rules = by_name(version).unwrap();
        let mut graph =
            Self { rules, events: HashMap::new(), order: Vec::new(), after: HashMap::new(), before: HashMap::new() };
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            graph.line(line, merge);
        }
        graph
    }

    /// A room without forks.
    pub fn chain(version: &str, text: &str) -> Self {
        Self::parse(version, text, &|_, _| panic!("this room does not fork"))
    }

    pub fn event(&self, name: &str) -> Arc<Event> {
        self.events[name].clone()
    }

    /// The last event of the text.
    pub fn last(&self) -> &str {
        self.order.last().unwrap()
    }

    /// Looks into a state as the rules do: in version 12 the create event is always found.
    pub fn find(&self, state: &State, kind: &str, state_key: &str) -> Option<Arc<Event>> {
        let name = state.get(&(kind.to_owned(), state_key.to_owned()));
        name.map(|name| self.event(name))
    }

    fn line(&mut self, line: &str, merge: &dyn Fn(&Graph, &[State]) -> State) {
        let (line, prev) = match line.split_once("<-") {
            Some((line, prev)) => (line, prev.split_whitespace().map(str::to_owned).collect()),
            None => (line, self.order.last().cloned().into_iter().collect::<Vec<_>>()),
        };
        let mut words = line.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let sender = user(words.next().unwrap());
        let kind = words.next().unwrap();
        let rest: Vec<&str> = words.collect();
        let (state_key, content) = content(kind, &sender, &rest, self.rules);

        let mut states: Vec<State> = prev.iter().map(|prev| self.after[prev].clone()).collect();
        let before = match states.len() {
            0 => State::new(),
            1 => states.remove(0),
            _ => merge(self, &states),
        };
        let kind = if kind.contains('.') { kind.to_owned() } else { format!("m.room.{kind}") };
        let mut draft = Draft::new(kind, sender.as_str().try_into().unwrap(), content);
        let types = auth_types(&draft.kind, &draft.sender, state_key.as_deref(), &draft.content, self.rules);
        let auth = types.into_iter().filter_map(|(kind, key)| before.get(&(kind.to_owned(), key)));
        draft.auth_events = auth.map(|name| id(name)).collect();
        draft.prev_events = prev.iter().map(|name| id(name)).collect();
        draft.depth = prev.iter().map(|prev| self.events[prev].depth + 1).max().unwrap_or(1);
        draft.origin_server_ts = self.order.len() as u64;
        draft.state_key = state_key;
        let room_id = if self.rules.room_id_is_hash {
            let create = self.order.first().unwrap_or(&name);
            format!("!{create}")
        } else {
            "!room:a".to_owned()
        };
        if !self.rules.room_id_is_hash || draft.kind != "m.room.create" {
            draft.room_id = Some(room_id.as_str().try_into().unwrap());
        }
        if !self.rules.plain_references() {
            draft.event_id = Some(id(&name));
        }
        if draft.kind == "m.room.redaction"
            && let Some(Value::String(target)) = draft.content.remove("redacts")
        {
            draft.redacts = Some(id(&target));
        }
        let json = write_object(&draft.into_pdu(self.rules));
        let event = Event::from_stored(id(&name), room_id.try_into().unwrap(), json.into()).unwrap();

        let mut after = before.clone();
        if let Some((kind, key)) = event.key() {
            after.insert((kind.to_owned(), key.to_owned()), name.clone());
        }
        self.before.insert(name.clone(), before);
        self.after.insert(name.clone(), after);
        self.events.insert(name.clone(), Arc::new(event));
        self.order.push(name);
    }
}

/// The ID of the event with this name.
pub fn id(name: &str) -> ruma::OwnedEventId {
    format!("${name}").try_into().unwrap()
}

/// The user ID of a short name: `ann`, `@ann` and `@ann:a` are the same.
pub fn user(name: &str) -> String {
    let name = name.trim_start_matches('@');
    if name.contains(':') { format!("@{name}") } else { format!("@{name}:a") }
}

fn content(kind: &str, sender: &str, words: &[&str], rules: &Rules) -> (Option<String>, Object) {
    let empty = Some(String::new());
    if kind == "member" {
        let target = user(words[0]);
        let membership = words[1];
        if membership.starts_with('{') {
            return (Some(target), json(&words[1..]));
        }
        let mut content = pairs(&words[2..]);
        content.insert("membership".to_owned(), membership.into());
        return (Some(target), content);
    }
    let is_json = words.first().is_some_and(|word| word.starts_with('{'));
    let one = |key: &str| {
        if is_json { json(words) } else { Object::from([(key.to_owned(), words.join(" ").into())]) }
    };
    match kind {
        "create" if is_json => (empty, json(words)),
        "create" => {
            let mut content = pairs(words);
            if !rules.creator_is_sender {
                content.insert("creator".to_owned(), sender.into());
            }
            content.insert("room_version".to_owned(), rules.name().into());
            (empty, content)
        }
        "power_levels" if is_json => (empty, json(words)),
        "power_levels" => (empty, levels(words)),
        "join_rules" => (empty, one("join_rule")),
        "history_visibility" => (empty, one("history_visibility")),
        "message" => (None, one("body")),
        "redaction" => (None, one("redacts")),
        "third_party_invite" => (Some(words[0].to_owned()), json(&words[1..])),
        "aliases" => (words.first().map(|server| server.to_string()), Object::new()),
        // Any other type: `type/key`, or no slash for a message event.
        _ if kind.contains('.') => {
            let key = words.first().and_then(|word| word.strip_prefix('/')).map(str::to_owned);
            (key, Object::new())
        }
        _ => (empty, one(kind)),
    }
}

fn json(words: &[&str]) -> Object {
    parse_object(words.join(" ").as_bytes(), Numbers::Lax).unwrap()
}

fn pairs(words: &[&str]) -> Object {
    let pair = |word: &&str| {
        let (key, value) = word.split_once('=').unwrap();
        let value = match value {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ if value.starts_with('@') => user(value).into(),
            _ => value.into(),
        };
        (key.to_owned(), value)
    };
    words.iter().map(pair).collect()
}

fn levels(words: &[&str]) -> Object {
    const NAMED: [&str; 7] = ["ban", "kick", "invite", "redact", "users_default", "events_default", "state_default"];
    let mut content = Object::new();
    for word in words {
        let (key, level) = word.split_once('=').unwrap();
        let level = Value::Int(level.parse().unwrap());
        let (map, key) = match key {
            _ if NAMED.contains(&key) => {
                content.insert(key.to_owned(), level);
                continue;
            }
            _ if key.starts_with("events.") => ("events", key["events.".len()..].to_owned()),
            _ if key.starts_with("notifications.") => ("notifications", key["notifications.".len()..].to_owned()),
            _ => ("users", user(key)),
        };
        let entry = content.entry(map.to_owned()).or_insert_with(|| Value::Object(Object::new()));
        if let Value::Object(entries) = entry {
            entries.insert(key, level);
        }
    }
    content
}
