//! `_bulk`: many writes in one request, each with an outcome of its own; and `_delete_by_query`.
//!
//! Lines are carried out while they come, some hundred in one transaction, so that a request may be as long as the client likes. A
//! line that is no action ends the request: the answer says how many actions came before it, and those are done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use axum::body::BodyDataStream;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use bytes::Bytes;
use futures::StreamExt;
use router::{Cut, DocumentChange, DocumentEdit, DocumentWritten, Expect, sqlstate};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::document::{expected, missing, new_id, result_of, told, update_of, with_status};
use super::{Answer, App, DEPTH_MAX, EsError, Params, answer, deadline, dialect, ensure, json_of, one_index, refreshed};
use crate::http::body::{self, Deadline};
use crate::http::error::ApiError;
use crate::http::lines::Lines;

/// Actions carried out together.
const BATCH_ACTIONS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 4 << 20;
/// Outcomes of one request.
const ACTIONS_MAX: usize = 1_000_000;
/// A client may be silent for so long.
const SILENCE: Duration = Duration::from_secs(60);
/// Documents that one page of a delete by query takes.
const PAGE: u64 = 1_000;

/// What an action does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Create,
    Update,
    Delete,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Index => "index",
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// An action whose document has yet to come, or that has none.
struct Action {
    kind: Kind,
    index: String,
    id: String,
    meta: Map<String, Value>,
}

/// An action to carry out, or why that can't be.
struct Planned {
    kind: Kind,
    index: String,
    id: String,
    change: Result<DocumentChange, EsError>,
}

/// `POST, PUT /es/_bulk` and `/es/{index}/_bulk`.
pub async fn run(State(app): State<App>, index: Option<Path<String>>, params: Params, request: Request) -> Answer {
    for unknown in ["pipeline", "require_alias"] {
        if params.get(unknown).is_some_and(|value| value != "false" && value != "_none") {
            return Err(EsError::unsupported(unknown));
        }
    }
    let started = Instant::now();
    let (parts, content) = request.into_parts();
    body::media_type(&parts.headers)?;
    deadline(&app, &params)?;
    let mut bulk = Bulk {
        app: &app,
        params: &params,
        index: index.map(|Path(index)| index),
        waiting: None,
        planned: Vec::new(),
        bytes: 0,
        items: Vec::new(),
        errors: false,
        indexes: BTreeSet::new(),
    };
    let mut content = content.into_data_stream();
    if let Err(error) = bulk.read(&mut content).await {
        body::drain(content).await;
        // What was whole before the line is carried out: the client is told how much that is.
        bulk.carry_out().await?;
        let done = bulk.items.len();
        return Err(EsError { reason: format!("{}; the {done} actions before it are done", error.reason), ..error });
    }
    for index in &bulk.indexes {
        refreshed(&app, &params, index, deadline(&app, &params)?.at).await?;
    }
    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(answer(StatusCode::OK, &json!({"took": took, "errors": bulk.errors, "items": bulk.items})))
}

struct Bulk<'a> {
    app: &'a App,
    params: &'a Params,
    /// Of actions that name none.
    index: Option<String>,
    /// The action whose document comes next.
    waiting: Option<Action>,
    planned: Vec<Planned>,
    bytes: usize,
    items: Vec<Value>,
    errors: bool,
    /// Those that were written.
    indexes: BTreeSet<String>,
}

