//! Damaged documents: valid ones from `seeds/`, cut, flipped, doubled and stuffed, go through every reader.
//!
//! What must hold is in [`properties`], which `fuzz/` uses as well, with the same seeds to start from.

#[path = "properties.rs"]
mod properties;

use std::{fs, path::Path};

use proptest::{prelude::*, sample::Index};

/// How many damaged documents each reader gets.
const CASES: u32 = 192;

/// What is written into a document where it hurts.
const SPLINTERS: &[&[u8]] = &[
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b" ",
    b"-",
    b"0",
    b".",
    b"*",
    b"?",
    b"=",
    b"~",
    b"\0",
    b"null",
    b"true",
    b"1e400",
    b"-0",
    b"1.5",
    b"9007199254740992",
    b"18446744073709551615",
    b"99999999999999999999999999999999999999999",
    b"\\u0000",
    b"\\ud800",
    b"\\ud83d\\ude00",
    b"\xff",
    b"\xc3\x28",
    b"\xed\xa0\x80",
    "é".as_bytes(),
    "ẞİΣ".as_bytes(),
    "\u{1d407}\u{301}".as_bytes(),
    b"\"a\":1,",
    b"\"type\":\"x\",",
    b"\"content\":{},",
    b"\"event_id\":\"$x:y\",",
    b"\"room_id\":\"!x:y\",",
    b"\"redacts\":\"$x\",",
    b"m.room.create",
];

/// One thing that happens to a document.
#[derive(Debug, Clone)]
enum Damage {
    /// It ends early.
    Truncate(Index),
    /// One bit is another.
    Flip(Index, u8),
    /// Something stands in it, or in the place of something.
    Insert(Index, &'static [u8]),
    Overwrite(Index, &'static [u8]),
    /// A part of it is missing, or stands elsewhere too.
    Remove(Index, usize),
    Repeat(Index, usize, Index),
    /// A member stands twice.
    Double(Index),
    /// A value lies deep within others.
    Nest(Index, usize),
    /// A number has many digits.
    Stretch(Index, usize),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        let splinter = || proptest::sample::select(SPLINTERS);
        prop_oneof![
            at().prop_map(Self::Truncate),
            (at(), any::<u8>()).prop_map(|(at, bit)| Self::Flip(at, bit % 8)),
            (at(), splinter()).prop_map(|(at, text)| Self::Insert(at, text)),
            (at(), splinter()).prop_map(|(at, text)| Self::Overwrite(at, text)),
            (at(), 1..40usize).prop_map(|(at, length)| Self::Remove(at, length)),
            (at(), 1..60usize, at()).prop_map(|(from, length, to)| Self::Repeat(from, length, to)),
            at().prop_map(Self::Double),
            (at(), proptest::sample::select(&[3usize, 99, 101, 130, 2_000][..]))
                .prop_map(|(at, levels)| Self::Nest(at, levels)),
            (at(), proptest::sample::select(&[1usize, 16, 400, 5_000][..]))
                .prop_map(|(at, digits)| Self::Stretch(at, digits)),
        ]
    }

    fn apply(&self, text: &mut Vec<u8>) {
        let place = |at: &Index, text: &[u8]| at.index(text.len() + 1);
        // The chosen one of the places behind such a byte.
        let behind = |at: &Index, text: &[u8], wanted: fn(u8) -> bool| {
            let places: Vec<usize> = (0..text.len()).filter(|at| wanted(text[*at])).map(|at| at + 1).collect();
            (!places.is_empty()).then(|| *at.get(&places))
        };
        match self {
            Self::Truncate(at) => text.truncate(place(at, text)),
            Self::Flip(at, bit) => {
                let at = place(at, text);
                text.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
            }
            Self::Insert(at, splinter) => put(text, place(at, text), 0, splinter),
            Self::Overwrite(at, splinter) => put(text, place(at, text), splinter.len(), splinter),
            Self::Remove(at, length) => put(text, place(at, text), *length, b""),
            Self::Repeat(from, length, to) => {
                let from = place(from, text);
                let part = text[from..text.len().min(from + length)].to_vec();
                put(text, place(to, text), 0, &part);
            }
            Self::Double(at) => {
                let Some(start) = behind(at, text, |byte| matches!(byte, b'{' | b',')) else { return };
                let end = text[start..].iter().position(|byte| *byte == b',').map_or(text.len(), |end| start + end + 1);
                let member = text[start..end].to_vec();
                put(text, start, 0, &member);
            }
            Self::Nest(at, levels) => {
                let Some(start) = behind(at, text, |byte| matches!(byte, b':' | b'[')) else { return };
                let nested = [b"[".repeat(*levels), b"1".to_vec(), b"]".repeat(*levels), b",".to_vec()].concat();
                let length = nested.len() - usize::from(text[start - 1] == b':');
                put(text, start, 0, &nested[..length]);
            }
            Self::Stretch(at, digits) => {
                let Some(start) = behind(at, text, |byte| byte.is_ascii_digit()) else { return };
                put(text, start, 0, &b"7".repeat(*digits));
            }
        }
    }
}

/// Puts a part into a text, in the place of as many bytes.
fn put(text: &mut Vec<u8>, at: usize, instead_of: usize, part: &[u8]) {
    let end = text.len().min(at + instead_of);
    text.splice(at..end, part.iter().copied());
}

/// The documents that a reader should be able to read.
fn seeds(reader: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bytes/seeds").join(reader);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| fs::read(file).unwrap()).collect()
}

/// Gives a reader its documents, whole and damaged.
#[track_caller]
fn check(reader: &str, property: fn(&[u8])) {
    let seeds = seeds(reader);
    seeds.iter().for_each(|seed| property(seed));
    let config = ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() };
    let documents = (proptest::sample::select(seeds), proptest::collection::vec(Damage::any(), 1..5));
    let outcome = proptest::test_runner::TestRunner::new(config).run(&documents, |(mut text, damages)| {
        damages.iter().for_each(|damage| damage.apply(&mut text));
        property(&text);
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{reader}: {failure}");
    }
}

macro_rules! readers {
    ($($reader:ident)*) => {
        $(#[test]
        fn $reader() {
            check(stringify!($reader), properties::$reader);
        })*

        #[test]
        fn every_reader_is_fuzzed() {
            let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/targets");
            let mut targets: Vec<_> = fs::read_dir(fuzz).unwrap().map(|file| file.unwrap().path()).collect();
            targets.sort();
            let targets: Vec<_> = targets.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
            assert_eq!(targets, [$(stringify!($reader)),*]);
        }
    };
}

readers! {
    canonical_json
    filter
    globs
    pdu
    pieces
    push_rules
    search_words
    server_acl
    tokens
    transaction
    well_known
    x_matrix
}
