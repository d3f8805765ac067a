//! Saved searches and what they find: each new version of a document is matched against all searches of its table.
//!
//! A search is a record of the catalog. What it finds is not kept anywhere: like a change feed it follows from the records of the log
//! and the searches of now, from any offset. So each version is found exactly once by whoever goes on at the offset behind the last one
//! he saw, across restarts, and a search can be tried on what was written long before it.
//!
//! # Invariants
//! - Matches of one partition come in the order of their offsets, each version at most once, with all searches that find it.
//! - Memory is bounded by one read of the log and one page.

use std::sync::Arc;
use std::time::Instant;

use docstore::percolate::DOCUMENTS_MAX;
use docstore::{Percolator, Query, SourceDocument};
use logcore::frame::{Frame, FrameKind};
use logcore::materialize::Rejects;
use logcore::{Batch, ErrorKind, Offset, Partition, TimestampMillis};

use crate::answer::{ReadFrom, ReadLimits};
use crate::append::blocking;
use crate::catalog::{CatalogRecord, CatalogState, SavedSearch, TableDef, TableKind};
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::search::search_table;

/// Read from the log at once.
const READ_BYTES: usize = 1 << 20;
/// Records that a page looks at, at most.
const PAGE_RECORDS_MAX: u64 = 100_000;
/// Searches of one table.
const SEARCHES_MAX: usize = 1_000;
/// The JSON of one search.
const QUERY_BYTES_MAX: usize = 64 << 10;
const NAME_BYTES_MAX: usize = 255;

/// A version of a document that saved searches find.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// The offset of the record that wrote it.
    pub offset: u64,
    /// The document's id.
    pub id: String,
    /// The searches that find it, by name.
    pub searches: Vec<String>,
    /// The document, byte for byte.
    pub json: Vec<u8>,
}

/// Matches, page by page.
#[derive(Clone, Debug)]
pub struct MatchesPage {
    /// The stream whose offsets these are.
    pub stream: String,
    /// Its partition.
    pub partition: u32,
    /// In the order of their offsets.
    pub matches: Vec<Match>,
    /// Where the next page goes on.
    pub next_offset: u64,
}

fn unknown_search(table: &str, name: &str) -> Error {
    let message = format!("no search \"{name}\" is saved for table \"{table}\"");
    Error::new(sqlstate::UNDEFINED_OBJECT, ErrorKind::NotFound, message)
}

impl Database {
    /// Saves a search of a document table, instead of the one of that name.
    ///
    /// # Errors
    /// Unknown tables, tables of another kind, queries the index refuses, too many or too long ones.
    pub async fn save_search(&self, table: &str, name: &str, query: serde_json::Value) -> Result<Cut> {
        self.try_save(table, name, query).await.map_err(|error| self.named(error))
    }

