//! Canonical JSON: the one way to write a value, so that every server hashes and signs the same bytes.
//!
//! [`parse`] reads JSON from outside into a [`Value`], within bounds (depth, number size); [`write`]
//! gives the canonical text. [`to_value`] and [`from_value`] convert Rust types that have serde.
//! If an object names a key twice, the last one counts, as it does in Python and in serde_json: what
//! is hashed, signed and stored is written anew from the parsed value, so no two readers can differ.
//!
//! This is not a general JSON library: what only passes through (a request, an event's content on
//! its way to a client) is never turned into a [`Value`].
//!
//! Spec: appendices#canonical-json

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, DeserializeOwned, MapAccess, SeqAccess, Visitor},
    ser::{SerializeMap, SerializeSeq},
};
use serde_json::value::RawValue;

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

/// Python refuses to read longer integers.
const MAX_DIGITS: usize = 4300;

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

/// Reads one JSON value, and nothing but white space around it.
pub fn parse(text: &[u8], numbers: Numbers) -> Result<Value, JsonError> {
    let mut parser = Parser { text, at: 0, numbers };
    parser.space();
    let value = parser.value(0)?;
    parser.space();
    if parser.at < text.len() {
        return Err(parser.expected("the end"));
    }
    Ok(value)
}

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

struct Parser<'a> {
    text: &'a [u8],
    at: usize,
    numbers: Numbers,
}

impl Parser<'_> {
    fn expected(&self, expected: &'static str) -> JsonError {
        JsonError::Syntax { at: self.at, expected }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = self.peek() {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn word(&mut self, word: &'static str, value: Value) -> Result<Value, JsonError> {
        if !self.text[self.at..].starts_with(word.as_bytes()) {
            return Err(self.expected("a value"));
        }
        self.at += word.len();
        Ok(value)
    }

    fn value(&mut self, depth: usize) -> Result<Value, JsonError> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1).map(Value::Object),
            Some(b'[') => self.array(depth + 1).map(Value::Array),
            Some(b'"') => self.string().map(Value::String),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            _ => Err(self.expected("a value")),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Object, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        let mut object = Object::new();
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(object);
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.expected("a key in quotation marks"));
            }
            let key = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(self.expected("a colon"));
            }
            self.space();
            let value = self.value(depth)?;
            object.insert(key, value);
            self.space();
            if self.take(b'}') {
                return Ok(object);
            }
            if !self.take(b',') {
                return Err(self.expected("a comma or the end of the object"));
            }
            self.space();
        }
    }

    fn array(&mut self, depth: usize) -> Result<Vec<Value>, JsonError> {
        if depth > MAX_DEPTH {
            return Err(JsonError::TooDeep);
        }
        let mut items = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(items);
        }
        loop {
            items.push(self.value(depth)?);
            self.space();
            if self.take(b']') {
                return Ok(items);
            }
            if !self.take(b',') {
                return Err(self.expected("a comma or the end of the array"));
            }
            self.space();
        }
    }

    fn string(&mut self) -> Result<String, JsonError> {
        let opened = self.at;
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let start = self.at;
            while !matches!(self.peek(), None | Some(b'"' | b'\\' | 0..0x20)) {
                self.at += 1;
            }
            out.extend_from_slice(&self.text[start..self.at]);
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut out)?,
                _ => return Err(self.expected("the end of a string")),
            }
        }
        self.at += 1;
        String::from_utf8(out).map_err(|_| JsonError::NotUnicode { at: opened })
    }

    fn escape(&mut self, out: &mut Vec<u8>) -> Result<(), JsonError> {
        let at = self.at;
        self.at += 2;
        let plain = match self.text.get(at + 1) {
            Some(b'"') => b'"',
            Some(b'\\') => b'\\',
            Some(b'/') => b'/',
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                let mut code = u32::from(self.hex()?);
                if (0xd800..0xdc00).contains(&code) && self.text[self.at..].starts_with(b"\\u") {
                    self.at += 2;
                    let low = u32::from(self.hex()?);
                    if !(0xdc00..0xe000).contains(&low) {
                        return Err(JsonError::NotUnicode { at });
                    }
                    code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
                }
                let char = char::from_u32(code).ok_or(JsonError::NotUnicode { at })?;
                out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            _ => {
                return Err(JsonError::Syntax { at, expected: "an escape that JSON has" });
            }
        };
        out.push(plain);
        Ok(())
    }

    fn hex(&mut self) -> Result<u16, JsonError> {
        let digits = self.text.get(self.at..self.at + 4).unwrap_or_default();
        let mut code = 0;
        for digit in digits {
            let digit = char::from(*digit).to_digit(16).ok_or_else(|| self.expected("four hexadecimal digits"))?;
            code = code * 16 + digit as u16;
        }
        if digits.is_empty() {
            return Err(self.expected("four hexadecimal digits"));
        }
        self.at += 4;
        Ok(code)
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return Err(self.expected("a digit"));
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn number(&mut self) -> Result<Value, JsonError> {
        let start = self.at;
        let mut integer = true;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            integer = false;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integer = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        number(text, integer, self.numbers)
    }
}

