//! What a client asks of sliding sync, in either of its shapes.
//!
//! Clients of today send the first shape, in which required state is a list of pairs with signs such as
//! `$LAZY`; the accepted proposal has another. Both become a [`Request`].
//!
//! Spec: MSC4186

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};

/// How many lists a request may have.
const MOST_LISTS: usize = 100;
/// How many rooms a request may subscribe to.
const MOST_SUBSCRIPTIONS: usize = 100;
/// The same in the unstable shape, for which no limit was ever written down.
const MOST_SUBSCRIPTIONS_BEFORE: usize = 1_000;
/// How many ranges a list may have.
const MOST_RANGES: usize = 20;
/// How many bytes the choices of state of one request may have: they are remembered with the connection.
const MOST_CHOICES: usize = 64 << 10;
/// How many events of a room are told at most.
const MOST_EVENTS: usize = 100;
/// How long the name of a connection may be.
const LONGEST_NAME: usize = 255;

/// In which shape the client asks, and wants the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The one that deployed clients use.
    Unstable,
    /// The one that was accepted.
    V4,
}

/// What is asked.
#[derive(Debug)]
pub struct Request {
    /// Which shape.
    pub shape: Shape,
    /// What the client has.
    pub pos: Option<String>,
    /// Which of its connections this is.
    pub connection: String,
    /// Repeated in the answer.
    pub transaction: Option<String>,
    /// How long to wait for news.
    pub timeout: Duration,
    /// The lists, by name.
    pub lists: BTreeMap<String, List>,
    /// What is wanted of rooms, by ID.
    pub subscriptions: BTreeMap<String, Config>,
    /// What is wanted besides rooms.
    pub extensions: Extensions,
    /// What the device claims of its user's presence, where that stands in the body.
    pub set_presence: Option<String>,
    /// Requests that differ in more than their `pos` have different numbers.
    pub fingerprint: u64,
}

/// Part of the user's rooms, the one with the newest activity first.
#[derive(Debug)]
pub struct List {
    /// Which places of the list are wanted, both ends included.
    pub ranges: Vec<(u64, u64)>,
    /// What is wanted of the rooms.
    pub config: Config,
    /// Which rooms are in the list.
    pub filters: Filters,
}

/// What is wanted of a room.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Config {
    /// How many events of the timeline.
    pub limit: usize,
    /// Which state: whatever one of these wants.
    pub required: Vec<Required>,
}

/// A choice of state.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct Required {
    /// What is wanted.
    pub include: Vec<Element>,
    /// What is not wanted all the same.
    pub exclude: Vec<Element>,
    /// Whether the members who occur in the timeline are wanted.
    #[serde(rename = "lazy_members")]
    pub lazy: bool,
}

/// State events of a type, a state key, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct Element {
    /// The type; any if it is missing.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The state key; any if it is missing.
    pub state_key: Option<String>,
}

/// Which rooms are in a list. All that is said must hold.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Filters {
    pub is_dm: Option<bool>,
    pub is_encrypted: Option<bool>,
    #[serde(alias = "is_invite")]
    pub is_invited: Option<bool>,
    pub room_types: Option<Vec<Option<String>>>,
    pub not_room_types: Option<Vec<Option<String>>>,
    pub spaces: Option<Vec<String>>,
    pub tags: Option<Vec<String>>,
    pub not_tags: Option<Vec<String>>,
}

/// What is wanted besides rooms.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Extensions {
    pub to_device: ToDevice,
    pub e2ee: Enabled,
    pub account_data: InRooms,
    pub receipts: InRooms,
    pub typing: InRooms,
}

/// Messages for the device.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct ToDevice {
    pub enabled: Option<bool>,
    pub limit: Option<u64>,
    #[serde(skip_serializing)]
    pub since: Option<String>,
}

/// Something that is wanted or not.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct Enabled {
    pub enabled: Option<bool>,
}

