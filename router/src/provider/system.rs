//! The definitions as tables: `information_schema`, and of `pg_catalog` what tools ask for first.
//!
//! Made from the catalog's state when a statement names one of them; [`crate::session`] registers the schemas.
//!
//! # Not done
//! Streams and the views of streams are all base tables here: the standard has no word for them. `SHOW STREAMS`, `SHOW TABLES` and
//! `SHOW VIEWS` know more.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{Field, SchemaRef};
use datafusion::catalog::{MemTable, SchemaProvider, TableProvider};
use datafusion::common::{DataFusionError, Result};
use docstore::DocumentSnapshot;

use super::stream::STREAM_SCHEMA;
use crate::catalog::{CatalogState, TableKind};
use crate::error::Error;
use crate::render;

/// The one database of a server, by the name clients see.
const DATABASE: &str = "headwater";
/// The schema of everything that somebody made.
const SCHEMA: &str = "public";
/// The ids of relations in `pg_class` begin here: streams, then tables, then named queries.
const OID_STREAMS: i64 = 100_000;
const OID_TABLES: i64 = 1_000_000;
const OID_QUERIES: i64 = 2_000_000;

const INFORMATION_SCHEMA: [&str; 6] = ["schemata", "tables", "columns", "views", "table_constraints", "key_column_usage"];
const PG_CATALOG: [&str; 5] = ["pg_namespace", "pg_class", "pg_tables", "pg_views", "pg_database"];

/// One of the two schemas.
#[derive(Debug)]
pub struct SystemSchema {
    name: &'static str,
    catalog: Arc<CatalogState>,
}

/// A relation that somebody made.
struct Relation {
    oid: i64,
    name: String,
    columns: Vec<Column>,
    /// Positions of the primary key's columns.
    key: Vec<usize>,
    /// The SELECT of a named query.
    query: Option<String>,
}

struct Column {
    name: String,
    kind: String,
    nullable: bool,
    default: Option<String>,
}

impl SystemSchema {
    /// `information_schema` or `pg_catalog` over these definitions.
    #[must_use]
    pub fn new(name: &'static str, catalog: Arc<CatalogState>) -> Self {
        Self { name, catalog }
    }

    fn relations(&self) -> Vec<Relation> {
        let fields = |schema: &SchemaRef| {
            let column = |field: &Arc<Field>| Column {
                name: field.name().clone(),
                kind: render::type_name(field),
                nullable: field.is_nullable(),
                default: None,
            };
            schema.fields().iter().map(column).collect::<Vec<_>>()
        };
        let streams = self.catalog.streams().filter(|stream| !stream.is_internal()).map(|stream| Relation {
            oid: OID_STREAMS + i64::from(stream.id),
            name: stream.name.clone(),
            columns: fields(&STREAM_SCHEMA),
            key: vec![],
            query: None,
        });
        let tables = self.catalog.tables().map(|table| {
            let kind = self.catalog.search_side(table.id).map_or(&table.kind, |beside| &beside.kind);
            let (mut columns, key, defaults) = match kind {
                TableKind::Row(schema) => (fields(&schema.arrow()), schema.primary_key.clone(), Some(schema)),
                TableKind::Series(series) => (fields(&series.columns.arrow()), vec![], None),
                TableKind::Document(mapping) => (fields(&DocumentSnapshot::schema(mapping)), vec![], None),
            };
            for (column, of) in columns.iter_mut().zip(defaults.iter().flat_map(|schema| &schema.columns)) {
                column.default.clone_from(&of.default);
            }
            Relation { oid: OID_TABLES + i64::from(table.id), name: table.name.clone(), columns, key, query: None }
        });
        let queries = self.catalog.queries().enumerate().map(|(at, query)| {
            let columns = query.columns.iter().map(|column| Column {
                name: column.name.clone(),
                kind: column.kind.clone(),
                nullable: true,
                default: None,
            });
            Relation {
                oid: OID_QUERIES + i64::try_from(at).unwrap_or_default(),
                name: query.name.clone(),
                columns: columns.collect(),
                key: vec![],
                query: Some(query.query.clone()),
            }
        });
        let mut relations: Vec<Relation> = streams.chain(tables).chain(queries).collect();
        relations.sort_by(|a, b| a.name.cmp(&b.name));
        relations
    }

    fn batch(&self, name: &str) -> Option<Result<RecordBatch>> {
        let relations = self.relations();
        let columns = match (self.name, name) {
            ("information_schema", "schemata") => schemata(),
            ("information_schema", "tables") => tables(&relations),
            ("information_schema", "columns") => columns(&relations),
            ("information_schema", "views") => {
                views(&relations, ["table_catalog", "table_schema", "table_name", "view_definition"])
            }
            ("information_schema", "table_constraints") => constraints(&relations),
            ("information_schema", "key_column_usage") => key_columns(&relations),
            ("pg_catalog", "pg_namespace") => namespaces(),
            ("pg_catalog", "pg_class") => classes(&relations),
            ("pg_catalog", "pg_tables") => pg_tables(&relations),
            ("pg_catalog", "pg_views") => views(&relations, ["", "schemaname", "viewname", "definition"]),
            ("pg_catalog", "pg_database") => vec![("oid", numbers([1])), ("datname", texts([Some(DATABASE)]))],
            _ => return None,
        };
        let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
        Some(batch.map_err(DataFusionError::from))
    }
}