/// The value of a number that is already known to be JSON.
fn number(text: &str, integer: bool, numbers: Numbers) -> Result<Value, JsonError> {
    let refused = || JsonError::Number(text.chars().take(40).collect());
    if numbers == Numbers::Strict {
        return match text.parse() {
            Ok(int) if integer && text != "-0" && (-MAX_INT..=MAX_INT).contains(&int) => Ok(Value::Int(int)),
            _ => Err(refused()),
        };
    }
    if integer {
        return match text.parse() {
            // Python has no integer -0 either: it reads one as 0.
            Ok(int) => Ok(Value::Int(int)),
            Err(_) if text.len() > MAX_DIGITS => Err(refused()),
            Err(_) => Ok(Value::Lexeme(text.into())),
        };
    }
    match text.parse::<f64>() {
        Ok(float) if float.is_finite() => Ok(Value::Lexeme(python_float(float).into())),
        _ => Err(refused()),
    }
}

/// A float as Python's `repr` has it: the shortest digits that read back as the same float, in
/// scientific form below 1e-4 and from 1e16 on, else with at least one digit after the point.
fn python_float(float: f64) -> String {
    let scientific = format!("{float:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if float == 0.0 || (-4..16).contains(&exponent) {
        let plain = float.to_string();
        if plain.contains('.') { plain } else { plain + ".0" }
    } else {
        let sign = if exponent < 0 { '-' } else { '+' };
        format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs())
    }
}

pub(super) fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Int(int) => write_int(out, *int),
        Value::Lexeme(lexeme) => out.push_str(lexeme),
        Value::String(text) => write_string(out, text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(object) => write_members(out, object.iter()),
    }
}

fn write_members<'a>(out: &mut String, members: impl Iterator<Item = (&'a String, &'a Value)>) {
    out.push('{');
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write_string(out, key);
        out.push(':');
        write_value(out, value);
    }
    out.push('}');
}

fn write_int(out: &mut String, int: i64) {
    if int < 0 {
        out.push('-');
    }
    write_number(out, int.unsigned_abs());
}

/// Appends a number's decimal digits.
pub(super) fn write_number(out: &mut String, mut number: u64) {
    let mut digits = [0; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend(digits[first..].iter().map(|digit| char::from(*digit)));
}

/// Appends a string in quotation marks, escaped as canonical JSON has it.
pub fn write_string(out: &mut String, text: &str) {
    out.push('"');
    let mut written = 0;
    for (at, byte) in text.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.push_str(&text[written..at]);
        written = at + 1;
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            0x08 => out.push_str("\\b"),
            0x0c => out.push_str("\\f"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            _ => {
                out.push_str(if byte < 0x10 { "\\u000" } else { "\\u001" });
                out.extend(char::from_digit(u32::from(byte % 16), 16));
            }
        }
    }
    out.push_str(&text[written..]);
    out.push('"');
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(bool) => serializer.serialize_bool(*bool),
            Self::Int(int) => serializer.serialize_i64(*int),
            // serde_json writes a raw value as it stands.
            Self::Lexeme(lexeme) => {
                RawValue::from_string(lexeme.to_string()).map_err(serde::ser::Error::custom)?.serialize(serializer)
            }
            Self::String(text) => serializer.serialize_str(text),
            Self::Array(items) => {
                let mut seq = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    seq.serialize_element(item)?;
                }
                seq.end()
            }
            Self::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.len()))?;
                for (key, value) in object {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

/// Numbers are held to [`Numbers::Strict`]: lax texts come in by [`parse`].
impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value with integers only")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_bool<E: de::Error>(self, bool: bool) -> Result<Value, E> {
        Ok(Value::Bool(bool))
    }

    fn visit_i64<E: de::Error>(self, int: i64) -> Result<Value, E> {
        if (-MAX_INT..=MAX_INT).contains(&int) {
            Ok(Value::Int(int))
        } else {
            Err(E::custom(JsonError::Number(int.to_string())))
        }
    }

    fn visit_u64<E: de::Error>(self, int: u64) -> Result<Value, E> {
        match i64::try_from(int) {
            Ok(int) => self.visit_i64(int),
            Err(_) => Err(E::custom(JsonError::Number(int.to_string()))),
        }
    }

    fn visit_f64<E: de::Error>(self, float: f64) -> Result<Value, E> {
        Err(E::custom(JsonError::Number(float.to_string())))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Value, E> {
        Ok(Value::String(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Object::new();
        while let Some((key, value)) = map.next_entry()? {
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
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
}
