//! How long to leave a server alone that did not answer.
//!
//! Shared by everybody who asks other servers, and remembered over restarts, so that a server that is gone
//! costs nothing. One good answer, or any request from that server, ends it.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use ruma::ServerName;
use tokio::sync::Notify;

use crate::{
    error::Result,
    store::{
        Store,
        schema::federation::{BACK_OFF, BackOffRow},
    },
};

/// The first pause, in milliseconds.
const FIRST: u64 = 5_000;
/// The longest pause, in milliseconds.
const LONGEST: u64 = 6 * 3_600_000;
/// How many servers are remembered at once. Whoever makes up names pushes out other such names: those that would be
/// asked again first, which are not those that have been silent for long.
const MOST_SERVERS: usize = 20_000;

/// Which servers are being left alone.
pub struct BackOff {
    store: Store,
    rows: Mutex<HashMap<String, BackOffRow>>,
    returned: Notify,
}

impl BackOff {
    /// As it was when the server last ran.
    pub fn load(store: &Store) -> Result<Self> {
        let rows = store.scan(BACK_OFF, &()).take(MOST_SERVERS).collect::<Result<_, _>>()?;
        Ok(Self { store: store.clone(), rows: Mutex::new(rows), returned: Notify::new() })
    }

    /// When to ask a server again, if not now. Times are milliseconds since the epoch.
    pub fn until(&self, server: &ServerName, now: u64) -> Option<u64> {
        self.rows.lock().get(server.as_str()).map(|row| row.retry).filter(|retry| *retry > now)
    }

    /// Notes that a server did not answer. `jitter` is any random number: not everybody comes back at once; `wanted` is
    /// how long it wants to be left alone. Returns whether it had answered before.
    pub fn failed(&self, server: &ServerName, now: u64, jitter: u64, wanted: Duration) -> Result<bool> {
        let mut rows = self.rows.lock();
        let mut write = self.store.write();
        if rows.len() >= MOST_SERVERS
            && !rows.contains_key(server.as_str())
            && let Some(next) = rows.iter().min_by_key(|(_, row)| row.retry).map(|(next, _)| next.clone())
        {
            rows.remove(&next);
            write.delete(BACK_OFF, &next);
        }
        let row = rows.entry(server.as_str().to_owned()).or_insert(BackOffRow { since: now, failures: 0, retry: 0 });
        // Requests that failed together count once.
        if row.retry > now {
            return Ok(false);
        }
        row.failures = row.failures.saturating_add(1);
        let wanted = u64::try_from(wanted.as_millis()).unwrap_or(LONGEST).min(LONGEST);
        row.retry = now + pause(row.failures, jitter).max(wanted);
        let is_first = row.failures == 1;
        write.put(BACK_OFF, &server.as_str().to_owned(), row);
        drop(write.commit()?);
        Ok(is_first)
    }

    /// Notes that a server is there.
    pub fn answered(&self, server: &ServerName) -> Result<()> {
        let mut rows = self.rows.lock();
        if rows.remove(server.as_str()).is_some() {
            let mut write = self.store.write();
            write.delete(BACK_OFF, &server.as_str().to_owned());
            drop(write.commit()?);
            self.returned.notify_waiters();
        }
        Ok(())
    }

    /// Told whenever a server that was left alone has shown itself.
    pub fn returned(&self) -> &Notify {
        &self.returned
    }
}

/// The pause after this many failures in a row, in milliseconds: doubled each time, give or take a tenth.
pub fn pause(failures: u32, jitter: u64) -> u64 {
    let pause = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(20)).min(LONGEST);
    pause - pause / 10 + jitter % (pause / 5)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        assert!((4_500..5_500).contains(&pause(1, 777)));
        assert!((9_000..11_000).contains(&pause(2, 777)));
        assert!(pause(1_000, u64::MAX) <= LONGEST + LONGEST / 10);
    }

    #[test]
    fn a_server_is_left_alone_as_long_as_it_wants() {
        let back_off = BackOff::load(&Store::in_memory()).unwrap();
        let server = server_name!("busy.example");
        back_off.failed(server, 1_000, 0, Duration::from_secs(60)).unwrap();
        assert_eq!(back_off.until(server, 1_000), Some(61_000));
    }

    #[test]
    fn made_up_names_push_out_each_other_and_no_server_that_is_silent_for_long() {
        let back_off = BackOff::load(&Store::in_memory()).unwrap();
        let rows = (0..MOST_SERVERS as u64).map(|n| {
            let retry = if n == 7 { 900_000 } else { 2_000 + n };
            (format!("{n}.example"), BackOffRow { since: 0, failures: 1, retry })
        });
        back_off.rows.lock().extend(rows);
        assert!(back_off.failed(server_name!("new.example"), 1_000, 0, Duration::ZERO).unwrap());
        assert_eq!(back_off.rows.lock().len(), MOST_SERVERS);
        assert!(back_off.until(server_name!("new.example"), 1_000).is_some());
        assert!(back_off.until(server_name!("7.example"), 1_000).is_some());
        assert!(back_off.until(server_name!("0.example"), 1_000).is_none());
    }

    #[test]
    fn a_silent_server_is_left_alone_also_after_a_restart() {
        let store = Store::in_memory();
        let server = server_name!("gone.example");
        let back_off = BackOff::load(&store).unwrap();
        assert!(back_off.failed(server, 1_000, 0, Duration::ZERO).unwrap());
        assert!(!back_off.failed(server, 1_001, 0, Duration::ZERO).unwrap());
        let until = back_off.until(server, 1_000).unwrap();
        let back_off = BackOff::load(&store).unwrap();
        assert_eq!(back_off.until(server, 1_000), Some(until));
        assert_eq!(back_off.until(server, until), None);
        back_off.answered(server).unwrap();
        assert_eq!(BackOff::load(&store).unwrap().until(server, 1_000), None);
    }
}
