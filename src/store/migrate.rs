//! Older tables become newer ones: an ordered list of functions, each from one version to the next.
//!
//! A migration is a copy. Every row of the old generation is shown to the function, which says what
//! stands in the new one; the old rows are not touched, and count until the new ones are complete
//! and durable. A rebuild from an archive of an older version goes through the same functions.

use super::engine::{Engine, EngineError};

/// One step from a version of the tables to the next.
pub struct Migration {
    /// What it does, in a few words.
    pub name: &'static str,
    /// Shows an old row to the new tables. Most rows stay as they are: `new(row)`.
    pub row: Shown,
}

/// Is shown an old row, with all others to look at, and says which rows stand in the new tables.
pub type Shown = fn(old: &Old<'_>, row: Row<'_>, new: &mut dyn FnMut(Row<'_>));

/// A row as bytes.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    /// The name of its table.
    pub table: &'a str,
    /// Its key.
    pub key: &'a [u8],
    /// Its value.
    pub value: &'a [u8],
}

/// The old rows, for a migration that needs more than one at a time.
pub struct Old<'a>(pub(super) &'a Engine);

impl Old<'_> {
    /// The old row at `key`; one that cannot be read is none, and the copy stops when it comes to it.
    pub fn get(&self, table: &str, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(table, key).ok().flatten().map(|value| value.to_vec())
    }
}

/// All migrations, oldest first. The version of the tables is one more than their number.
pub const MIGRATIONS: &[Migration] = &[];

/// The version that a list of migrations leads to.
pub(super) fn version(migrations: &[Migration]) -> u64 {
    migrations.len() as u64 + 1
}

/// Copies all rows of version `from` into `new`, in the next version.
pub(super) fn step(
    migrations: &[Migration],
    from: u64,
    old: &Engine,
    new: &Engine,
    seen: &mut dyn FnMut(u64),
) -> Result<(), EngineError> {
    let index = usize::try_from(from.wrapping_sub(1)).unwrap_or(usize::MAX);
    let migration = migrations
        .get(index)
        .ok_or_else(|| EngineError(format!("the tables are of version {from}, which this program does not know")))?;
    tracing::info!("bringing the store up to date: {}", migration.name);
    let mut count = 0;
    for table in old.tables() {
        for row in old.range(&table, Vec::new(), None) {
            let (key, value) = row?;
            let mut result = Ok(());
            (migration.row)(&Old(old), Row { table: &table, key: &key, value: &value }, &mut |row| {
                if result.is_ok() {
                    result = new.apply(row.table, row.key, Some(row.value));
                }
            });
            result?;
            count += 1;
            if count % 4096 == 0 {
                seen(count);
            }
        }
    }
    Ok(())
}
