//! How the engine keeps long values: zstd with a dictionary of what events are made of.
//!
//! A single event is too short for compression to find anything in it twice; the dictionary is what
//! it is compared with. It is a part of the on-disk format: it may get a successor, with a number of
//! its own, but never change. Only the engine's files hold values like this: the journal, the digests and
//! the archives have them as they are.
//!
//! ```text
//! stored = value | 255 0 value | 255 1 length:LEB128 frame
//! ```
//!
//! A value is CBOR, and no CBOR begins with 255.

use std::{borrow::Cow, sync::LazyLock};

use parking_lot::Mutex;
use zstd::{
    bulk::{Compressor, Decompressor},
    dict::{DecoderDictionary, EncoderDictionary},
};

use super::journal::{Input, put};

const DICTIONARY: &[u8] = include_bytes!("events.dict");
const LEVEL: i32 = 3;
/// No value is longer when it is unpacked.
const LONGEST: usize = 1 << 20;
/// So many contexts are kept to be used again; they take more memory than what they work on.
const KEPT: usize = 4;

/// Values that are shorter stay as they are.
const SHORT: usize = 100;

const MARK: u8 = 255;
const PLAIN: u8 = 0;
const PACKED: u8 = 1;

static ENCODER: LazyLock<EncoderDictionary<'static>> = LazyLock::new(|| EncoderDictionary::copy(DICTIONARY, LEVEL));
static DECODER: LazyLock<DecoderDictionary<'static>> = LazyLock::new(|| DecoderDictionary::copy(DICTIONARY));
static COMPRESSORS: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());
static DECOMPRESSORS: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());

/// The bytes as they are stored.
pub(super) fn pack(bytes: &[u8]) -> Cow<'_, [u8]> {
    if (SHORT..=LONGEST).contains(&bytes.len())
        && let Some(frame) = compressed(bytes)
    {
        let mut out = Vec::with_capacity(frame.len() + 8);
        out.extend([MARK, PACKED]);
        put(&mut out, bytes.len() as u64);
        out.extend(frame);
        if out.len() < bytes.len() {
            return out.into();
        }
    }
    match bytes.first() {
        Some(&MARK) => [&[MARK, PLAIN], bytes].concat().into(),
        _ => bytes.into(),
    }
}

/// The bytes behind what is stored, if they are not the same; an error if it was not stored by [`pack`].
pub(super) fn unpack(stored: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
    match stored {
        [MARK, PLAIN, bytes @ ..] => Ok(Some(bytes.to_vec())),
        [MARK, PACKED, rest @ ..] => decompressed(rest).map(Some).ok_or(Unreadable),
        [MARK, ..] => Err(Unreadable),
        _ => Ok(None),
    }
}

/// A value that was damaged, or stored by a newer version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable;

fn decompressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut input = Input(bytes);
    let length = usize::try_from(input.number()?).ok().filter(|length| *length <= LONGEST)?;
    let kept = DECOMPRESSORS.lock().pop();
    let mut context = match kept {
        Some(context) => context,
        None => Decompressor::with_prepared_dictionary(&DECODER).ok()?,
    };
    let bytes = context.decompress(input.0, length).ok();
    keep(&DECOMPRESSORS, context);
    bytes.filter(|bytes| bytes.len() == length)
}

fn compressed(bytes: &[u8]) -> Option<Vec<u8>> {
    let kept = COMPRESSORS.lock().pop();
    let mut context = match kept {
        Some(context) => context,
        None => {
            let mut context = Compressor::with_prepared_dictionary(&ENCODER).ok()?;
            // All of this is known: the journal and the digests notice damage, the length is before it.
            context.include_checksum(false).ok()?;
            context.include_dictid(false).ok()?;
            context.include_contentsize(false).ok()?;
            context
        }
    };
    let frame = context.compress(bytes).ok();
    keep(&COMPRESSORS, context);
    frame
}