/// Something that is wanted, or not, in some rooms.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub struct InRooms {
    pub enabled: Option<bool>,
    /// In the rooms of these lists; of all if nothing is said.
    pub lists: Option<Vec<String>>,
    /// In these rooms to which the request subscribes; in all if nothing is said, or `*`.
    pub rooms: Option<Vec<String>>,
}

/// The body in the unstable shape.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Unstable {
    conn_id: Option<String>,
    txn_id: Option<String>,
    lists: BTreeMap<String, UnstableList>,
    room_subscriptions: BTreeMap<String, UnstableConfig>,
    extensions: Extensions,
}

#[derive(Deserialize)]
struct UnstableList {
    #[serde(default)]
    ranges: Vec<(u64, u64)>,
    #[serde(default)]
    required_state: Vec<(String, String)>,
    #[serde(default)]
    timeline_limit: u64,
    #[serde(default, deserialize_with = "or_default")]
    filters: Filters,
}

#[derive(Deserialize)]
struct UnstableConfig {
    #[serde(default)]
    required_state: Vec<(String, String)>,
    #[serde(default)]
    timeline_limit: u64,
}

/// The body in the accepted shape.
#[derive(Default, Deserialize)]
#[serde(default)]
struct V4 {
    conn_id: Option<String>,
    txn_id: Option<String>,
    pos: Option<String>,
    timeout: u64,
    lists: BTreeMap<String, V4List>,
    room_subscriptions: BTreeMap<String, V4Config>,
    extensions: Extensions,
    set_presence: Option<String>,
}

#[derive(Deserialize)]
struct V4List {
    range: Option<(u64, u64)>,
    required_state: Required,
    timeline_limit: u64,
    #[serde(default, deserialize_with = "or_default")]
    filters: Filters,
}

#[derive(Deserialize)]
struct V4Config {
    required_state: Required,
    timeline_limit: u64,
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(value: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(value)?.unwrap_or_default())
}

impl Request {
    /// Reads a body in the unstable shape; `pos` and `timeout` stand in the query.
    pub fn unstable(body: &[u8], pos: Option<String>, timeout: u64) -> Result<Self> {
        let body: Unstable = read(body)?;
        let lists = body.lists.into_iter().map(|(name, list)| {
            let config = Config::from_pairs(list.timeline_limit, list.required_state);
            (name, List { ranges: list.ranges, config, filters: list.filters })
        });
        let subscriptions = body
            .room_subscriptions
            .into_iter()
            .map(|(room, config)| (room, Config::from_pairs(config.timeline_limit, config.required_state)));
        let request = Self {
            shape: Shape::Unstable,
            pos,
            connection: body.conn_id.unwrap_or_default(),
            transaction: body.txn_id,
            timeout: Duration::from_millis(timeout),
            lists: lists.collect(),
            subscriptions: subscriptions.collect(),
            extensions: body.extensions,
            set_presence: None,
            fingerprint: 0,
        };
        request.checked()
    }

    /// Reads a body in the accepted shape.
    pub fn v4(body: &[u8]) -> Result<Self> {
        let body: V4 = read(body)?;
        let lists = body.lists.into_iter().map(|(name, list)| {
            let config = Config::new(list.timeline_limit, list.required_state);
            let ranges = vec![list.range.unwrap_or((0, u64::MAX))];
            (name, List { ranges, config, filters: list.filters })
        });
        let subscriptions = body
            .room_subscriptions
            .into_iter()
            .map(|(room, config)| (room, Config::new(config.timeline_limit, config.required_state)));
        let request = Self {
            shape: Shape::V4,
            pos: body.pos,
            connection: body.conn_id.unwrap_or_default(),
            transaction: body.txn_id,
            timeout: Duration::from_millis(body.timeout),
            lists: lists.collect(),
            subscriptions: subscriptions.collect(),
            extensions: body.extensions,
            set_presence: body.set_presence,
            fingerprint: 0,
        };
        request.checked()
    }

