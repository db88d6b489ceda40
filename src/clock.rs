//! The time, as an argument: the machine's clock, or one that a test turns by hand.
//!
//! `protocol` never sees this; whoever needs the time there passes milliseconds in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ruma::{MilliSecondsSinceUnixEpoch, UInt};

/// A clock. Cheap to clone; clones of a hand-turned clock show the same time.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// Milliseconds since the Unix epoch, when somebody turns this clock by hand.
    hand: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    pub fn by_hand(start: u64) -> Self {
        Self { hand: Some(Arc::new(AtomicU64::new(start))) }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now(&self) -> u64 {
        match &self.hand {
            Some(time) => time.load(Ordering::SeqCst),
            // A machine whose clock stands before 1970 gets 0 rather than a crash.
            None => SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// The same time as ruma's type.
    pub fn timestamp(&self) -> MilliSecondsSinceUnixEpoch {
        MilliSecondsSinceUnixEpoch(UInt::new_saturating(self.now()))
    }

    /// Moves a hand-turned clock forward; the machine's clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Some(time) = &self.hand {
            time.fetch_add(u64::try_from(by.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
        }
    }
}
