//! Sequences: numbers that are handed out once.
//!
//! A block of numbers is reserved by one record of the catalog and then handed out from memory, so a number costs no write. Blocks
//! begin at 32 numbers and double while they are used up, up to 1,024; what is left of a block is a gap after a start, as in
//! PostgreSQL after a crash. Numbers are not taken back when a transaction is rolled back.
//!
//! Called by [`functions`] (`nextval` and its like) and by [`crate::dml`] for columns whose default is a number of a sequence.
//!
//! # Crash safety
//! The record that ends a block is durable before its first number is handed out. See [`crate::catalog::SequenceDef`].

pub mod functions;
pub mod scope;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use logcore::ErrorKind;

use crate::catalog::{CatalogRecord, SequenceDef};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};

/// Numbers of the first block of a sequence after a start.
const BLOCK_MIN: u64 = 32;
/// Numbers of its blocks at most, unless a statement asks for more at once.
const BLOCK_MAX: u64 = 1_024;

/// Numbers that are reserved and not yet handed out.
#[derive(Default)]
struct Numbers {
    first: i64,
    left: u64,
    /// Numbers of the last block.
    size: u64,
}

/// One sequence in memory.
#[derive(Default)]
struct Reserve {
    /// Held while a block is reserved.
    turn: tokio::sync::Mutex<()>,
    numbers: Mutex<Numbers>,
}

impl Reserve {
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().expect("no code panics inside")
    }
}

/// See the module docs.
#[derive(Default)]
pub struct Sequences {
    reserves: Mutex<HashMap<u32, Arc<Reserve>>>,
}

impl Sequences {
    fn reserve(&self, id: u32) -> Arc<Reserve> {
        Arc::clone(self.reserves.lock().expect("no code panics inside").entry(id).or_default())
    }

    /// Forgets sequences that are gone.
    pub(crate) fn retain(&self, known: impl Fn(u32) -> bool) {
        self.reserves.lock().expect("no code panics inside").retain(|id, _| known(*id));
    }
}

fn gone(name: &str) -> Error {
    Error::new(sqlstate::UNDEFINED_TABLE, ErrorKind::NotFound, format!("sequence \"{name}\" was dropped"))
}

fn ended(def: &SequenceDef) -> Error {
    let (which, bound) = if def.increment > 0 { ("maximum", def.max) } else { ("minimum", def.min) };
    let message = format!("nextval: reached {which} value of sequence \"{}\" ({bound})", def.name);
    Error::new(sqlstate::SEQUENCE_GENERATOR_LIMIT_EXCEEDED, ErrorKind::Conflict, message)
        .hint(format!("SELECT setval('{}', ...), or make a sequence with CYCLE", def.name))
}

/// Takes `wanted` numbers out of what is reserved; fewer where there are not so many.
fn take(def: &SequenceDef, numbers: &mut Numbers, wanted: u64, out: &mut Vec<i64>) {
    let count = numbers.left.min(wanted);
    for _ in 0..count {
        out.push(numbers.first);
        numbers.left -= 1;
        // Behind the last number of a block there may be none.
        numbers.first = def.after(numbers.first).unwrap_or(numbers.first);
    }
}

/// The next `wanted` numbers of a sequence if they are reserved already: no write, no waiting.
pub(crate) fn next_reserved(database: &Database, def: &SequenceDef, wanted: u64) -> Option<Vec<i64>> {
    let reserve = database.sequences().reserve(def.id);
    let mut numbers = reserve.numbers();
    let mut out = Vec::new();
    (numbers.left >= wanted).then(|| {
        take(def, &mut numbers, wanted, &mut out);
        out
    })
}

/// The next `wanted` numbers of a sequence.
///
/// # Errors
/// When it has ended, or the record of a block does not become durable.
pub(crate) async fn next(database: &Database, def: &SequenceDef, wanted: u64) -> Result<Vec<i64>> {
    let reserve = database.sequences().reserve(def.id);
    let mut out = Vec::new();
    loop {
        take(def, &mut reserve.numbers(), wanted - out.len() as u64, &mut out);
        let missing = wanted - out.len() as u64;
        if missing == 0 {
            return Ok(out);
        }
        let _turn = reserve.turn.lock().await;
        let size = {
            let numbers = reserve.numbers();
            if numbers.left > 0 {
                continue;
            }
            (numbers.size * 2).clamp(BLOCK_MIN, BLOCK_MAX).max(missing)
        };
        let now = database.catalog().sequence_by_id(def.id).cloned().ok_or_else(|| gone(&def.name))?;
        let block = now.block(size).ok_or_else(|| ended(&now))?;
        database.record(&CatalogRecord::SequenceAdvanced { id: def.id, next: block.next }).await?;
        *reserve.numbers() = Numbers { first: block.first, left: block.count, size };
    }
}

/// Lets a sequence go on with `next`; `None` ends it.
///
/// # Errors
/// When that does not become durable.
pub(crate) async fn set(database: &Database, def: &SequenceDef, next: Option<i64>) -> Result<()> {
    let reserve = database.sequences().reserve(def.id);
    let _turn = reserve.turn.lock().await;
    // Whoever wants a number from here on waits for its turn.
    *reserve.numbers() = Numbers::default();
    database.record(&CatalogRecord::SequenceAdvanced { id: def.id, next }).await?;
    Ok(())
}