impl Bulk<'_> {
    async fn read(&mut self, content: &mut BodyDataStream) -> Result<(), EsError> {
        let limits = self.app.limits;
        let mut lines = Lines::new(limits.record_bytes_max);
        let mut body_bytes = 0_u64;
        loop {
            let chunk = match tokio::time::timeout(SILENCE, content.next()).await {
                Err(_) => return Err(ApiError::timeout(format!("no byte of the body came for {} s", SILENCE.as_secs())).into()),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(EsError::parsing(format!("the body was cut off: {error}"))),
                Ok(Some(Ok(chunk))) => chunk,
            };
            body_bytes += chunk.len() as u64;
            if body_bytes > limits.ndjson_body_bytes_max {
                let message = format!("the body is over the limit of {} bytes", limits.ndjson_body_bytes_max);
                return Err(ApiError::too_large(message).hint("send it in several requests").into());
            }
            lines.push(chunk);
            while let Some(line) = lines.next()? {
                self.take(&lines, &line).await?;
            }
        }
        if let Some(line) = lines.last() {
            self.take(&lines, &line).await?;
        }
        match &self.waiting {
            Some(action) => Err(EsError::invalid(format!("the document of the last action [{}] is missing", action.kind.name()))),
            None => self.carry_out().await,
        }
    }

    async fn take(&mut self, lines: &Lines, line: &Bytes) -> Result<(), EsError> {
        let line = line.trim_ascii();
        if line.is_empty() && self.waiting.is_none() {
            return Ok(());
        }
        let planned = match self.waiting.take() {
            Some(action) => self.with_document(action, line),
            None => {
                let action = self
                    .action(line)
                    .map_err(|reason| EsError::invalid(format!("Malformed action/metadata line [{}]: {reason}", lines.number)))?;
                if action.kind != Kind::Delete {
                    self.waiting = Some(action);
                    return Ok(());
                }
                Self::planned(action, |_| Ok(DocumentEdit::Delete))
            }
        };
        self.bytes += line.len();
        self.planned.push(planned);
        if self.items.len() + self.planned.len() > ACTIONS_MAX {
            return Err(EsError::invalid(format!("more than {ACTIONS_MAX} actions in one request")));
        }
        if self.planned.len() >= BATCH_ACTIONS_MAX || self.bytes >= BATCH_BYTES_MAX { self.carry_out().await } else { Ok(()) }
    }

    /// The action that a line says.
    fn action(&self, line: &[u8]) -> Result<Action, String> {
        let object: Map<String, Value> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        let mut members = object.into_iter();
        let (Some((name, meta)), None) = (members.next(), members.next()) else {
            return Err("one of index, create, update and delete is expected".to_owned());
        };
        let kind = [Kind::Index, Kind::Create, Kind::Update, Kind::Delete].into_iter().find(|kind| kind.name() == name);
        let kind = kind.ok_or_else(|| format!("[{name}] is none of index, create, update and delete"))?;
        let Value::Object(meta) = meta else { return Err(format!("[{name}] is not an object")) };
        let text = |name: &str| match meta.get(name) {
            Some(Value::String(text)) => Some(text.clone()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let index = text("_index").or_else(|| self.index.clone()).ok_or("[_index] is missing")?;
        let id = match text("_id") {
            Some(id) => id,
            None if matches!(kind, Kind::Index | Kind::Create) => new_id().map_err(|error| error.reason)?,
            None => return Err("[_id] is missing".to_owned()),
        };
        Ok(Action { kind, index, id, meta })
    }

    fn with_document(&self, action: Action, line: &[u8]) -> Planned {
        let kind = action.kind;
        Self::planned(action, |meta| {
            if let Some(unknown) =
                ["pipeline", "require_alias"].into_iter().find(|name| meta.get(*name).is_some_and(|value| *value != json!(false)))
            {
                return Err(EsError::unsupported(unknown));
            }
            let read = || body::parse_json::<&RawValue>(line, DEPTH_MAX);
            let document =
                read().map_err(|error| EsError::new(StatusCode::BAD_REQUEST, "document_parsing_exception", error.message()))?;
            match kind {
                Kind::Update => update_of(serde_json::from_str(document.get()).unwrap_or_default()),
                _ => Ok(DocumentEdit::Put(document.get().to_owned())),
            }
        })
    }

    fn planned(action: Action, edit: impl FnOnce(&Map<String, Value>) -> Result<DocumentEdit, EsError>) -> Planned {
        let Action { kind, index, id, meta } = action;
        let texts: HashMap<&str, String> = meta
            .iter()
            .filter_map(|(name, value)| {
                let text = value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()));
                text.map(|text| (name.as_str(), text))
            })
            .collect();
        let change = edit(&meta).and_then(|edit| {
            let expect = expected(|name| texts.get(name).map(String::as_str), kind == Kind::Create)?;
            Ok(DocumentChange { id: id.clone(), edit, expect })
        });
        Planned { kind, index, id, change }
    }

    /// Carries out what is planned, index by index, and notes the outcomes in the order of the actions.
    async fn carry_out(&mut self) -> Result<(), EsError> {
        let planned = std::mem::take(&mut self.planned);
        self.bytes = 0;
        let mut by_index: BTreeMap<&str, Vec<(usize, &DocumentChange)>> = BTreeMap::new();
        let mut outcomes: Vec<Option<Result<DocumentWritten, EsError>>> = planned.iter().map(|_| None).collect();
        for (place, action) in planned.iter().enumerate() {
            match &action.change {
                Ok(change) => by_index.entry(&action.index).or_default().push((place, change)),
                Err(error) => outcomes[place] = Some(Err(error.clone())),
            }
        }
        for (index, changes) in by_index {
            let deadline = deadline(self.app, self.params)?.at;
            let makes = changes.iter().any(|(place, _)| planned[*place].kind != Kind::Delete);
            let made = if makes { ensure(self.app, index, deadline).await } else { Ok(()) };
            let (places, changes): (Vec<usize>, Vec<DocumentChange>) =
                changes.into_iter().map(|(place, change)| (place, change.clone())).unzip();
            let written = match made {
                Ok(()) => self.app.database.change_documents(index, &changes, deadline).await,
                Err(error) => {
                    places.iter().for_each(|place| outcomes[*place] = Some(Err(error.clone())));
                    continue;
                }
            };
            self.indexes.insert(index.to_owned());
            for ((place, written), change) in places.into_iter().zip(written).zip(&changes) {
                outcomes[place] = Some(match written {
                    Err(error) if error.code() == sqlstate::NO_DATA && matches!(change.edit, DocumentEdit::Delete) => {
                        Ok(DocumentWritten { position: None, version: None, existed: false })
                    }
                    written => written.map_err(EsError::from),
                });
            }
        }
        for (Planned { kind, index, id, .. }, outcome) in planned.iter().zip(outcomes) {
            let outcome = outcome.unwrap_or_else(|| Err(EsError::invalid("the action was not carried out")));
            let item = self.item(*kind, index, id, outcome);
            self.items.push(json!({kind.name(): item}));
        }
        Ok(())
    }

    fn item(&mut self, kind: Kind, index: &str, id: &str, outcome: Result<DocumentWritten, EsError>) -> Value {
        match outcome {
            Ok(written) if kind == Kind::Delete && !written.existed => with_status(missing(index, id), StatusCode::NOT_FOUND),
            Ok(written) => {
                let (status, result) = result_of(&written, kind == Kind::Delete);
                with_status(told(index, id, &written, result), status)
            }
            Err(error) => {
                self.errors = true;
                let status = error.status.as_u16();
                json!({"_index": index, "_id": id, "status": status, "error": error.of(index).cause()})
            }
        }
    }
}

