//! `GET /v1/streams/{stream}/tail`: server-sent events, a record each, for as long as the client listens. See [`super::follow`].

use axum::extract::{Request, State};
use axum::response::Response;
use futures::FutureExt;
use futures::future::BoxFuture;
use router::{Database, ReadFrom, ReadLimits, ReadPage};
use serde::Deserialize;

use super::App;
use super::body::{ApiPath, ApiQuery};
use super::error::ApiError;
use super::follow::{Begin, Event, Source, follow as follow_source};
use super::record::{self, Layout};
use super::streams::parse_offset;

/// Where to begin.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TailQuery {
    offset: Option<String>,
    partition: Option<u32>,
}

/// `GET /v1/streams/{stream}/tail`.
pub async fn follow(
    State(app): State<App>,
    ApiPath(stream): ApiPath<String>,
    ApiQuery(query): ApiQuery<TailQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let info = app.database.stream(&stream)?;
    let from = parse_offset(query.offset.as_deref().unwrap_or("latest"))?;
    let begin = Begin { stream: &info.name, partitions: &info.partitions, only: query.partition, from };
    let source = Records { database: app.database.clone(), stream: info.name.clone() };
    follow_source(app, source, &begin, request.headers())
}

struct Records {
    database: Database,
    stream: String,
}

impl Source for Records {
    type Page = ReadPage;

    fn read(&self, partition: u32, next: u64, limits: ReadLimits) -> BoxFuture<'static, router::Result<ReadPage>> {
        let (database, stream) = (self.database.clone(), self.stream.clone());
        async move { database.read(&stream, partition, ReadFrom::Offset(next), limits).await }.boxed()
    }

    fn next_offset(page: &ReadPage) -> u64 {
        page.next_offset
    }

    fn each(partition: u32, page: &ReadPage, event: Event<'_>) {
        for stored in &page.records {
            let layout = Layout { partition: Some(partition), one_line: true };
            event(stored.offset, &|out| record::write(out, stored, layout));
        }
    }
}
