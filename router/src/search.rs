//! Search requests: against the search side of a document table, at a position, answered in whatever form a door has.
//!
//! `POST /v1/search` and the door for Elasticsearch's clients call it; SQL searches by itself, see [`crate::provider::document`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use docstore::{DocumentSnapshot, FoundField, Mapping, SearchRequest, SearchResponse};
use logcore::ErrorKind;

use crate::catalog::{CatalogState, TableDef, TableKind};
use crate::cut;
use crate::database::Database;
use crate::error::{Error, Result, sqlstate};
use crate::position::Cut;
use crate::query::Context;
use crate::sql::rewrite::{TableUse, Uses};
use crate::view::running::{Generation, Part};

/// A committed state of what searches a table, of all its partitions.
struct State {
    snapshots: Vec<DocumentSnapshot>,
    cut: Cut,
    /// Its files stay while this is held.
    generation: Arc<Generation>,
}

/// What can be searched in a table.
pub struct Searchable {
    /// As it was declared.
    pub mapping: Mapping,
    /// What was found in documents besides.
    pub found: Vec<FoundField>,
    /// Documents.
    pub documents: u64,
}

impl Database {
    /// Runs a search request against a document table; `show` makes of the answer what is wanted, where it may take its time.
    ///
    /// # Errors
    /// Unknown tables, tables of another kind, requests the index refuses.
    pub async fn search<T: Send + 'static>(
        &self,
        table: &str,
        request: serde_json::Value,
        wait: &Cut,
        deadline: Instant,
        show: impl FnOnce(SearchResponse) -> Result<T> + Send + 'static,
    ) -> Result<(T, Cut)> {
        let request: SearchRequest = serde_json::from_value(request)
            .map_err(|error| Error::invalid(format!("search request: {error}")).hint("see the HTTP reference, search request"))?;
        self.look(table, wait, deadline, move |snapshots| show(docstore::search::search(snapshots, &request)?)).await
    }

    /// What can be searched in a table, and how many documents it has.
    ///
    /// # Errors
    /// Unknown tables, tables of another kind.
    pub async fn searchable(&self, table: &str, deadline: Instant) -> Result<Searchable> {
        let look = |snapshots: &[DocumentSnapshot]| {
            let mut found: BTreeMap<String, FoundField> = BTreeMap::new();
            for field in
                snapshots.iter().map(DocumentSnapshot::found_fields).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
            {
                match found.get_mut(&field.path) {
                    Some(known) => known.unite(&field),
                    None => drop(found.insert(field.path.clone(), field)),
                }
            }
            let mapping = snapshots.first().map(|snapshot| snapshot.mapping().clone()).unwrap_or_default();
            let documents = snapshots.iter().map(DocumentSnapshot::count).sum();
            Ok(Searchable { mapping, found: found.into_values().collect(), documents })
        };
        Ok(self.look(table, &Cut::new(), deadline, look).await?.0)
    }

    /// Waits until searches of a table see everything that is committed by now.
    ///
    /// # Errors
    /// Unknown tables, tables of another kind, the deadline.
    pub async fn refreshed(&self, table: &str, deadline: Instant) -> Result<()> {
        let def = search_table(&self.catalog(), table)?;
        let view = self.views().get(&def)?;
        for (partition, part) in view.serving().parts.iter().enumerate() {
            let committed = part.task.partition().committed().get();
            view.visible_to(partition, committed, deadline).await.map_err(|error| self.named(error.into()))?;
        }
        Ok(())
    }

    async fn look<T: Send + 'static>(
        &self,
        table: &str,
        wait: &Cut,
        deadline: Instant,
        look: impl FnOnce(&[DocumentSnapshot]) -> Result<T> + Send + 'static,
    ) -> Result<(T, Cut)> {
        let State { snapshots, cut, generation } =
            self.searched(table, wait, deadline).await.map_err(|error| self.named(error))?;
        let looking = self.runtime().spawn_blocking(move || {
            let _held = generation;
            look(&snapshots)
        });
        match tokio::time::timeout_at(deadline.into(), looking).await {
            Ok(Ok(found)) => Ok((found?, cut)),
            Ok(Err(error)) => Err(Error::internal(format!("the search failed: {error}"))),
            Err(_) => Err(Error::new(sqlstate::QUERY_CANCELED, ErrorKind::Unavailable, "the search did not finish in time")),
        }
    }

    async fn searched(&self, table: &str, wait: &Cut, deadline: Instant) -> Result<State> {
        let def = search_table(&self.catalog(), table)?;
        let uses = Uses {
            tables: vec![TableUse { internal: def.name.clone(), name: def.name.clone(), ..TableUse::default() }],
            ..Uses::default()
        };
        let context = Context { params: &[], wait, deadline, transaction: None, numbers: None };
        let chosen = cut::choose(self, &uses, context).await?;
        let generation = Arc::clone(&chosen.generations[0]);
        let snapshot = |part: &Part| chosen.documents.get(&(def.id, part.partition)).cloned();
        let snapshots = generation.parts.iter().map(snapshot).collect::<Option<Vec<_>>>();
        let snapshots = snapshots.ok_or_else(|| Error::internal("each partition of a document table has a state"))?;
        Ok(State { snapshots, cut: chosen.cut, generation })
    }
}

/// What searches a table.
pub(crate) fn search_table(catalog: &CatalogState, table: &str) -> Result<Arc<TableDef>> {
    if catalog.find_table(table).is_none() && catalog.find_stream(table).is_some() {
        let message = format!("\"{table}\" is a stream, search needs a document table");
        let views = catalog.tables().filter(|view| matches!(view.kind, TableKind::Document(_)));
        let of_it = views.filter(|view| catalog.stream_by_id(view.stream()).is_some_and(|stream| stream.name == table));
        let names: Vec<&str> = of_it.map(|view| view.name.as_str()).collect();
        let hint = match &names[..] {
            [] => format!("CREATE TABLE ... USING document WITH (search = '...') FROM STREAM {table}"),
            names => format!("its document tables are {}", names.join(", ")),
        };
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message).hint(hint));
    }
    let def = catalog.table(table)?;
    let def = Arc::clone(catalog.search_side(def.id).unwrap_or(def));
    if !matches!(def.kind, TableKind::Document(_)) {
        let message = format!("table \"{table}\" is a {} table, search needs a document table", def.kind.name());
        return Err(Error::new(sqlstate::WRONG_OBJECT_TYPE, ErrorKind::Invalid, message)
            .hint("CREATE TABLE ... USING document WITH (search = '...') FROM STREAM ..."));
    }
    Ok(def)
}
