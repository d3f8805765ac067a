//! What `headwater bench log` can be asked for, and what it refuses.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;
use logcore::io::probe::Backend;
use logcore::{AckClass, Compression};

use super::payload::HEADER_BYTES;
use crate::cli::OutputFlags;
use crate::config::Size;

/// `headwater bench log`.
#[derive(Args, Clone, Debug)]
pub struct LogArgs {
    /// An empty folder, kept afterwards; otherwise a temporary one, removed at the end
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// When an append is answered: memory or disk
    #[arg(long, value_name = "CLASS", default_value = "disk")]
    pub ack: String,
    /// Bytes of a record's value
    #[arg(long, value_name = "N", default_value = "1024")]
    pub record_bytes: Size,
    /// Bytes of values in a batch, at least one record
    #[arg(long, value_name = "N", default_value = "64KiB")]
    pub batch_bytes: Size,
    /// Partitions, shared among the producers
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub partitions: u32,
    /// Producers; each builds its batches itself, within the measured time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub producers: u32,
    /// Batches each producer has under way
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub in_flight: usize,
    /// Batches per second over all producers; 0 for as fast as possible. Latency then counts from the moment a batch was due
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub rate: f64,
    /// How long to append
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    pub seconds: f64,
    /// Stop after about so many bytes of values, if that is sooner
    #[arg(long, value_name = "SIZE")]
    pub bytes: Option<Size>,
    /// Build one batch ahead and append it again and again: the log without the cost of its producers
    #[arg(long)]
    pub prebuilt: bool,
    /// How batches are packed: none or zstd. Values then are text-like and pack to about half
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub compression: String,

    /// The budget of the RAM tier, as in 256MiB
    #[arg(long, value_name = "SIZE", help_heading = "The log")]
    pub memory: Option<Size>,
    /// The disk backend: auto or pool
    #[arg(long, value_name = "BACKEND", default_value = "auto", help_heading = "The log")]
    pub disk_io: String,
    /// Length of a segment file
    #[arg(long, value_name = "SIZE", help_heading = "The log")]
    pub segment_bytes: Option<Size>,
    /// Let the oldest segments of a partition go while the rest holds this much: for long runs on small disks
    #[arg(long, value_name = "SIZE", help_heading = "The log")]
    pub retention_bytes: Option<Size>,

    /// Readers of everything that is appended, which check that every record comes once, in order and with its content
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Reading")]
    pub readers: u32,
    /// How far readers stay behind while producers append; they catch up afterwards
    #[arg(long, value_name = "SIZE", default_value = "0", help_heading = "Reading")]
    pub reader_lag_bytes: Size,
    /// What a reader reads in a second at most while producers append
    #[arg(long, value_name = "SIZE", help_heading = "Reading")]
    pub reader_rate: Option<Size>,
    /// Afterwards read everything once and check it against what was acknowledged
    #[arg(long, help_heading = "Reading")]
    pub verify: bool,
    /// Afterwards measure reading from RAM, finding offsets, reopening after an unclean stop, and reading from the files
    #[arg(long, help_heading = "Reading")]
    pub read: bool,
    /// How long each part of --read goes on at most
    #[arg(long, value_name = "N", default_value_t = 10.0, help_heading = "Reading")]
    pub read_seconds: f64,
    /// Append one batch to each partition and nothing more: what an idle partition costs, and how long opening takes
    #[arg(long, help_heading = "Reading", conflicts_with_all = ["rate", "bytes", "readers", "verify", "read"])]
    pub idle: bool,

    #[command(flatten)]
    pub output: OutputFlags,
}

/// The arguments, read and checked.
#[derive(Clone, Debug)]
pub struct Plan {
    pub ack: AckClass,
    pub record_bytes: usize,
    pub records_per_batch: usize,
    pub compression: Compression,
    /// Between two batches of one producer; `None` for as fast as possible.
    pub interval: Option<Duration>,
    pub seconds: Duration,
    /// Of each part of reading back.
    pub read_seconds: Duration,
    /// Batches of all producers together.
    pub batches_max: u64,
    pub disk_io: Backend,
}

impl LogArgs {
    /// Reads what clap leaves as text, and refuses what can't be run.
    pub fn plan(&self) -> Result<Plan> {
        let Ok(ack) = self.ack.parse() else {
            bail!("--ack \"{}\" is not an acknowledgement class of this build; use memory or disk", self.ack)
        };
        let disk_io = self.disk_io.parse().map_err(|error| anyhow::anyhow!("--disk-io: {error}"))?;
        let (record_bytes, batch_bytes) = (self.record_bytes.len(), self.batch_bytes.len());
        ensure!(
            (HEADER_BYTES..=logcore::frame::header::FRAME_BYTES_MAX).contains(&record_bytes),
            "--record-bytes is {record_bytes}, the least is {HEADER_BYTES}: a value begins with who appended it; a frame takes at most 8 MiB"
        );
        ensure!(self.in_flight > 0, "--in-flight is 0, the least is 1");
        ensure!(self.partitions > 0 && self.producers > 0, "--partitions and --producers are at least 1");
        ensure!(self.rate.is_finite() && self.rate >= 0.0, "--rate is {}, the least is 0: as fast as possible", self.rate);
        for (flag, seconds) in [("--seconds", self.seconds), ("--read-seconds", self.read_seconds)] {
            ensure!(
                seconds.is_finite() && seconds > 0.0 && seconds < 1e6,
                "{flag} is {seconds}, it must be above 0 and below a million"
            );
        }
        ensure!(self.rate == 0.0 || self.rate > 1e-3, "--rate is {}, the least is one batch in a thousand seconds", self.rate);
        let records_per_batch = (batch_bytes / record_bytes).max(1);
        let bytes_per_batch = (records_per_batch * record_bytes) as u64;
        Ok(Plan {
            ack,
            record_bytes,
            records_per_batch,
            compression: compression(&self.compression)?,
            interval: (self.rate > 0.0).then(|| Duration::from_secs_f64(f64::from(self.producers) / self.rate)),
            seconds: Duration::from_secs_f64(self.seconds),
            read_seconds: Duration::from_secs_f64(self.read_seconds),
            batches_max: self.bytes.map_or(u64::MAX, |bytes| bytes.0.div_ceil(bytes_per_batch)),
            disk_io,
        })
    }
}

fn compression(name: &str) -> Result<Compression> {
    match name {
        "none" => Ok(Compression::None),
        "zstd" => Ok(Compression::Zstd),
        _ => bail!("--compression \"{name}\" is not known; use none or zstd"),
    }
}
