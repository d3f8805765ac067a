//! Taking out old versions of rows that a table's `history` option does not keep.
//!
//! A tree that is read loses nothing. Instead the rows as they are at a watermark are copied into a new folder at a bounded
//! rate, the copy becomes the table's next generation, catches up from the log, and takes the serving one's place just as after
//! a rebuild ([`super::rebuild`]). `docs/adr/0011` says why.
//!
//! Begun by `VACUUM`, and by [`keep_histories`] for tables that have doubled since they were copied last.
//!
//! # Invariants
//! - The watermark is not above what the option keeps, what readers have seen, and where any open transaction reads.
//! - No read below the watermark finds less than there was: it is refused ([`refuse`]).
//!
//! # Crash safety
//! A copy lies in a folder that no definition names until it is whole and durable; it then gets its generation's name, and a
//! catalog record makes it the generation that is being built. A stop before that record leaves a folder that the next start
//! removes, one behind it a rebuild that goes on from the watermark.
//!
//! # Concurrency
//! One vacuum of a table at a time. Definitions may change while rows are copied: what does not fit them is thrown away.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use logcore::sys::{clock, fs};
use logcore::{ErrorKind, Hold, Holder, Offset, TimestampMillis};
use rowstore::vacuum::Copying;

use super::rebuild;
use super::running::{Generation, Part, Store, View};
use crate::append::blocking;
use crate::catalog::{CatalogRecord, History, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::txn::Transaction;

/// Rows and entries copied between two looks at the clock.
const STEP_ITEMS: usize = 2_000;
/// A table grows by this many versions before it is copied by itself.
const GROWTH_MIN: u64 = 50_000;
/// How often it is looked whether the copy serves.
const SWAP_STEP: Duration = Duration::from_millis(10);

/// What vacuums of a database share.
#[derive(Default)]
pub struct Vacuums {
    running: Mutex<BTreeSet<u32>>,
    transactions: Mutex<Vec<Weak<Transaction>>>,
}

/// A table that is being vacuumed; dropped when that ends, however it ends.
struct Running<'a> {
    all: &'a Vacuums,
    table: u32,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.all.running.lock().expect("no code panics inside").remove(&self.table);
    }
}

/// Keeps the records from the watermark on until the copy holds them itself.
struct Held(Offset);

impl Holder for Held {
    fn needed_from(&self) -> Option<Offset> {
        Some(self.0)
    }
}

impl Vacuums {
    /// Notes a transaction that is open over several statements: what it reads stays.
    pub fn note(&self, transaction: &Arc<Transaction>) {
        let mut open = self.transactions.lock().expect("no code panics inside");
        open.retain(|other| other.strong_count() > 0);
        open.push(Arc::downgrade(transaction));
    }

    /// The oldest offset that an open transaction reads a partition at.
    fn oldest(&self, stream: &str, partition: u32) -> Option<Offset> {
        let open = self.transactions.lock().expect("no code panics inside");
        open.iter().filter_map(|open| open.upgrade()?.cut().end(stream, partition)).min()
    }

    fn begin(&self, table: u32) -> Option<Running<'_>> {
        self.running.lock().expect("no code panics inside").insert(table).then_some(Running { all: self, table })
    }
}

/// Refuses a read of a table below what it keeps. `past` is the statement's own wish, else a transaction reads there.
///
/// # Errors
/// Naming the oldest state that can be read.
pub fn refuse(def: &TableDef, stream: &str, part: &Part, end: Offset, past: bool) -> Result<()> {
    let kept = part.kept_from();
    if end >= kept {
        return Ok(());
    }
    let (name, partition) = (&def.name, part.partition);
    let oldest = kept.before().unwrap_or_default();
    if !past {
        let message = format!("the transaction began before what table \"{name}\" keeps: {stream}/{partition}@{oldest}");
        return Err(Error::new(sqlstate::SERIALIZATION_FAILURE, ErrorKind::Conflict, message).hint("run it again"));
    }
    let message = match end.before() {
        Some(last) => {
            format!("table \"{name}\" can be read back to {stream}/{partition}@{oldest}, not to {stream}/{partition}@{last}")
        }
        None => format!("table \"{name}\" can be read back to {stream}/{partition}@{oldest}, not to the beginning"),
    };
    Err(Error::new(sqlstate::SNAPSHOT_TOO_OLD, ErrorKind::Invalid, message).hint(format!(
        "ALTER TABLE {name} SET (history = ...) keeps more from now on; REBUILD VIEW {name} reads all of the log again"
    )))
}

