//! Randomness, as an argument: the machine's, or a sequence that tests can repeat.
//!
//! Everything that must not be guessed (access tokens, session IDs, salts) comes from here, so that a
//! test with a seed is a reproduction. `protocol` never sees this.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};

/// A source of chance. Cheap to clone; clones of a seeded one share its sequence.
#[derive(Clone, Default)]
pub struct Chance {
    /// The sequence, when a test has chosen it.
    seeded: Option<Arc<Mutex<StdRng>>>,
}

impl Chance {
    /// The machine's randomness, fit for secrets.
    pub fn system() -> Self {
        Self::default()
    }

    /// A sequence that is the same for the same seed. For tests alone.
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))) }
    }

    /// `N` random bytes.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.seeded {
            Some(sequence) => sequence.lock().fill_bytes(&mut bytes),
            None => rand::rng().fill_bytes(&mut bytes),
        }
        bytes
    }

    /// A secret of 256 bits as 43 letters, digits, `-` and `_`.
    pub fn secret(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.bytes::<32>())
    }

    /// `length` capital letters, as in a device ID.
    pub fn letters(&self, length: usize) -> String {
        self.pick(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", length)
    }

    /// `length` small letters and digits, as in a localpart.
    pub fn word(&self, length: usize) -> String {
        self.pick(b"abcdefghijklmnopqrstuvwxyz0123456789", length)
    }

    fn pick(&self, alphabet: &[u8], length: usize) -> String {
        let one = |at: usize| char::from(alphabet[at]);
        match &self.seeded {
            Some(sequence) => {
                let mut sequence = sequence.lock();
                (0..length).map(|_| one(sequence.random_range(0..alphabet.len()))).collect()
            }
            None => (0..length).map(|_| one(rand::rng().random_range(0..alphabet.len()))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_secrets() {
        assert_eq!(Chance::seeded(7).secret(), Chance::seeded(7).secret());
        assert_ne!(Chance::seeded(7).secret(), Chance::seeded(8).secret());
    }

    #[test]
    fn the_machine_never_says_the_same_twice() {
        let chance = Chance::system();
        assert_ne!(chance.secret(), chance.secret());
        assert_eq!(chance.letters(10).len(), 10);
    }
}
