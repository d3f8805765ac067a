//! How everything stands: streams, views, the RAM tier and the disk, for people and for their monitoring.

use std::time::Duration;

use logcore::materialize::TaskState;
use logcore::partition::Health;
use logcore::{PartitionRef, StreamId};

use crate::answer::{DeadLetterInfo, PartitionInfo, RamInfo, RebuildInfo, StreamInfo, StreamTotals, ViewInfo, ViewPartitionInfo};
use crate::catalog::{CatalogState, Source, StreamDef, TableDef};
use crate::database::Database;
use crate::error::{Error, Result, name_partitions};
use crate::units::show_span;
use crate::view::running::{Generation, View};

impl Database {
    /// An error of the log as people know it: its partitions by their streams' names.
    pub(crate) fn named(&self, error: Error) -> Error {
        let catalog = self.catalog();
        error.with_names(|id| stream_name(&catalog, id))
    }

    /// All streams with their partitions, internal ones first.
    #[must_use]
    pub fn streams(&self) -> Vec<StreamInfo> {
        self.catalog().streams().map(|def| self.stream_info(def)).collect()
    }

    /// One stream.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn stream(&self, name: &str) -> Result<StreamInfo> {
        Ok(self.stream_info(self.catalog().stream(name)?))
    }

    fn stream_info(&self, def: &StreamDef) -> StreamInfo {
        let partitions = (0..def.partitions).filter_map(|partition| {
            let log = self.log().partition(PartitionRef::new(StreamId::new(def.id), partition)).ok()?;
            let mut status = log.status();
            let named = |text: String| name_partitions(&text, |id| (id == def.id).then(|| def.name.clone()));
            status.read_only = status.read_only.map(named);
            Some(PartitionInfo { partition, status })
        });
        let partitions: Vec<PartitionInfo> = partitions.collect();
        let kept = def.options.partition(&self.options().log.partition);
        StreamInfo {
            name: def.name.clone(),
            id: def.id,
            ack: kept.ack,
            compression: def.options.compression.clone(),
            retention: def.options.retention_text(),
            retention_bytes: kept.retention.bytes,
            retention_records: kept.retention.records,
            compact: def.options.compact,
            tombstone_grace: show_span(Duration::from_millis(def.options.tombstone_grace_ms)),
            segment_bytes: kept.segment_bytes,
            flush_interval: show_span(kept.flush_interval),
            totals: StreamTotals::of(partitions.iter().map(|partition| &partition.status)),
            partitions,
        }
    }

    /// All views; those that the database made for itself only when they are not in order.
    #[must_use]
    pub fn view_infos(&self) -> Vec<ViewInfo> {
        let catalog = self.catalog();
        let infos = catalog.all_tables().map(|table| (matches!(table.source, Source::Keys { .. }), self.view_info(table)));
        infos.filter(|(hidden, info)| !hidden || info.state != "running").map(|(_, info)| info).collect()
    }

    /// One view.
    ///
    /// # Errors
    /// When there is no table of that name.
    pub fn view(&self, name: &str) -> Result<ViewInfo> {
        Ok(self.view_info(self.catalog().table(name)?))
    }

    fn view_info(&self, table: &TableDef) -> ViewInfo {
        let mut info = ViewInfo {
            name: table.name.clone(),
            kind: table.kind.name(),
            stream: String::new(),
            generation: table.generation,
            state: "stopped",
            reason: Some("it did not open; see the server's log".into()),
            lag_records: 0,
            lag_seconds: 0.0,
            dead_letters: 0,
            recent_dead_letters: Vec::new(),
            partitions: Vec::new(),
            rebuild: None,
        };
        let Ok(view) = self.views().get(table) else { return info };
        let serving = view.serving();
        info.stream.clone_from(&view.stream.name);
        info.generation = serving.number;
        (info.state, info.reason) = state(&view, &serving);
        for part in &serving.parts {
            let task = &part.task;
            info.lag_records += task.lag_records();
            info.lag_seconds = info.lag_seconds.max(task.lag_seconds());
            let (count, recent) = task.dead_letters();
            info.dead_letters += count;
            info.recent_dead_letters
                .extend(recent.iter().map(|letter| DeadLetterInfo::new(&view.stream.name, part.partition, letter)));
            info.partitions.push(ViewPartitionInfo {
                partition: part.partition,
                checkpointed: task.checkpointed().value(),
                applied: task.applied().value(),
                visible: task.visible().value(),
                committed: task.partition().committed().get().value(),
                kept_from: part.kept_from().value(),
            });
        }
        info.reason = info.reason.map(|reason| name_partitions(&reason, |id| stream_name(&self.catalog(), id)));
        info.rebuild = view.building().map(|building| rebuild_info(&building));
        info
    }

    /// What a client should still wait for; empty when everything serves.
    #[must_use]
    pub fn not_ready(&self) -> Vec<String> {
        let mut waits = Vec::new();
        if let TaskState::Stopped(reason) = self.catalog_task().state() {
            waits.push(format!("the catalog stopped: {reason}"));
        }
        waits.extend(self.cursor_store().failure().map(str::to_owned));
        for stream in self.catalog().streams() {
            for partition in 0..stream.partitions {
                match self.log().partition(PartitionRef::new(StreamId::new(stream.id), partition)).map(|log| log.health()) {
                    Ok(Health::Healthy) => {}
                    Ok(Health::Poisoned(reason) | Health::Corrupt(reason)) => {
                        waits.push(format!("{}/{partition} takes no writes: {reason}", stream.name));
                    }
                    Err(error) => waits.push(format!("{}/{partition}: {error}", stream.name)),
                }
            }
        }
        for view in self.view_infos() {
            if let Some(reason) = view.reason {
                waits.push(format!("view {} stopped: {reason}", view.name));
            }
        }
        waits
    }

    /// The RAM tier, and how the streams of `streams`, which are all there are, use it.
    #[must_use]
    pub fn ram(&self, streams: &[StreamInfo]) -> RamInfo {
        let (used_bytes, budget_bytes) = self.log().memory_bytes();
        let mut totals = StreamTotals::default();
        streams.iter().for_each(|stream| totals += stream.totals);
        RamInfo { used_bytes, budget_bytes, chunks: totals.ram_chunks, hits: totals.ram_hits, misses: totals.ram_misses }
    }

    /// How the disk is reached, and why so.
    #[must_use]
    pub fn disk_detail(&self) -> &str {
        self.log().disk_detail()
    }

    /// The disk's backend.
    #[must_use]
    pub fn disk_backend(&self) -> &'static str {
        self.log().disk_backend()
    }

    /// Who the data folder belongs to.
    #[must_use]
    pub fn identity(&self) -> logcore::log::Identity {
        self.log().identity().clone()
    }
}

fn stream_name(catalog: &CatalogState, id: u32) -> Option<String> {
    catalog.stream_by_id(StreamId::new(id)).map(|def| def.name.clone())
}

fn state(view: &View, serving: &Generation) -> (&'static str, Option<String>) {
    let stopped = serving.parts.iter().find_map(|part| match part.task.state() {
        TaskState::Stopped(reason) => Some(reason),
        TaskState::Running => None,
    });
    match (stopped, view.building()) {
        (Some(reason), _) => ("stopped", Some(reason)),
        (None, Some(_)) => ("rebuilding", None),
        (None, None) => ("running", None),
    }
}

fn rebuild_info(building: &Generation) -> RebuildInfo {
    let (records, records_total) = building.progress();
    let mut records_per_second = 0.0;
    for part in &building.parts {
        let (applied, ran) = part.task.progress();
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = applied as f64 / ran.as_secs_f64().max(0.001);
        records_per_second += rate;
    }
    #[allow(clippy::cast_precision_loss, reason = "a guess for people")]
    let left = records_total.saturating_sub(records) as f64;
    let seconds_to_go = (records_per_second > 0.0).then(|| left / records_per_second);
    RebuildInfo { generation: building.number, records, records_total, records_per_second, seconds_to_go }
}