    async fn try_save(&self, table: &str, name: &str, query: serde_json::Value) -> Result<Cut> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(Error::invalid(format!("the name of a saved search has 1 to {NAME_BYTES_MAX} bytes, all printable")));
        }
        let bytes = query.to_string().len();
        if bytes > QUERY_BYTES_MAX {
            let message = format!("the search has {bytes} bytes, the limit is {QUERY_BYTES_MAX}");
            return Err(Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, ErrorKind::TooLarge, message));
        }
        let _ddl = self.ddl_lock().await;
        let catalog = self.catalog();
        let (table, mapping) = mapped(&catalog, table)?;
        let others = catalog.saved_searches(table.id).filter(|search| search.name != name).count();
        if others >= SEARCHES_MAX {
            let message = format!("{SEARCHES_MAX} searches are saved for table \"{}\": no more are taken", table.name);
            return Err(
                Error::new(sqlstate::PROGRAM_LIMIT_EXCEEDED, ErrorKind::TooLarge, message).hint("delete those that nobody needs")
            );
        }
        let parsed = parse(&query)?;
        let searches = vec![(name.to_owned(), parsed)];
        blocking(move || Ok(Percolator::new(mapping, searches).map(drop)?)).await?;
        let search = SavedSearch { table: table.id, name: name.to_owned(), query };
        self.record(&CatalogRecord::SearchSaved(search)).await
    }

    /// Forgets a saved search.
    ///
    /// # Errors
    /// Unknown tables and searches.
    pub async fn drop_search(&self, table: &str, name: &str) -> Result<Cut> {
        let _ddl = self.ddl_lock().await;
        let search = self.saved_search(table, name)?;
        self.record(&CatalogRecord::SearchDropped { table: search.table, name: search.name.clone() }).await
    }

    /// The searches saved for a table, by name.
    ///
    /// # Errors
    /// Unknown tables, tables of another kind.
    pub fn saved_searches(&self, table: &str) -> Result<Vec<Arc<SavedSearch>>> {
        let catalog = self.catalog();
        let (table, _) = mapped(&catalog, table)?;
        Ok(catalog.saved_searches(table.id).cloned().collect())
    }

    /// One of them.
    ///
    /// # Errors
    /// Unknown tables and searches, tables of another kind.
    pub fn saved_search(&self, table: &str, name: &str) -> Result<Arc<SavedSearch>> {
        let found = self.saved_searches(table)?.into_iter().find(|search| search.name == name);
        found.ok_or_else(|| unknown_search(table, name))
    }

    /// A page of what the searches saved for a table find in one partition of its stream; of one search where `only` names it. A page may
    /// be empty though there is more to come: the next goes on at its `next_offset`.
    ///
    /// # Errors
    /// Unknown tables, searches and partitions, tables of another kind, offsets that are not kept or beyond the end.
    pub async fn matches(
        &self,
        table: &str,
        partition: u32,
        from: ReadFrom,
        only: Option<&str>,
        limits: ReadLimits,
    ) -> Result<MatchesPage> {
        self.try_matches(table, partition, from, only, limits).await.map_err(|error| self.named(error))
    }

    async fn try_matches(
        &self,
        table: &str,
        partition: u32,
        from: ReadFrom,
        only: Option<&str>,
        limits: ReadLimits,
    ) -> Result<MatchesPage> {
        let mut next = from;
        loop {
            let page = self.matches_page(table, partition, next, only, limits).await?;
            let Some(wait_until) = limits.wait_until.filter(|_| page.0.matches.is_empty()) else { return Ok(page.0) };
            next = ReadFrom::Offset(page.0.next_offset);
            let more = Offset::new(page.0.next_offset).advance(1);
            if !page.1.committed().reached(more, wait_until).await || Instant::now() >= wait_until {
                return Ok(page.0);
            }
        }
    }

    async fn matches_page(
        &self,
        table: &str,
        partition: u32,
        from: ReadFrom,
        only: Option<&str>,
        limits: ReadLimits,
    ) -> Result<(MatchesPage, Arc<Partition>)> {
        let catalog = self.catalog();
        let (def, mapping) = mapped(&catalog, table)?;
        let mut searches = Vec::new();
        for search in catalog.saved_searches(def.id).filter(|search| only.is_none_or(|only| only == search.name)) {
            searches.push((search.name.clone(), parse(&search.query)?));
        }
        if let (Some(only), true) = (only, searches.is_empty()) {
            return Err(unknown_search(table, only));
        }
        let searched = search_table(&catalog, table)?;
        let view = self.views().get(&searched)?;
        let serving = view.serving();
        let Some(part) = serving.parts.get(partition as usize) else {
            let message = format!("stream \"{}\" of table \"{table}\" has no partition {partition}", view.stream.name);
            return Err(Error::new(sqlstate::UNDEFINED_TABLE, ErrorKind::NotFound, message));
        };
        let log = Arc::clone(part.task.partition());
        let mut projection = self.views().documents(&searched, &mapping, &view.stream, partition).await?;
        let (stream, held) = (view.stream.name.clone(), Arc::clone(&log));
        let page = blocking(move || {
            let (start, end) = (log.log_start(), log.committed().get());
            let from = match from {
                ReadFrom::Offset(offset) => Offset::new(offset),
                ReadFrom::Timestamp(millis) => log.offset_at(TimestampMillis::new(millis))?.max(start),
                ReadFrom::Earliest => start,
                ReadFrom::Latest => end,
            };
            if from < start || from > end {
                let message = format!("offset {from} is not in {stream}/{partition}, which goes from {start} to {end}");
                return Err(Error::invalid(message).hint("begin at earliest, latest or between them"));
            }
            let percolator = Percolator::of_saved(mapping, searches);
            let mut page = MatchesPage { stream, partition, matches: Vec::new(), next_offset: from.value() };
            let (mut next, mut bytes, until) = (from, 0, from.advance(PAGE_RECORDS_MAX).min(end));
            while next < until {
                let frames = log.read(next, READ_BYTES)?;
                let Some(read_to) = frames.last().map(Frame::end_offset) else { break };
                // Those of many small frames are looked at together.
                let mut documents = Vec::new();
                for frame in frames.iter().filter(|frame| frame.header.kind == FrameKind::Batch) {
                    let batch = Batch::open(&frame.body)?;
                    // What the projection leaves out the table has left out, too, and has said so.
                    let projected = projection.project(&batch, next, &mut Rejects::default());
                    let projected = projected.map_err(|error| Error::internal(format!("reading documents: {error}")))?;
                    documents.extend(projected.into_iter().filter(|document| document.offset >= next));
                }
                for found in found(&percolator, documents)? {
                    page.next_offset = found.offset + 1;
                    bytes += found.json.len();
                    page.matches.push(found);
                    if page.matches.len() >= limits.records || bytes >= limits.bytes {
                        return Ok(page);
                    }
                }
                next = read_to;
                page.next_offset = next.value();
            }
            Ok(page)
        });
        Ok((page.await?, held))
    }
}

/// Those of the documents that any search finds.
fn found(percolator: &Percolator, documents: Vec<SourceDocument>) -> Result<Vec<Match>> {
    let mut all = Vec::new();
    let mut versions =
        documents.into_iter().filter_map(|SourceDocument { offset, id, json, .. }| Some((offset, id, json?))).peekable();
    while versions.peek().is_some() {
        let chunk: Vec<_> = versions.by_ref().take(DOCUMENTS_MAX).collect();
        let borrowed: Vec<(&str, &[u8])> = chunk.iter().map(|(_, id, json)| (id.as_str(), json.as_slice())).collect();
        let names = percolator.matches(&borrowed)?;
        let searches: Vec<Vec<String>> = names.into_iter().map(|names| names.into_iter().map(str::to_owned).collect()).collect();
        for ((offset, id, json), searches) in chunk.into_iter().zip(searches).filter(|(_, searches)| !searches.is_empty()) {
            all.push(Match { offset: offset.value(), id, searches, json });
        }
    }
    Ok(all)
}

fn parse(query: &serde_json::Value) -> Result<Query> {
    serde_json::from_value(query.clone()).map_err(|error| Error::invalid(format!("query: {error}")))
}

/// A document table, and what is searched in it.
fn mapped(catalog: &CatalogState, table: &str) -> Result<(Arc<TableDef>, docstore::Mapping)> {
    let searched = search_table(catalog, table)?;
    let TableKind::Document(mapping) = &searched.kind else { return Err(Error::internal("what is searched has a mapping")) };
    Ok((Arc::clone(catalog.table(table)?), mapping.clone()))
}