    fn checked(mut self) -> Result<Self> {
        if self.lists.len() > MOST_LISTS {
            return Err(Error::invalid_param(format!("a request may have at most {MOST_LISTS} lists")));
        }
        let subscriptions = match self.shape {
            Shape::V4 => MOST_SUBSCRIPTIONS,
            Shape::Unstable => MOST_SUBSCRIPTIONS_BEFORE,
        };
        if self.subscriptions.len() > subscriptions {
            return Err(Error::invalid_param(format!("a request may name at most {subscriptions} rooms")));
        }
        if self.lists.values().any(|list| list.ranges.len() > MOST_RANGES) {
            return Err(Error::invalid_param(format!("a list may have at most {MOST_RANGES} ranges")));
        }
        let configs = self.lists.values().map(|list| &list.config).chain(self.subscriptions.values());
        let mut configs: Vec<_> = configs.collect();
        configs.sort_unstable();
        configs.dedup();
        if configs.iter().map(|config| config.size()).sum::<usize>() > MOST_CHOICES {
            return Err(Error::invalid_param("required_state is too long; use * for what is common"));
        }
        if self.connection.len() > LONGEST_NAME {
            return Err(Error::invalid_param(format!("conn_id may have at most {LONGEST_NAME} bytes")));
        }
        let filters: Vec<_> = self.lists.values().map(|list| &list.filters).collect();
        let whole = format!(
            "{:?} {:?} {:?} {:?}",
            self.lists.iter().map(|(name, list)| (name, &list.ranges, &list.config)).collect::<Vec<_>>(),
            serde_json::to_string(&filters).map_err(Error::internal)?,
            self.subscriptions,
            serde_json::to_string(&self.extensions).map_err(Error::internal)?,
        );
        self.fingerprint = xxh3_64(whole.as_bytes());
        Ok(self)
    }
}

fn read<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| Error::bad_json(format!("the JSON of this request is not of the right shape: {error}")))
}

impl Config {
    fn new(limit: u64, required: Required) -> Self {
        Self { limit: usize::try_from(limit).unwrap_or(MOST_EVENTS).min(MOST_EVENTS), required: vec![required] }
    }

    /// From pairs of type and state key: `*` is any, `$LAZY` makes members lazy.
    fn from_pairs(limit: u64, pairs: Vec<(String, String)>) -> Self {
        let any = |text: String| Some(text).filter(|text| text != "*");
        let mut required = Required::default();
        for (kind, state_key) in pairs {
            match state_key == "$LAZY" {
                true => required.lazy = true,
                false => required.include.push(Element { kind: any(kind), state_key: any(state_key) }),
            }
        }
        Self::new(limit, required)
    }

    /// What somebody wants who wants both.
    pub fn union(mut self, other: &Self) -> Self {
        self.limit = self.limit.max(other.limit);
        for required in &other.required {
            if !self.required.contains(required) {
                self.required.push(required.clone());
            }
        }
        self
    }

    /// About how much memory it takes.
    fn size(&self) -> usize {
        let elements = self.required.iter().flat_map(|required| required.include.iter().chain(&required.exclude));
        let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        elements.map(|element| 16 + text(&element.kind) + text(&element.state_key)).sum()
    }

    /// Whether members come with what they say.
    pub fn lazy(&self) -> bool {
        self.required.iter().any(|required| required.lazy)
    }

    /// Whether a state event is wanted, whoever occurs in the timeline. `me` is who asks.
    pub fn wants(&self, kind: &str, state_key: &str, me: &str) -> bool {
        self.required.iter().any(|required| required.wants(kind, state_key, me))
    }
}

impl Required {
    fn wants(&self, kind: &str, state_key: &str, me: &str) -> bool {
        let member = kind == "m.room.member";
        let fits = |element: &&Element| {
            // Where members are lazy, "everything" does not mean all of them.
            let named = !(self.lazy && member) || element.kind.is_some() || element.state_key.is_some();
            named && element.fits(kind, state_key, me)
        };
        self.include.iter().any(|element| fits(&element))
            && !self.exclude.iter().any(|element| element.fits(kind, state_key, me))
    }
}