fn keep<T>(pool: &Mutex<Vec<T>>, context: T) {
    let mut pool = pool.lock();
    if pool.len() < KEPT {
        pool.push(context);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::{fs, process::Command};

    use proptest::prelude::*;

    use super::*;

    /// Short and long values, also some that begin like stored ones.
    fn values() -> impl Strategy<Value = Vec<u8>> {
        let long = (any::<u8>(), 0..400usize).prop_map(|(byte, length)| vec![byte; length]);
        let marked = any::<Vec<u8>>().prop_map(|bytes| [vec![MARK], bytes].concat());
        prop_oneof![any::<Vec<u8>>(), long, marked]
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(bytes in values()) {
            let stored = pack(&bytes);
            prop_assert!(stored.len() <= bytes.len() + 2);
            let unpacked = unpack(&stored).unwrap();
            prop_assert_eq!(unpacked.as_deref().unwrap_or(&stored), &bytes[..]);
        }

        #[test]
        fn any_bytes_are_unpacked_or_refused(mut bytes: Vec<u8>) {
            let _ = unpack(&bytes);
            bytes.splice(0..0, [MARK, PACKED, 100]);
            let _ = unpack(&bytes);
        }
    }

    #[test]
    fn what_one_version_stored_every_later_one_reads() {
        // Stored by the first version. If this fails, the dictionary or the format has changed.
        let stored = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/events.dict")).unwrap();
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&stored), xxhash_rust::xxh3::xxh3_64(DICTIONARY));
    }

    #[test]
    fn events_take_less_than_two_thirds_of_their_length() {
        let (mut plain, mut packed) = (0, 0);
        for event in events(500, 99) {
            plain += event.len();
            packed += pack(&event).len();
        }
        println!("{plain} bytes of events take {packed} bytes");
        // Most of what is left is chance: identifiers, hashes and signatures.
        assert!(packed * 3 < plain * 2, "{packed} of {plain}");
    }

    /// Makes the dictionary anew: `cargo test --lib make_the_dictionary -- --ignored`. Needs `zstd`.
    #[test]
    #[ignore = "the dictionary is a part of the on-disk format"]
    fn make_the_dictionary() {
        let folder = tempfile::tempdir().unwrap();
        let samples = folder.path().join("samples");
        fs::create_dir(&samples).unwrap();
        for (index, event) in events(6000, 1).into_iter().enumerate() {
            fs::write(samples.join(format!("{index:05}")), event).unwrap();
        }
        let target = folder.path().join("dict");
        let mut train = Command::new("zstd");
        train.args(["--train", "-r", "--maxdict=12288", "-19", "-q", "-o"]).arg(&target).arg(&samples);
        assert!(train.status().unwrap().success());
        fs::copy(target, concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/events.dict")).unwrap();
    }

    /// A source of chance that is the same each time.
    struct Chance(u64);

    impl Chance {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, end: usize) -> usize {
            usize::try_from(self.next() % end as u64).unwrap()
        }

        fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
            from[self.below(from.len())]
        }

        fn letters(&mut self, alphabet: &[u8], length: usize) -> String {
            (0..length).map(|_| char::from(alphabet[self.below(alphabet.len())])).collect()
        }

        fn base64(&mut self, length: usize) -> String {
            self.letters(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", length)
        }

        fn name(&mut self) -> String {
            let length = 3 + self.below(6);
            self.letters(b"aeioulnrstmbdkgph", length)
        }

        fn server(&mut self) -> String {
            let end = self.pick(&["org", "com", "net", "chat", "me", "de", "fr", "io", "example.org"]);
            let name = self.name();
            let front = self.pick(&["", "", "matrix.", "chat.", "im."]);
            format!("{front}{name}.{end}")
        }

        /// Made of syllables, so that the dictionary learns the protocol and no language.
        fn text(&mut self) -> String {
            let words = 1 + self.below(14);
            (0..words).map(|_| self.name()).collect::<Vec<_>>().join(" ")
        }
    }

    /// Rows as they stand in the table of events: made up, but of the shapes that rooms are full of.
    pub(in crate::store) fn events(count: usize, seed: u64) -> Vec<Vec<u8>> {
        let mut chance = Chance(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        (0..count).map(|_| event(&mut chance)).collect()
    }

    fn event(chance: &mut Chance) -> Vec<u8> {
        use crate::store::schema::{RoomNo, events::EventRow};
        let (server, sender) = (chance.server(), chance.name());
        let user = format!("@{sender}:{server}");
        let (kind, state_key, content) = content(chance, &user);
        let ids = |chance: &mut Chance, count: usize| {
            (0..count).map(|_| format!("${}", chance.base64(43))).collect::<Vec<_>>()
        };
        let auth = 2 + chance.below(3);
        let prev = 1 + chance.below(8) / 7;
        let key = format!(
            "ed25519:{}",
            match chance.below(3) {
                0 => "auto".to_owned(),
                1 => format!("a_{}", chance.base64(4)),
                _ => chance.base64(6),
            }
        );
        let mut pdu = serde_json::json!({
            "auth_events": ids(chance, auth),
            "content": content,
            "depth": chance.below(90_000),
            "hashes": { "sha256": chance.base64(43) },
            "origin_server_ts": 1_600_000_000_000u64 + chance.next() % 250_000_000_000,
            "prev_events": ids(chance, prev),
            "room_id": match chance.below(2) {
                0 => format!("!{}", chance.base64(43)),
                _ => format!("!{}:{}", chance.base64(18), chance.server()),
            },
            "sender": user,
            "signatures": { server: { key: chance.base64(86) } },
            "type": kind,
        });
        if let Some(state_key) = state_key {
            pdu["state_key"] = state_key.into();
        }
        let row = EventRow {
            id: format!("${}", chance.base64(43)).try_into().unwrap(),
            room: RoomNo(chance.next() % 4000),
            json: pdu.to_string(),
            ..sample()
        };
        let mut bytes = Vec::new();
        ciborium::into_writer(&row, &mut bytes).unwrap();
        bytes
    }

    fn sample() -> crate::store::schema::events::EventRow {
        serde_json::from_str(r#"{"i":"$a","r":1,"j":"{}"}"#).unwrap()
    }

    fn content(chance: &mut Chance, user: &str) -> (&'static str, Option<String>, serde_json::Value) {
        use serde_json::json;
        let id = format!("${}", chance.base64(43));
        let mxc = format!("mxc://{}/{}", chance.server(), chance.base64(24));
        match chance.below(30) {
            0..10 => ("m.room.message", None, json!({ "body": chance.text(), "m.mentions": {}, "msgtype": "m.text" })),
            10..12 => {
                let (text, other) = (chance.text(), format!("@{}:{}", chance.name(), chance.server()));
                let relation = json!({ "m.in_reply_to": { "event_id": id } });
                (
                    "m.room.message",
                    None,
                    json!({
                        "body": text, "format": "org.matrix.custom.html", "formatted_body": format!("<p>{text}</p>"),
                        "m.mentions": { "user_ids": [other] }, "m.relates_to": relation, "msgtype": "m.text",
                    }),
                )
            }
            12 => {
                let text = chance.text();
                (
                    "m.room.message",
                    None,
                    json!({
                        "body": format!("* {text}"), "m.mentions": {},
                        "m.new_content": { "body": text, "m.mentions": {}, "msgtype": "m.text" },
                        "m.relates_to": { "event_id": id, "rel_type": "m.replace" }, "msgtype": "m.text",
                    }),
                )
            }
            13 => {
                let (width, height) = (chance.below(4000), chance.below(4000));
                (
                    "m.room.message",
                    None,
                    json!({
                        "body": format!("IMG_{}.jpg", chance.below(9999)), "filename": "image.png",
                        "info": {
                            "h": height, "w": width, "mimetype": "image/jpeg", "size": chance.below(4_000_000),
                            "thumbnail_info": { "h": 450, "mimetype": "image/jpeg", "size": 40_000, "w": 800 },
                            "thumbnail_url": mxc, "xyz.amorgan.blurhash": chance.base64(28),
                        },
                        "msgtype": chance.pick(&["m.image", "m.image", "m.video", "m.file", "m.audio"]), "url": mxc,
                    }),
                )
            }
            14..20 => {
                let length = 200 + chance.below(500);
                (
                    "m.room.encrypted",
                    None,
                    json!({
                        "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": format!("AwgA{}", chance.base64(length)),
                        "device_id": chance.letters(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", 10),
                        "sender_key": chance.base64(43), "session_id": chance.base64(43),
                    }),
                )
            }
            20..23 => {
                let relation = json!({ "event_id": id, "key": chance.pick(&["👍️", "❤️", "😂", "🎉", "✅"]), "rel_type": "m.annotation" });
                ("m.reaction", None, json!({ "m.relates_to": relation }))
            }
            23 => ("m.room.redaction", None, json!({ "reason": chance.text(), "redacts": id })),
            24 => ("m.room.topic", Some(String::new()), json!({ "topic": chance.text() })),
            25 => (
                "m.room.power_levels",
                Some(String::new()),
                json!({
                    "ban": 50, "events": {
                        "m.room.avatar": 50, "m.room.canonical_alias": 50, "m.room.encryption": 100,
                        "m.room.history_visibility": 100, "m.room.name": 50, "m.room.power_levels": 100,
                        "m.room.server_acl": 100, "m.room.tombstone": 150, "m.space.child": 50,
                    },
                    "events_default": 0, "historical": 100, "invite": 0, "kick": 50, "notifications": { "room": 50 },
                    "redact": 50, "state_default": 50, "users": { user: 100 }, "users_default": 0,
                }),
            ),
            26 => match chance.below(6) {
                0 => ("m.room.create", Some(String::new()), json!({ "creator": user, "room_version": "11" })),
                1 => (
                    "m.room.join_rules",
                    Some(String::new()),
                    json!({ "join_rule": chance.pick(&["invite", "public", "knock"]) }),
                ),
                2 => ("m.room.history_visibility", Some(String::new()), json!({ "history_visibility": "shared" })),
                3 => ("m.room.guest_access", Some(String::new()), json!({ "guest_access": "can_join" })),
                4 => ("m.room.encryption", Some(String::new()), json!({ "algorithm": "m.megolm.v1.aes-sha2" })),
                _ => ("m.space.child", Some(id), json!({ "suggested": false, "via": [chance.server()] })),
            },
            _ => {
                let membership = chance.pick(&["join", "join", "join", "leave", "invite", "ban"]);
                (
                    "m.room.member",
                    Some(user.to_owned()),
                    json!({
                        "avatar_url": mxc, "displayname": chance.name(), "membership": membership,
                    }),
                )
            }
        }
    }
}
