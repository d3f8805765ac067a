//! `GET /metrics`: what Prometheus scrapes.
//!
//! Requests are counted by [`super::observe`]; everything about streams, views and memory is asked of the database at the moment
//! of the scrape.

use std::fmt;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::IntoResponse;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue, EncodeLabelSet, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use router::Database;

use super::App;
use super::error::ApiError;

/// Seconds; from a point read to the longest statement.
const LATENCY_BUCKETS: [f64; 12] = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// What is counted, and the registry it is shown from.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    latencies: Family<RouteLabels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    /// Metrics of a server over `database`.
    pub fn new(database: Database) -> Self {
        let mut registry = Registry::with_prefix("headwater");
        let requests = Family::<RequestLabels, Counter>::default();
        let latencies: Family<RouteLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(LATENCY_BUCKETS));
        registry.register("http_requests", "requests answered", requests.clone());
        registry.register("http_request_seconds", "time to the head of the answer", latencies.clone());
        registry.register_collector(Box::new(DatabaseCollector { database }));
        Self { registry, requests, latencies }
    }

    /// Counts a request.
    pub fn request(&self, method: &Method, route: &str, status: StatusCode, elapsed: Duration) {
        // Methods of a client's invention must not become series.
        let known = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::OPTIONS].contains(method);
        let method = if known { method.as_str() } else { "other" };
        let labels = RequestLabels { method: method.to_owned(), route: route.to_owned(), status: status.as_u16().into() };
        self.requests.get_or_create(&labels).inc();
        self.latencies.get_or_create(&RouteLabels { route: route.to_owned() }).observe(elapsed.as_secs_f64());
    }

    fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// `GET /metrics`.
pub async fn show(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let text = app.metrics.encode().map_err(|_| ApiError::internal("the metrics can't be written as text"))?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text))
}

struct DatabaseCollector {
    database: Database,
}

impl fmt::Debug for DatabaseCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseCollector")
    }
}

/// One gauge with a value per label set.
fn gauge<L: EncodeLabelSet, V: EncodeGaugeValue>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, V)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_gauge(&value)?;
    }
    Ok(())
}

/// One counter with a value per label set; its name gets `_total` behind it.
fn counter<L: EncodeLabelSet>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (L, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in values {
        metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
    }
    Ok(())
}

/// One counter with one value.
fn single_counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Counter)?.encode_counter::<NoLabelSet, _, u64>(&value, None)
}

/// One gauge with one value.
fn single(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)
}

impl Collector for DatabaseCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let streams = self.database.streams();
        let partitions = || streams.iter().flat_map(|stream| stream.partitions.iter().map(move |partition| (stream, partition)));
        type Read = fn(&router::PartitionInfo) -> u64;
        let gauges: [(&str, &str, Read); 12] = [
            ("partition_log_start_offset", "first offset that is kept", |p| p.status.log_start.value()),
            ("partition_committed_offset", "readers see everything below", |p| p.status.committed.value()),
            ("partition_flushed_offset", "everything below is durable here", |p| p.status.flushed.value()),
            ("partition_appended_offset", "offsets given out", |p| p.status.appended.value()),
            ("partition_bytes", "bytes of records and frames on disk", |p| p.status.bytes),
            ("partition_segments", "segment files", |p| p.status.segments as u64),
            ("partition_ram_segments", "segment files of which a part is in RAM", |p| p.status.ram_segments as u64),
            ("partition_ram_chunks", "chunks in RAM", |p| p.status.ram_chunks as u64),
            ("partition_ram_bytes", "bytes of chunks in RAM", |p| p.status.ram_bytes),
            ("partition_unflushed_records", "records committed and not durable yet", |p| p.status.unflushed_records),
            ("partition_damaged_segments", "segments in which damage was found", |p| p.status.damage.len() as u64),
            ("partition_writable", "whether the partition takes writes", |p| u64::from(p.status.read_only.is_none())),
        ];
        let counters: [(&str, &str, Read); 2] = [
            ("partition_ram_hits", "reads that found what they wanted in RAM", |p| p.status.ram_hits),
            ("partition_ram_misses", "reads that went to a file", |p| p.status.ram_misses),
        ];
        let values = |read: Read| {
            partitions().map(move |(stream, partition)| {
                let labels = [("stream", stream.name.clone()), ("partition", partition.partition.to_string())];
                (labels, read(partition))
            })
        };
        for (name, help, read) in gauges {
            gauge(encoder, name, help, values(read))?;
        }
        for (name, help, read) in counters {
            counter(encoder, name, help, values(read))?;
        }
        let views = self.database.view_infos();
        let view_labels = |view: &router::ViewInfo| [("view", view.name.clone()), ("kind", view.kind.to_owned())];
        let applied = views.iter().flat_map(|view| {
            view.partitions.iter().map(move |partition| {
                let labels = [("view", view.name.clone()), ("partition", partition.partition.to_string())];
                (labels, partition.applied)
            })
        });
        gauge(encoder, "view_applied_offset", "everything below is applied", applied)?;
        let lag = views.iter().map(|view| (view_labels(view), view.lag_records));
        gauge(encoder, "view_lag_records", "records committed and not yet applied", lag)?;
        let lag = views.iter().map(|view| (view_labels(view), view.lag_seconds));
        gauge(encoder, "view_lag_seconds", "the largest lag of a partition", lag)?;
        let dead = views.iter().map(|view| (view_labels(view), view.dead_letters));
        gauge(encoder, "view_dead_letters", "records left out of the view", dead)?;
        let running = views.iter().map(|view| (view_labels(view), u64::from(view.state != "stopped")));
        gauge(encoder, "view_up", "whether the view follows its stream", running)?;
        let ram = self.database.ram(&streams);
        single(encoder, "ram_tier_used_bytes", "bytes of the RAM tier in use", ram.used_bytes)?;
        single(encoder, "ram_tier_budget_bytes", "the budget of the RAM tier", ram.budget_bytes)?;
        single(encoder, "ram_tier_chunks", "chunks in RAM that hold records", ram.chunks)?;
        single_counter(encoder, "ram_tier_hits", "reads of the log that found what they wanted in RAM", ram.hits)?;
        single_counter(encoder, "ram_tier_misses", "reads of the log that went to a file", ram.misses)?;
        if let Some(resident) = resident_bytes() {
            single(encoder, "process_resident_memory_bytes", "memory of the process", resident)?;
        }
        Ok(())
    }
}

/// What the process holds in memory. `/proc/self/status` says it in kB; `statm` counts pages, whose size it does not tell.
fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_memory_of_this_process_is_known() {
        assert!(resident_bytes().unwrap() > 1 << 20);
    }
}