type Columns = Vec<(&'static str, ArrayRef)>;

fn texts<T: AsRef<str>>(values: impl IntoIterator<Item = Option<T>>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<StringArray>())
}

fn numbers(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(values.into_iter().collect::<Int64Array>())
}

fn ordinals(values: impl IntoIterator<Item = Option<usize>>) -> ArrayRef {
    let ordinal = |value: usize| i32::try_from(value).unwrap_or(i32::MAX);
    Arc::new(values.into_iter().map(|value| value.map(ordinal)).collect::<Int32Array>())
}

fn same(value: &'static str, rows: usize) -> ArrayRef {
    texts(std::iter::repeat_n(Some(value), rows))
}

fn schemata() -> Columns {
    let names = ["information_schema", "pg_catalog", SCHEMA];
    vec![
        ("catalog_name", same(DATABASE, names.len())),
        ("schema_name", texts(names.map(Some))),
        ("schema_owner", same(DATABASE, names.len())),
    ]
}

fn tables(relations: &[Relation]) -> Columns {
    let rows = relations.len();
    let kind = |relation: &Relation| Some(if relation.query.is_some() { "VIEW" } else { "BASE TABLE" });
    vec![
        ("table_catalog", same(DATABASE, rows)),
        ("table_schema", same(SCHEMA, rows)),
        ("table_name", texts(relations.iter().map(|relation| Some(&relation.name)))),
        ("table_type", texts(relations.iter().map(kind))),
        ("is_insertable_into", texts(relations.iter().map(|relation| Some(if relation.key.is_empty() { "NO" } else { "YES" })))),
    ]
}

/// The number in `numeric(18,2)` or `character varying(10)` at a position.
fn parameter(kind: &str, of: &str, at: usize) -> Option<usize> {
    let inside = kind.strip_prefix(of)?.strip_prefix('(')?.strip_suffix(')')?;
    inside.split(',').nth(at)?.trim().parse().ok()
}

fn length(kind: &str) -> Option<usize> {
    parameter(kind, "character varying", 0).or_else(|| parameter(kind, "character", 0))
}

fn precision(kind: &str) -> Option<usize> {
    match kind {
        "smallint" => Some(16),
        "integer" => Some(32),
        "bigint" => Some(64),
        "real" => Some(24),
        "double precision" => Some(53),
        other => parameter(other, "numeric", 0),
    }
}

fn standard_type(kind: &str) -> String {
    match kind.split('(').next().unwrap_or(kind) {
        "timestamp" => "timestamp without time zone".into(),
        "timestamptz" => "timestamp with time zone".into(),
        other if other.ends_with("[]") => "ARRAY".into(),
        other => other.to_owned(),
    }
}

fn inner_type(kind: &str) -> String {
    match kind.split('(').next().unwrap_or(kind) {
        "boolean" => "bool".into(),
        "smallint" => "int2".into(),
        "integer" => "int4".into(),
        "bigint" => "int8".into(),
        "real" => "float4".into(),
        "double precision" => "float8".into(),
        "character varying" => "varchar".into(),
        "character" => "bpchar".into(),
        other => match other.strip_suffix("[]") {
            Some(item) => format!("_{}", inner_type(item)),
            None => other.to_owned(),
        },
    }
}

fn columns(relations: &[Relation]) -> Columns {
    let all: Vec<(&Relation, usize, &Column)> = relations
        .iter()
        .flat_map(|relation| relation.columns.iter().enumerate().map(move |(at, column)| (relation, at + 1, column)))
        .collect();
    let of = |value: fn(&Column) -> Option<String>| texts(all.iter().map(|(_, _, column)| value(column)));
    vec![
        ("table_catalog", same(DATABASE, all.len())),
        ("table_schema", same(SCHEMA, all.len())),
        ("table_name", texts(all.iter().map(|(relation, ..)| Some(&relation.name)))),
        ("column_name", of(|column| Some(column.name.clone()))),
        ("ordinal_position", ordinals(all.iter().map(|(_, at, _)| Some(*at)))),
        ("column_default", of(|column| column.default.clone())),
        ("is_nullable", of(|column| Some(if column.nullable { "YES" } else { "NO" }.into()))),
        ("data_type", of(|column| Some(standard_type(&column.kind)))),
        ("character_maximum_length", ordinals(all.iter().map(|(_, _, column)| length(&column.kind)))),
        ("numeric_precision", ordinals(all.iter().map(|(_, _, column)| precision(&column.kind)))),
        ("numeric_scale", ordinals(all.iter().map(|(_, _, column)| scale(&column.kind)))),
        ("udt_name", of(|column| Some(inner_type(&column.kind)))),
    ]
}

