//! A large JSON object cut into pieces as its bytes arrive, so that nobody holds it whole.
//!
//! Each member of the object is one piece, or, where it is a list, each entry of that list. Only the outline is
//! read here: a piece is raw text, which whoever wants it parses with all checks. However the bytes are divided,
//! the pieces are the same, and no more is held than the piece that is being read.
//!
//! The first versions of some endpoints wrap their answer in a list, behind a status: `[200, {…}]`. Such an object is
//! read as well.

use std::{fmt, sync::Arc};

/// The longest name of a member.
const MAX_NAME: usize = 255;

/// One part of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The member that it belongs to.
    pub field: Arc<str>,
    /// Its raw JSON text.
    pub json: String,
}

/// Why bytes are not the beginning of such an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PieceError {
    /// They are no JSON object.
    Outline(&'static str),
    /// A piece or a name is longer than allowed.
    TooLong,
    /// They are not UTF-8.
    Text,
    /// The object ends in the middle.
    Cut,
}

impl fmt::Display for PieceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outline(expected) => write!(f, "the JSON should have {expected} somewhere"),
            Self::TooLong => f.write_str("a part of the JSON is too long"),
            Self::Text => f.write_str("the JSON is not UTF-8"),
            Self::Cut => f.write_str("the JSON ends in the middle"),
        }
    }
}

impl std::error::Error for PieceError {}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expect {
    Object,
    /// The status before an object in a list, up to the comma.
    Status,
    /// A name, or the end of the object where that may stand.
    Name {
        or_end: bool,
    },
    InName,
    Colon,
    Value,
    /// An entry of a list, or the end of the list where that may stand.
    Entry {
        or_end: bool,
    },
    InValue,
    /// What separates the values.
    Next,
    /// The end of the list around the object.
    Wrapped,
    Nothing,
}

