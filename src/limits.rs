//! Token buckets: who may do how much, how fast, in bounded memory.
//!
//! A bucket holds up to `burst` tokens and gains `per_second`; an action takes one. Time is an
//! argument, in milliseconds. Who counts as one, and what happens to whoever has none left, is for
//! the caller to say.

use std::{collections::HashMap, hash::Hash, time::Duration};

use parking_lot::Mutex;

/// How much at once, and how fast it comes back.
#[derive(Debug, Clone, Copy)]
pub struct Rate {
    /// How many actions a bucket that nobody used for a while allows at once.
    pub burst: f64,
    /// How many more it allows per second.
    pub per_second: f64,
}

/// One bucket per key. A key that is not there has a full bucket.
pub struct Buckets<K> {
    rate: Rate,
    capacity: usize,
    buckets: Mutex<HashMap<K, Bucket>>,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: f64,
    at: u64,
}

impl<K: Hash + Eq + Clone> Buckets<K> {
    /// Buckets of this rate for at most `capacity` keys.
    pub fn new(rate: Rate, capacity: usize) -> Self {
        Self { rate, capacity, buckets: Mutex::default() }
    }

    /// Takes a token, or says how long to wait for one.
    pub fn take(&self, key: &K, now: u64) -> Result<(), Duration> {
        let mut buckets = self.buckets.lock();
        let tokens = self.filled(buckets.get(key), now);
        self.wait(tokens)?;
        if buckets.len() >= self.capacity && !buckets.contains_key(key) {
            self.make_room(&mut buckets, now);
        }
        buckets.insert(key.clone(), Bucket { tokens: tokens - 1.0, at: now });
        Ok(())
    }

    /// Puts a token back that was taken for nothing.
    pub fn put_back(&self, key: &K) {
        if let Some(bucket) = self.buckets.lock().get_mut(key) {
            bucket.tokens = (bucket.tokens + 1.0).min(self.rate.burst);
        }
    }

    /// Fills the bucket of `key`.
    pub fn forgive(&self, key: &K) {
        self.buckets.lock().remove(key);
    }

    fn filled(&self, bucket: Option<&Bucket>, now: u64) -> f64 {
        bucket.map_or(self.rate.burst, |bucket| {
            let seconds = Duration::from_millis(now.saturating_sub(bucket.at)).as_secs_f64();
            (bucket.tokens + seconds * self.rate.per_second).min(self.rate.burst)
        })
    }

    fn wait(&self, tokens: f64) -> Result<(), Duration> {
        match tokens >= 1.0 {
            true => Ok(()),
            // Rounded up, so that whoever waits as long as told is let in.
            false => Err(Duration::from_millis(((1.0 - tokens) / self.rate.per_second * 1000.0).ceil() as u64)),
        }
    }

    /// Forgets the buckets that are full again; and if all are in use, the fullest half of them.
    fn make_room(&self, buckets: &mut HashMap<K, Bucket>, now: u64) {
        buckets.retain(|_, bucket| self.filled(Some(bucket), now) < self.rate.burst);
        if buckets.len() >= self.capacity {
            let mut levels: Vec<f64> = buckets.values().map(|bucket| self.filled(Some(bucket), now)).collect();
            levels.sort_by(f64::total_cmp);
            let middle = levels[levels.len() / 2];
            buckets.retain(|_, bucket| self.filled(Some(bucket), now) < middle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 2.0, per_second: 0.5 };

    #[test]
    fn a_burst_is_let_through_and_then_the_rate_holds() {
        let buckets = Buckets::new(RATE, 10);
        assert_eq!([0, 0].map(|now| buckets.take(&"ann", now)), [Ok(()), Ok(())]);
        assert_eq!(buckets.take(&"ann", 0), Err(Duration::from_secs(2)));
        assert_eq!(buckets.take(&"bob", 0), Ok(()));
        assert_eq!(buckets.take(&"ann", 2000), Ok(()));
        assert_eq!(buckets.take(&"ann", 2500), Err(Duration::from_millis(1500)));
        buckets.put_back(&"ann");
        assert_eq!(buckets.take(&"ann", 2500), Ok(()));
    }

    #[test]
    fn many_keys_stay_within_the_capacity() {
        let buckets = Buckets::new(RATE, 10);
        for key in 0..1000 {
            assert_eq!(buckets.take(&key, 0), Ok(()));
        }
        assert!(buckets.buckets.lock().len() <= 10);
    }
}
