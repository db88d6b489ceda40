//! Keys whose bytes sort as their values do.
//!
//! A tuple is its parts one after the other, and every part ends by itself, so the bytes of a
//! shorter tuple begin the bytes of all longer ones: that is what [`super::Store::scan`] walks.
//! The bytes are part of the on-disk format; `tests/golden/schema.txt` lists the keys and records of all tables.

use std::fmt;

/// Bytes that are no key of this table: the row was damaged or written by another program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadKey;

impl fmt::Display for BadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key that cannot be read")
    }
}

impl std::error::Error for BadKey {}

/// A value that can be (a part of) a key.
///
/// `decode` takes from the front of `input` exactly what `encode` wrote, and the order of the
/// encoded bytes is the order of the values.
pub trait Key: Sized {
    /// Appends the bytes of this key.
    fn encode(&self, out: &mut Vec<u8>);
    /// Reads one key off the front of `input`.
    fn decode(input: &mut &[u8]) -> Result<Self, BadKey>;

    /// The bytes of this key alone.
    fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(24);
        self.encode(&mut out);
        out
    }
}

impl Key for () {
    fn encode(&self, _: &mut Vec<u8>) {}

    fn decode(_: &mut &[u8]) -> Result<Self, BadKey> {
        Ok(())
    }
}

impl Key for u64 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        let (bytes, rest) = input.split_first_chunk::<8>().ok_or(BadKey)?;
        *input = rest;
        Ok(Self::from_be_bytes(*bytes))
    }
}

impl Key for u128 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.to_be_bytes());
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        <[u8; 16]>::decode(input).map(Self::from_be_bytes)
    }
}

impl Key for u8 {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(*self);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        let (byte, rest) = input.split_first().ok_or(BadKey)?;
        *input = rest;
        Ok(*byte)
    }
}

/// Bytes of a fixed number, such as a hash.
impl<const N: usize> Key for [u8; N] {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        let (bytes, rest) = input.split_first_chunk::<N>().ok_or(BadKey)?;
        *input = rest;
        Ok(*bytes)
    }
}

/// Text ends with `00 00`; a zero byte inside is written `00 FF`, which keeps the order.
impl Key for String {
    fn encode(&self, out: &mut Vec<u8>) {
        for &byte in self.as_bytes() {
            out.push(byte);
            if byte == 0 {
                out.push(0xFF);
            }
        }
        out.extend_from_slice(&[0, 0]);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        let mut text = Vec::new();
        loop {
            match *input {
                [0, 0, rest @ ..] => {
                    *input = rest;
                    return Self::from_utf8(text).map_err(|_| BadKey);
                }
                [0, 0xFF, rest @ ..] => {
                    text.push(0);
                    *input = rest;
                }
                [0, ..] | [] => return Err(BadKey),
                [byte, rest @ ..] => {
                    text.push(*byte);
                    *input = rest;
                }
            }
        }
    }
}

impl<A: Key> Key for (A,) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        Ok((A::decode(input)?,))
    }
}

impl<A: Key, B: Key> Key for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

impl<A: Key, B: Key, C: Key> Key for (A, B, C) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        self.2.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        Ok((A::decode(input)?, B::decode(input)?, C::decode(input)?))
    }
}

impl<A: Key, B: Key, C: Key, D: Key> Key for (A, B, C, D) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
        self.2.encode(out);
        self.3.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Result<Self, BadKey> {
        Ok((A::decode(input)?, B::decode(input)?, C::decode(input)?, D::decode(input)?))
    }
}

/// A number with a name of its own, so that a room's number is never taken for a user's.
#[macro_export]
macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $crate::store::key::Key for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(input: &mut &[u8]) -> Result<Self, $crate::store::key::BadKey> {
                u64::decode(input).map(Self)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_written_is_read(key: (u64, String, u8, u128)) {
            let bytes = key.to_bytes();
            let mut input = &bytes[..];
            prop_assert_eq!(<(u64, String, u8, u128)>::decode(&mut input), Ok(key));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn bytes_sort_as_values_do(a: (String, u64), b: (String, u64)) {
            prop_assert_eq!(a.to_bytes().cmp(&b.to_bytes()), a.cmp(&b));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = <(String, u64)>::decode(&mut &bytes[..]);
        }
    }
}