impl Element {
    fn fits(&self, kind: &str, state_key: &str, me: &str) -> bool {
        let key = self.state_key.as_deref().map(|key| if key == "$ME" { me } else { key });
        self.kind.as_deref().is_none_or(|wanted| wanted == kind) && key.is_none_or(|wanted| wanted == state_key)
    }
}

impl InRooms {
    /// Whether it is wanted at all.
    pub fn enabled(&self) -> bool {
        self.enabled == Some(true)
    }

    /// Whether it is wanted in a room that is in these lists, or to which the request subscribes.
    pub fn covers(&self, room: &str, lists: &[&str], subscribed: bool) -> bool {
        let by_list = match &self.lists {
            None => !lists.is_empty(),
            Some(wanted) => {
                wanted.iter().any(|wanted| wanted == "*" && !lists.is_empty() || lists.contains(&wanted.as_str()))
            }
        };
        let by_room = subscribed
            && self.rooms.as_ref().is_none_or(|wanted| wanted.iter().any(|wanted| wanted == "*" || wanted == room));
        by_list || by_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: &str = "@ann:a";

    fn pairs(pairs: &[(&str, &str)]) -> Config {
        Config::from_pairs(1, pairs.iter().map(|(kind, key)| ((*kind).to_owned(), (*key).to_owned())).collect())
    }

    #[test]
    fn signs_in_required_state_mean_what_they_say() {
        let config = pairs(&[("m.room.name", ""), ("m.room.member", "$ME"), ("m.space.child", "*"), ("*", "x")]);
        for (kind, key, expected) in [
            ("m.room.name", "", true),
            ("m.room.topic", "", false),
            ("m.room.member", ME, true),
            ("m.room.member", "@bob:b", false),
            ("m.space.child", "!room:a", true),
            ("anything", "x", true),
        ] {
            assert_eq!(config.wants(kind, key, ME), expected, "{kind} {key}");
        }
        assert!(!config.lazy());
    }

    #[test]
    fn everything_with_lazy_members_leaves_members_out() {
        let config = pairs(&[("*", "*"), ("m.room.member", "$LAZY")]);
        assert!(config.lazy() && config.wants("m.room.topic", "", ME));
        assert!(!config.wants("m.room.member", "@bob:b", ME));
    }

    #[test]
    fn what_one_excludes_another_may_include() {
        let all: Required = serde_json::from_str(r#"{"include":[{}],"exclude":[{"type":"m.room.create"}]}"#).unwrap();
        let config = Config::new(5, all);
        assert!(config.wants("m.room.name", "", ME) && !config.wants("m.room.create", "", ME));
        let both = config.union(&pairs(&[("m.room.create", "")]));
        assert!(both.wants("m.room.create", "", ME));
        assert_eq!(both.limit, 5);
    }

    #[test]
    fn a_request_is_the_same_whatever_its_pos() {
        let body = br#"{"lists":{"all":{"ranges":[[0,19]],"timeline_limit":1}},"extensions":{"to_device":{"enabled":true,"since":"1"}}}"#;
        let one = Request::unstable(body, Some("a".to_owned()), 0).unwrap();
        let two =
            Request::unstable(&String::from_utf8_lossy(body).replace("\"1\"", "\"2\"").into_bytes(), None, 9).unwrap();
        assert_eq!(one.fingerprint, two.fingerprint);
        let wider =
            Request::unstable(&String::from_utf8_lossy(body).replace("19", "99").into_bytes(), None, 0).unwrap();
        assert_ne!(one.fingerprint, wider.fingerprint);
        assert_eq!(Request::v4(b"{\"lists\":1}").unwrap_err().errcode, "M_BAD_JSON");
    }
}