fn scale(kind: &str) -> Option<usize> {
    match kind {
        "smallint" | "integer" | "bigint" => Some(0),
        other => parameter(other, "numeric", 1),
    }
}

/// Named queries; an empty name leaves the first column out.
fn views(relations: &[Relation], names: [&'static str; 4]) -> Columns {
    let queries: Vec<&Relation> = relations.iter().filter(|relation| relation.query.is_some()).collect();
    let columns = [
        same(DATABASE, queries.len()),
        same(SCHEMA, queries.len()),
        texts(queries.iter().map(|relation| Some(&relation.name))),
        texts(queries.iter().map(|relation| relation.query.as_ref())),
    ];
    names.into_iter().zip(columns).filter(|(name, _)| !name.is_empty()).collect()
}

fn constraints(relations: &[Relation]) -> Columns {
    let keyed: Vec<&Relation> = relations.iter().filter(|relation| !relation.key.is_empty()).collect();
    vec![
        ("constraint_catalog", same(DATABASE, keyed.len())),
        ("constraint_schema", same(SCHEMA, keyed.len())),
        ("constraint_name", texts(keyed.iter().map(|relation| Some(format!("{}_pkey", relation.name))))),
        ("table_catalog", same(DATABASE, keyed.len())),
        ("table_schema", same(SCHEMA, keyed.len())),
        ("table_name", texts(keyed.iter().map(|relation| Some(&relation.name)))),
        ("constraint_type", same("PRIMARY KEY", keyed.len())),
        ("is_deferrable", same("NO", keyed.len())),
    ]
}

fn key_columns(relations: &[Relation]) -> Columns {
    let all: Vec<(&Relation, usize, &Column)> = relations
        .iter()
        .flat_map(|relation| {
            relation.key.iter().enumerate().map(move |(at, column)| (relation, at + 1, &relation.columns[*column]))
        })
        .collect();
    vec![
        ("constraint_catalog", same(DATABASE, all.len())),
        ("constraint_schema", same(SCHEMA, all.len())),
        ("constraint_name", texts(all.iter().map(|(relation, ..)| Some(format!("{}_pkey", relation.name))))),
        ("table_catalog", same(DATABASE, all.len())),
        ("table_schema", same(SCHEMA, all.len())),
        ("table_name", texts(all.iter().map(|(relation, ..)| Some(&relation.name)))),
        ("column_name", texts(all.iter().map(|(_, _, column)| Some(&column.name)))),
        ("ordinal_position", ordinals(all.iter().map(|(_, at, _)| Some(*at)))),
    ]
}

/// PostgreSQL's own numbers for its schemas.
fn namespaces() -> Columns {
    vec![
        ("oid", numbers([11, 2_200, 13_000])),
        ("nspname", texts([Some("pg_catalog"), Some(SCHEMA), Some("information_schema")])),
        ("nspowner", numbers([10, 10, 10])),
    ]
}

fn classes(relations: &[Relation]) -> Columns {
    let kind = |relation: &Relation| Some(if relation.query.is_some() { "v" } else { "r" });
    vec![
        ("oid", numbers(relations.iter().map(|relation| relation.oid))),
        ("relname", texts(relations.iter().map(|relation| Some(&relation.name)))),
        ("relnamespace", numbers(relations.iter().map(|_| 2_200))),
        ("relkind", texts(relations.iter().map(kind))),
        ("relnatts", ordinals(relations.iter().map(|relation| Some(relation.columns.len())))),
    ]
}

fn pg_tables(relations: &[Relation]) -> Columns {
    let tables: Vec<&Relation> = relations.iter().filter(|relation| relation.query.is_none()).collect();
    let indexed = tables.iter().map(|relation| Some(!relation.key.is_empty()));
    vec![
        ("schemaname", same(SCHEMA, tables.len())),
        ("tablename", texts(tables.iter().map(|relation| Some(&relation.name)))),
        ("tableowner", same(DATABASE, tables.len())),
        ("hasindexes", Arc::new(indexed.collect::<BooleanArray>())),
    ]
}

#[async_trait]
impl SchemaProvider for SystemSchema {
    fn table_names(&self) -> Vec<String> {
        let names: &[&str] = if self.name == "pg_catalog" { &PG_CATALOG } else { &INFORMATION_SCHEMA };
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        match self.batch(name) {
            Some(batch) => {
                let batch = batch?;
                Ok(Some(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?)))
            }
            None => {
                let names = self.table_names();
                let error = Error::unknown("table", &format!("{}.{name}", self.name), names.iter().map(String::as_str));
                Err(DataFusionError::External(Box::new(error)))
            }
        }
    }

    fn table_exist(&self, name: &str) -> bool {
        self.table_names().iter().any(|known| known == name)
    }
}