/// `POST /es/{index}/_delete_by_query`: deletes what a query finds once everything that is committed can be found. What somebody wrote
/// meanwhile stays; it ends the request unless `conflicts=proceed`.
pub async fn delete_by_query(State(app): State<App>, Path(index): Path<String>, params: Params, request: Request) -> Answer {
    let started = Instant::now();
    let Value::Object(mut body) = json_of(&app, request).await? else { return Err(EsError::parsing("not an object")) };
    let index = one_index(&app, &index)?;
    let query = body.remove("query").ok_or_else(|| EsError::parsing("[query] is missing"))?;
    if let Some(unknown) = body.keys().find(|name| *name != "max_docs") {
        return Err(EsError::unsupported(unknown));
    }
    let max = body
        .get("max_docs")
        .map_or(Ok(u64::MAX), |max| max.as_u64().ok_or_else(|| EsError::parsing("[max_docs] is not a number")))?;
    let query = dialect::query(query);
    let proceed = params.get("conflicts").is_some_and(|conflicts| conflicts == "proceed");
    let Deadline { at, .. } = deadline(&app, &params)?;
    app.database.refreshed(&index, at).await.map_err(|error| EsError::from(error).of(&index))?;
    let (mut total, mut deleted, mut conflicts, mut after) = (0_u64, 0_u64, 0_u64, None);
    while total < max {
        let size = PAGE.min(max - total);
        let mut search = json!({"query": query, "size": size, "sort": ["_id"], "fields": [], "lenient": true, "version": true});
        if let Some(after) = &after {
            search["search_after"] = json!([after]);
        }
        let found =
            |response: router::SearchResponse| Ok(response.hits.into_iter().map(|hit| (hit.id, hit.version)).collect::<Vec<_>>());
        let (found, _) = app.database.search(&index, search, &Cut::new(), at, found).await?;
        let Some((last, _)) = found.last() else { break };
        total += found.len() as u64;
        after = Some(last.clone());
        // Only the version that was found: another may be none that the query means.
        let change = |(id, version): (String, Option<u64>)| DocumentChange {
            id,
            edit: DocumentEdit::Delete,
            expect: version.map(Expect::Last),
        };
        let changes: Vec<DocumentChange> = found.into_iter().map(change).collect();
        for written in app.database.change_documents(&index, &changes, at).await {
            match written {
                Ok(_) => deleted += 1,
                Err(error) if matches!(error.code(), sqlstate::NO_DATA | sqlstate::SERIALIZATION_FAILURE) => conflicts += 1,
                Err(error) => return Err(error.into()),
            }
        }
        if conflicts > 0 && !proceed {
            break;
        }
    }
    if super::flag(&params, "refresh") {
        app.database.refreshed(&index, at).await?;
    }
    let took = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(answer(
        if conflicts > 0 && !proceed { StatusCode::CONFLICT } else { StatusCode::OK },
        &json!({"took": took, "timed_out": false, "total": total, "deleted": deleted, "version_conflicts": conflicts, "failures": []}),
    ))
}