/// Vacuums a table; gives the generation that then serves, or `None` when there was nothing to take out.
///
/// # Errors
/// When it is being vacuumed or rebuilt already, when its definition changes meanwhile, when files can't be read or written.
pub async fn run(database: &Database, table: u32) -> Result<Option<u64>> {
    let Some(_running) = database.vacuums().begin(table) else {
        return Err(busy(&format!("table {table} is being vacuumed already")));
    };
    let catalog = database.catalog();
    let Some(def) = catalog.table_by_id(table).cloned() else { return Ok(None) };
    let (Some(history), TableKind::Row(schema)) = (def.history, &def.kind) else { return Ok(None) };
    let view = database.views().get(&def)?;
    if let Some(building) = view.building() {
        return Err(busy(&format!("table \"{}\" is being rebuilt, as generation {}", def.name, building.number)));
    }
    let serving = view.serving();
    let Some((marks, _held)) = watermarks(database, &view, &serving, history).await? else { return Ok(None) };
    let indexes: Vec<u32> = schema.indexes.iter().map(|index| index.id).collect();
    let folder = database.views().dir(table);
    let aside = folder.join("vacuum");
    remove(&aside).await?;
    let copied = copy(database, &folder, &aside, &serving, (&marks, &indexes)).await;
    drop(serving);
    let began = match copied {
        Ok(()) => take_place(database, &view, (&folder, &aside), &indexes).await,
        Err(error) => Err(error),
    };
    if began.is_err() {
        remove(&aside).await?;
    }
    let number = began?;
    wait_until_serving(database, &view, number).await.map(Some)
}

fn busy(message: &str) -> Error {
    Error::new(sqlstate::OBJECT_IN_USE, ErrorKind::Conflict, message).hint("see SHOW VIEWS for its progress")
}

async fn remove(folder: &Path) -> Result<()> {
    let folder = folder.to_owned();
    blocking(move || Ok(fs::remove_dir(&folder)?)).await
}

/// For each partition the offset below which old versions go, and what keeps the records from there on; `None` when nothing
/// would go, or when the log no longer has them.
async fn watermarks(
    database: &Database,
    view: &View,
    serving: &Arc<Generation>,
    history: History,
) -> Result<Option<(Vec<Offset>, Vec<Arc<dyn Holder>>)>> {
    let (mut marks, mut held, mut gains) = (Vec::new(), Vec::new(), false);
    for part in &serving.parts {
        let Store::Row(rows) = &part.store else { return Ok(None) };
        let (visible, log) = (part.task.visible(), Arc::clone(part.task.partition()));
        let kept = match history {
            History::Records(records) => Offset::new(visible.value().saturating_sub(records)),
            History::AgeMs(millis) => {
                let log = Arc::clone(&log);
                let since = clock::now().value().saturating_sub_unsigned(millis);
                blocking(move || Ok(log.offset_at(TimestampMillis::new(since))?)).await?
            }
        };
        let pinned = database.vacuums().oldest(&view.stream.name, part.partition);
        let mark = kept.min(visible).min(pinned.unwrap_or(visible)).max(rows.kept_from());
        let holder: Arc<dyn Holder> = Arc::new(Held(mark));
        log.hold(Hold::View, Arc::downgrade(&holder));
        if mark < log.log_start() {
            return Ok(None);
        }
        gains |= mark > rows.kept_from();
        marks.push(mark);
        held.push(holder);
    }
    Ok(gains.then_some((marks, held)))
}