/// The cutter.
#[derive(Debug)]
pub struct Pieces {
    limit: usize,
    expect: Expect,
    field: Arc<str>,
    held: Vec<u8>,
    is_wrapped: bool,
    in_list: bool,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Pieces {
    /// For an object none of whose pieces is longer than `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            expect: Expect::Object,
            field: Arc::from(""),
            held: Vec::new(),
            is_wrapped: false,
            in_list: false,
            depth: 0,
            in_string: false,
            escaped: false,
        }
    }

    /// Takes the next bytes; `found` is called with each piece that is complete.
    pub fn push(&mut self, bytes: &[u8], mut found: impl FnMut(Piece)) -> Result<(), PieceError> {
        for byte in bytes {
            self.step(*byte, &mut found)?;
        }
        Ok(())
    }

    /// Whether the object is complete.
    pub fn finish(self) -> Result<(), PieceError> {
        match self.expect {
            Expect::Nothing => Ok(()),
            _ => Err(PieceError::Cut),
        }
    }

    fn step(&mut self, byte: u8, found: &mut impl FnMut(Piece)) -> Result<(), PieceError> {
        let is_space = matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        match self.expect {
            Expect::InValue => return self.value(byte, found),
            Expect::InName => return self.name(byte),
            _ if is_space => {}
            Expect::Object if byte == b'{' => self.expect = Expect::Name { or_end: true },
            Expect::Object if byte == b'[' && !self.is_wrapped => {
                self.is_wrapped = true;
                self.expect = Expect::Status;
            }
            Expect::Object => return Err(PieceError::Outline("an object")),
            Expect::Status if byte.is_ascii_digit() => {}
            Expect::Status if byte == b',' => self.expect = Expect::Object,
            Expect::Status => return Err(PieceError::Outline("a status")),
            Expect::Name { .. } if byte == b'"' => self.expect = Expect::InName,
            Expect::Name { or_end: true } if byte == b'}' => self.expect = self.end(),
            Expect::Name { .. } => return Err(PieceError::Outline("a name")),
            Expect::Colon if byte == b':' => self.expect = Expect::Value,
            Expect::Colon => return Err(PieceError::Outline("a colon")),
            Expect::Value if byte == b'[' => {
                self.in_list = true;
                self.expect = Expect::Entry { or_end: true };
            }
            Expect::Entry { or_end: true } if byte == b']' => {
                self.in_list = false;
                self.expect = Expect::Next;
            }
            Expect::Value | Expect::Entry { .. } => {
                self.expect = Expect::InValue;
                return self.value(byte, found);
            }
            Expect::Next => self.next(byte)?,
            Expect::Wrapped if byte == b']' => self.expect = Expect::Nothing,
            Expect::Wrapped => return Err(PieceError::Outline("the end of a list")),
            Expect::Nothing => return Err(PieceError::Outline("its end")),
        }
        Ok(())
    }

    /// What comes after the object.
    fn end(&self) -> Expect {
        if self.is_wrapped { Expect::Wrapped } else { Expect::Nothing }
    }

    fn next(&mut self, byte: u8) -> Result<(), PieceError> {
        self.expect = match (byte, self.in_list) {
            (b',', true) => Expect::Entry { or_end: false },
            (b',', false) => Expect::Name { or_end: false },
            (b']', true) => {
                self.in_list = false;
                Expect::Next
            }
            (b'}', false) => self.end(),
            _ => return Err(PieceError::Outline("a comma or an end")),
        };
        Ok(())
    }

    fn name(&mut self, byte: u8) -> Result<(), PieceError> {
        if byte == b'"' && !self.escaped {
            let name = String::from_utf8(std::mem::take(&mut self.held)).map_err(|_| PieceError::Text)?;
            if *self.field != *name {
                self.field = name.into();
            }
            self.expect = Expect::Colon;
            return Ok(());
        }
        self.escaped = byte == b'\\' && !self.escaped;
        if self.held.len() >= MAX_NAME {
            return Err(PieceError::TooLong);
        }
        self.held.push(byte);
        Ok(())
    }

    fn value(&mut self, byte: u8, found: &mut impl FnMut(Piece)) -> Result<(), PieceError> {
        let mut ends = false;
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => {
                    self.in_string = false;
                    ends = self.depth == 0;
                }
                _ => {}
            }
        } else {
            match byte {
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                // A number or a word ends with what comes after it.
                b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if self.depth == 0 => {
                    self.complete(found)?;
                    return self.step(byte, found);
                }
                b'}' | b']' => {
                    self.depth -= 1;
                    ends = self.depth == 0;
                }
                _ => {}
            }
        }
        if self.held.len() >= self.limit {
            return Err(PieceError::TooLong);
        }
        self.held.push(byte);
        if ends { self.complete(found) } else { Ok(()) }
    }

    fn complete(&mut self, found: &mut impl FnMut(Piece)) -> Result<(), PieceError> {
        if self.held.is_empty() {
            return Err(PieceError::Outline("a value"));
        }
        let json = String::from_utf8(std::mem::take(&mut self.held)).map_err(|_| PieceError::Text)?;
        found(Piece { field: Arc::clone(&self.field), json });
        self.expect = Expect::Next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn cut(text: &str, at_once: usize) -> Result<Vec<String>, PieceError> {
        let mut pieces = Pieces::new(1_000);
        let mut found = Vec::new();
        for bytes in text.as_bytes().chunks(at_once) {
            pieces.push(bytes, |piece| found.push(format!("{} {}", piece.field, piece.json)))?;
        }
        pieces.finish()?;
        Ok(found)
    }

    #[test]
    fn members_and_entries_of_lists_are_pieces() {
        let text = r#" {"a": [1, "x,]", {"b": [2, "}"]}], "c" : true ,"d":[],"e":"\"" ,"f":{"g":[]}, "h":[ [1] ]} "#;
        let wanted = ["a 1", r#"a "x,]""#, r#"a {"b": [2, "}"]}"#, "c true", r#"e "\"""#, r#"f {"g":[]}"#, "h [1]"];
        for at_once in 1..9 {
            assert_eq!(cut(text, at_once).unwrap(), wanted);
        }
        assert_eq!(cut("{}", 1).unwrap(), [""; 0]);
        assert_eq!(cut(r#"[200, {"a": [1]}]"#, 2).unwrap(), ["a 1"]);
        assert_eq!(cut("[200,{}] ", 1).unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(1_000));
        let endless = format!(r#"{{"{}"#, "x".repeat(1_000));
        for bad in [
            "",
            "[]",
            "{",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            r#"{"a":[1,]}"#,
            r#"{"a":[1}"#,
            r#"{"a":1]"#,
            "[200,{}",
            "[200]",
            "[200,[{}]]",
            "[200,{}}",
        ] {
            assert!(cut(bad, 3).is_err(), "{bad}");
        }
        assert!(cut("{} {}", 3).is_err());
        assert_eq!(cut(&long, 7), Err(PieceError::TooLong));
        assert_eq!(cut(&endless, 7), Err(PieceError::TooLong));
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "[a-z\"\\\\{}\\[\\], é]{0,6}".prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z]{1,3}", inner, 0..4).prop_map(|map| json!(map)),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_is_lost(members in proptest::collection::btree_map("[a-zé]{1,5}", value(), 0..5), at_once in 1usize..40) {
            let mut pieces = Pieces::new(10_000);
            let mut found = Vec::new();
            for bytes in serde_json::to_string_pretty(&members).unwrap().as_bytes().chunks(at_once) {
                pieces.push(bytes, |piece| found.push((piece.field.to_string(), serde_json::from_str::<Value>(&piece.json).unwrap()))).unwrap();
            }
            pieces.finish().unwrap();
            let mut wanted = Vec::new();
            for (name, value) in members {
                match value {
                    Value::Array(list) => wanted.extend(list.into_iter().map(|entry| (name.clone(), entry))),
                    value => wanted.push((name, value)),
                }
            }
            prop_assert_eq!(found, wanted);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "[\\[\\]{}\":,a1\\\\ ]{0,60}") {
            for input in [&bytes[..], text.as_bytes()] {
                let mut pieces = Pieces::new(50);
                if pieces.push(input, drop).is_ok() {
                    pieces.finish().ok();
                }
            }
        }
    }
}
