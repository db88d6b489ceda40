//! How far each server has got with the outbox: rows, and the same in memory, so that nobody has to look through
//! thousands of servers to find out what may be forgotten.

use std::collections::{BTreeSet, HashMap};

use crate::{
    error::Result,
    store::{
        Position, Store, Write,
        schema::federation::{DIVIDED, OUTBOX, SENT},
    },
};

/// How far a silent server may fall behind the log before what waits for it is no longer kept on the disk.
const LONGEST_WAIT: u64 = 200_000;
/// How many rows are forgotten at once.
const STEP: usize = 500;

/// How far each server has got.
pub struct Progress {
    by_server: HashMap<String, Position>,
    by_position: BTreeSet<(Position, String)>,
    /// Up to where the outbox was divided among servers.
    pub divided: Position,
    /// Up to where the outbox is empty.
    empty: Position,
}

impl Progress {
    /// As it was when the server last ran.
    pub fn load(store: &Store) -> Result<Self> {
        let by_server = store.scan(SENT, &()).collect::<Result<HashMap<String, Position>, _>>()?;
        let by_position = by_server.iter().map(|(server, sent)| (*sent, server.clone())).collect();
        let divided = store.get(DIVIDED, &())?.unwrap_or_default();
        Ok(Self { by_server, by_position, divided, empty: Position(0) })
    }

    /// Up to where a server has got what is for it; nothing for one that waits for nothing.
    pub fn of(&self, server: &str) -> Option<Position> {
        self.by_server.get(server).copied()
    }

    /// Up to where everybody has got what is for them, as far as it was divided.
    pub fn oldest(&self) -> Position {
        self.by_position.first().map_or(self.divided, |(sent, _)| *sent)
    }

    /// A server waits for what comes after a position, unless it waits for something already.
    pub fn begin(&mut self, write: &mut Write, server: &str, from: Position) {
        if !self.by_server.contains_key(server) {
            self.set(write, server, from);
        }
    }

    /// Everything up to here was divided.
    pub fn divide(&mut self, write: &mut Write, at: Position) {
        self.divided = at;
        write.put(DIVIDED, &(), &at);
    }

    /// A server has got everything up to a position, or waits for nothing any more. Those that are too far behind
    /// are not waited for.
    pub fn advance(&mut self, write: &mut Write, server: &str, up_to: Position, is_done: bool) {
        match is_done {
            true => self.remove(write, server),
            false => self.set(write, server, up_to),
        }
        while let Some((sent, server)) = self.by_position.first().cloned()
            && up_to.0.saturating_sub(sent.0) > LONGEST_WAIT
        {
            self.remove(write, &server);
        }
    }

    /// Forgets what nobody waits for.
    pub fn forget(&mut self, write: &mut Write, store: &Store) -> Result<()> {
        let oldest = self.oldest();
        if oldest <= self.empty {
            return Ok(());
        }
        let rows = store.range(OUTBOX, &Position(self.empty.0 + 1), &Position(oldest.0 + 1)).take(STEP);
        let done = rows.map(|row| Ok(row?.0)).collect::<Result<Vec<_>>>()?;
        for at in &done {
            write.delete(OUTBOX, at);
        }
        self.empty = done.last().copied().filter(|_| done.len() == STEP).unwrap_or(oldest);
        Ok(())
    }

    fn set(&mut self, write: &mut Write, server: &str, at: Position) {
        self.remove(write, server);
        self.by_server.insert(server.to_owned(), at);
        self.by_position.insert((at, server.to_owned()));
        write.put(SENT, &server.to_owned(), &at);
    }

    fn remove(&mut self, write: &mut Write, server: &str) {
        if let Some(before) = self.by_server.remove(server) {
            self.by_position.remove(&(before, server.to_owned()));
            write.delete(SENT, &server.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::schema::{UserNo, federation::OutboxRow};

    #[tokio::test]
    async fn what_somebody_waits_for_is_kept() {
        let store = Store::in_memory();
        let mut write = store.write();
        for at in 1..=9 {
            write.put(OUTBOX, &Position(at), &OutboxRow::SigningKeys(UserNo(1)));
        }
        let mut progress = Progress::load(&store).unwrap();
        progress.divide(&mut write, Position(9));
        progress.begin(&mut write, "a", Position(2));
        progress.begin(&mut write, "b", Position(4));
        progress.begin(&mut write, "a", Position(6));
        assert_eq!((progress.of("a"), progress.oldest()), (Some(Position(2)), Position(2)));
        progress.advance(&mut write, "a", Position(5), false);
        assert_eq!(progress.oldest(), Position(4));
        write.commit().unwrap().published().await.unwrap();
        let mut write = store.write();
        progress.forget(&mut write, &store).unwrap();
        write.commit().unwrap().published().await.unwrap();
        let left: Vec<_> = store.scan(OUTBOX, &()).map(|row| row.unwrap().0.0).collect();
        assert_eq!(left, [5, 6, 7, 8, 9]);
        let again = Progress::load(&store).unwrap();
        assert_eq!((again.of("a"), again.of("b"), again.divided), (progress.of("a"), progress.of("b"), Position(9)));
    }

    #[test]
    fn who_is_too_far_behind_is_not_waited_for() {
        let store = Store::in_memory();
        let (mut write, mut progress) = (store.write(), Progress::load(&store).unwrap());
        progress.begin(&mut write, "gone", Position(1));
        progress.begin(&mut write, "there", Position(1));
        progress.advance(&mut write, "there", Position(LONGEST_WAIT + 2), false);
        assert_eq!((progress.of("gone"), progress.oldest()), (None, Position(LONGEST_WAIT + 2)));
    }
}