async fn copy(
    database: &Database,
    folder: &Path,
    aside: &Path,
    serving: &Arc<Generation>,
    (marks, indexes): (&[Offset], &[u32]),
) -> Result<()> {
    let rate = database.options().vacuum_rows_per_second_max;
    for (part, mark) in serving.parts.iter().zip(marks) {
        let Store::Row(rows) = &part.store else { continue };
        let number = part.partition.to_string();
        let (from, to): (PathBuf, PathBuf) = (folder.join(serving.number.to_string()).join(&number), aside.join(&number));
        let (rows, indexes, mark, options) = (rows.clone(), indexes.to_vec(), *mark, database.views().row_options().clone());
        let mut copying = blocking(move || {
            fs::create_dir(&to)?;
            // What was left out stays known.
            if let Some(letters) = fs::read(&from.join("dead_letters.ndjson"))? {
                fs::write_atomic(&to.join("dead_letters.ndjson"), &letters)?;
            }
            // At offset 0 there is nothing yet: an empty folder is such a table.
            (mark > Offset::ZERO).then(|| Copying::begin(&rows, &indexes, mark, &to, &options)).transpose().map_err(Error::from)
        })
        .await?;
        while let Some(mut under_way) = copying.take() {
            let began = clock::monotonic();
            copying = blocking(move || match under_way.step(STEP_ITEMS)? {
                true => Ok(Some(under_way)),
                false => under_way.finish().map(|_| None).map_err(Error::from),
            })
            .await?;
            let least = Duration::from_micros((STEP_ITEMS as u64 * 1_000_000).checked_div(rate).unwrap_or(0));
            tokio::time::sleep(least.saturating_sub(began.elapsed())).await;
        }
    }
    Ok(())
}

/// Makes the copy the generation that is being built, if the table is still what was copied; gives its number.
async fn take_place(database: &Database, view: &Arc<View>, (folder, aside): (&Path, &Path), indexes: &[u32]) -> Result<u64> {
    let _ddl = database.ddl_lock().await;
    let catalog = database.catalog();
    let changed = || busy(&format!("table \"{}\" was changed while it was vacuumed", view.name()));
    let def = catalog.table_by_id(view.id).ok_or_else(changed)?;
    let same =
        matches!(&def.kind, TableKind::Row(schema) if schema.indexes.iter().map(|index| index.id).eq(indexes.iter().copied()));
    if !same || view.building().is_some() {
        return Err(changed());
    }
    let number = def.newest + 1;
    let (from, to) = (aside.to_owned(), folder.join(number.to_string()));
    let place = to.clone();
    blocking(move || {
        // A rebuild that failed may have left a folder of this number behind.
        fs::remove_dir(&place)?;
        Ok(fs::rename_dir(&from, &place)?)
    })
    .await?;
    if let Err(error) = database.record(&CatalogRecord::RebuildStarted { id: view.id, generation: number }).await {
        remove(&to).await?;
        return Err(error);
    }
    rebuild::begin(database, Arc::clone(view), number).await?;
    Ok(number)
}

async fn wait_until_serving(database: &Database, view: &View, number: u64) -> Result<u64> {
    loop {
        // In this order: a generation stops being built and serves in one step.
        let building = view.building().is_some();
        let serving = view.serving().number;
        if serving >= number {
            return Ok(serving);
        }
        if !building || database.catalog().table_by_id(view.id).is_none() {
            return Err(busy(&format!("the new generation of table \"{}\" stopped; the old one goes on serving", view.name())));
        }
        tokio::time::sleep(SWAP_STEP).await;
    }
}

/// Whether a table has grown so much since it was copied last that copying it again is worth the work.
fn has_grown(generation: &Generation) -> bool {
    let parts = generation.parts.iter().filter_map(|part| match &part.store {
        Store::Row(rows) => Some(rows.versions_kept()),
        _ => None,
    });
    let (began, now) = parts.fold((0_u64, 0_u64), |(began, now), (a, b)| (began + a, now + b));
    now >= began.saturating_mul(2).saturating_add(GROWTH_MIN)
}

/// Vacuums the tables that have grown enough, one after the other.
pub async fn keep_histories(database: &Database) {
    let catalog = database.catalog();
    for def in catalog.tables().filter(|def| def.history.is_some()) {
        let Ok(view) = database.views().get(def) else { continue };
        if view.building().is_some() || !has_grown(&view.serving()) {
            continue;
        }
        match run(database, def.id).await {
            Ok(Some(generation)) => tracing::info!(table = def.name, generation, "old versions were taken out"),
            Ok(None) => {}
            Err(error) => tracing::warn!(table = def.name, %error, "old versions stay for now; it is tried again"),
        }
    }
}
