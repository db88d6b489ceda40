//! Canonical JSON: the one way to write a value, so that every server hashes and signs the same bytes.
//!
//! [`parse()`] reads JSON from outside into a [`Value`], within bounds (depth, number size); [`write()`]
//! gives the canonical text. [`to_value`] and [`from_value`] convert Rust types that have serde.
//! If an object names a key twice, the last one counts, as it does in Python and in serde_json: what
//! is hashed, signed and stored is written anew from the parsed value, so no two readers can differ.
//!
//! This is not a general JSON library: what only passes through (a request, an event's content on
//! its way to a client) is never turned into a [`Value`].
//!
//! Spec: appendices#canonical-json

mod bridge;
mod parse;
mod write;

use std::{collections::BTreeMap, fmt};

use serde::{Serialize, de::DeserializeOwned};

pub use self::parse::parse;
use self::write::write_members;
pub use self::write::write_string;
pub(super) use self::write::{write_number, write_value};

/// A JSON value that can be written canonically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    Bool(bool),
    /// Under [`Numbers::Strict`] always within ±(2^53 − 1).
    Int(i64),
    /// A number that is no `i64`, as Python writes it. Only from [`Numbers::Lax`].
    Lexeme(Box<str>),
    String(String),
    Array(Vec<Value>),
    Object(Object),
}

/// A JSON object. The order of its keys, by bytes of UTF-8, is the order that canonical JSON asks for.
pub type Object = BTreeMap<String, Value>;

/// How numbers are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Numbers {
    /// Integers within ±(2^53 − 1) and no `-0`, as the text demands. Spec: rooms/v6#canonical-json
    Strict,
    /// Anything that Python reads, written as Python would write it: rooms of versions 1 to 5 hold
    /// floats and big integers whose hashes were computed so. Spec: rooms/v1#canonical-json
    Lax,
}

/// The largest integer that canonical JSON may hold, 2^53 − 1.
pub const MAX_INT: i64 = (1 << 53) - 1;

/// How deep arrays and objects may nest. serde_json, which reads the same texts later, stops at 128.
pub const MAX_DEPTH: usize = 100;

/// Why a text is no JSON that can be written canonically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// The text is no JSON at all.
    Syntax { at: usize, expected: &'static str },
    /// A string is no UTF-8, or escapes half of a surrogate pair.
    NotUnicode { at: usize },
    /// The value nests deeper than [`MAX_DEPTH`].
    TooDeep,
    /// A number that canonical JSON cannot hold.
    Number(String),
    /// The value is JSON, but no object.
    NotAnObject,
    /// A Rust value does not fit into JSON, or JSON not into the Rust type.
    Shape(String),
}

impl fmt::Display for JsonError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax { at, expected } => {
                write!(f, "this is not JSON: expected {expected} at byte {at}")
            }
            Self::NotUnicode { at } => write!(f, "the string at byte {at} is not valid Unicode"),
            Self::TooDeep => write!(f, "the JSON nests deeper than {MAX_DEPTH} levels"),
            Self::Number(number) => write!(
                f,
                "the number {number} is not allowed: numbers must be integers between -{MAX_INT} and {MAX_INT}"
            ),
            Self::NotAnObject => write!(f, "a JSON object is needed here"),
            Self::Shape(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for JsonError {}

/// Reads one JSON object.
pub fn parse_object(text: &[u8], numbers: Numbers) -> Result<Object, JsonError> {
    match parse(text, numbers)? {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError::NotAnObject),
    }
}

/// Writes a value canonically: sorted keys, no white space, no needless escapes.
pub fn write(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

/// Writes an object canonically.
pub fn write_object(object: &Object) -> String {
    write_without(object, &[])
}

/// Writes an object canonically as if it did not have these keys.
pub fn write_without(object: &Object, left_out: &[&str]) -> String {
    let mut out = String::with_capacity(512);
    write_members(&mut out, object.iter().filter(|(key, _)| !left_out.contains(&key.as_str())));
    out
}

/// Turns what serde can write into a value. Numbers are held to [`Numbers::Strict`].
pub fn to_value<T: Serialize + ?Sized>(value: &T) -> Result<Value, JsonError> {
    let text = serde_json::to_vec(value).map_err(|error| JsonError::Shape(error.to_string()))?;
    parse(&text, Numbers::Strict)
}

/// Turns what serde writes as an object into an object, such as the content types of ruma.
pub fn to_object<T: Serialize + ?Sized>(value: &T) -> Result<Object, JsonError> {
    match to_value(value)? {
        Value::Object(object) => Ok(object),
        _ => Err(JsonError::NotAnObject),
    }
}

/// Reads a type that serde knows from a value.
pub fn from_value<T: DeserializeOwned>(value: &Value) -> Result<T, JsonError> {
    serde_json::from_str(&write(value)).map_err(|error| JsonError::Shape(error.to_string()))
}

impl Value {
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(int) => Some(*int),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            _ => None,
        }
    }

    /// The member of an object, if this is one and has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_object()?.get(key)
    }

    /// Whether every number in it is allowed by [`Numbers::Strict`].
    pub fn is_strict(&self) -> bool {
        match self {
            Self::Lexeme(_) => false,
            Self::Int(int) => (-MAX_INT..=MAX_INT).contains(int),
            Self::Array(items) => items.iter().all(Self::is_strict),
            Self::Object(object) => object.values().all(Self::is_strict),
            Self::Null | Self::Bool(_) | Self::String(_) => true,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::String(text)
    }
}

impl From<bool> for Value {
    fn from(bool: bool) -> Self {
        Self::Bool(bool)
    }
}

impl From<i64> for Value {
    fn from(int: i64) -> Self {
        Self::Int(int)
    }
}

impl From<Vec<Value>> for Value {
    fn from(items: Vec<Value>) -> Self {
        Self::Array(items)
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object)
    }
}

/// An unsigned number of the protocol (a depth, a time) as a value.
pub fn unsigned(number: u64) -> Value {
    match i64::try_from(number) {
        Ok(int) => Value::Int(int),
        Err(_) => Value::Lexeme(number.to_string().into()),
    }
}

#[cfg(test)]
mod tests;
