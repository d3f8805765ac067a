//! `headwater serve`, and the running server that it shares with `headwater demo`: the composition of database and doors.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use router::Database;
use router::database::PLANNING_STACK_BYTES;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

use super::{ConfigFlags, output};
use crate::config::{Config, LogFormat};
use crate::http::accept::{self, AcceptOptions};
use crate::http::metrics::Metrics;
use crate::http::{self, App, HttpLimits};

/// Tasks that are left when the door is closed get so long to end.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// `headwater serve`.
#[derive(Args)]
pub struct ServeArgs {
    #[command(flatten)]
    config: ConfigFlags,
}

/// Serves until a signal comes.
pub fn run(args: &ServeArgs) -> Result<()> {
    let config = args.config.load()?;
    start_log(&config)?;
    let server = Server::start(&config)?;
    output::print(&format!("listening on {}\n", server.url()))?;
    server.wait_for_signal()?;
    server.stop()
}

/// Directs the log to stderr, in the form and at the level that are configured.
///
/// # Errors
/// When the level is not one.
pub fn start_log(config: &Config) -> Result<()> {
    let filter = EnvFilter::try_new(&config.values.logs_level)
        .with_context(|| format!("logs.level \"{}\" is not a level", config.values.logs_level))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.values.logs_format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().init(),
    }
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let message = info.payload_as_str().unwrap_or("no message");
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        tracing::error!(place, thread, "panic: {message}");
    }));
    Ok(())
}

/// A database with its doors open.
pub struct Server {
    runtime: Runtime,
    database: Database,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    door: JoinHandle<()>,
}

impl Server {
    /// Opens the data folder and the door.
    ///
    /// # Errors
    /// The address is taken, the data folder can't be opened.
    pub fn start(config: &Config) -> Result<Self> {
        let values = &config.values;
        // The address first: finding out that it is taken costs nothing yet.
        let listen = &values.http_listen;
        let listener = std::net::TcpListener::bind(listen).with_context(|| format!("listening on {listen} (http.listen)"))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let options = config.database_options();
        let limits = HttpLimits {
            body_bytes_max: values.http_body_bytes_max.len(),
            ndjson_body_bytes_max: values.http_ndjson_body_bytes_max.0,
            record_bytes_max: options.limits.record_bytes_max,
            result_bytes_max: values.sql_result_bytes_max.len(),
            timeout_ms_max: values.sql_timeout_ms_max,
        };
        if let Some(files) = logcore::sys::limits::raise_open_files() {
            tracing::debug!(files, "files that may be open");
        }
        let database = Database::open(options)?;
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.thread_name("http").thread_stack_size(PLANNING_STACK_BYTES).enable_all().build()?;
        let (stop, stopped) = watch::channel(false);
        let metrics = Arc::new(Metrics::new(database.clone()));
        let router = http::router(App { database: database.clone(), limits, metrics, stop: stopped.clone() });
        let accept = AcceptOptions {
            connections_max: values.http_connections_max,
            header_timeout: Duration::from_millis(values.http_header_timeout_ms),
        };
        let door = {
            let _inside = runtime.enter();
            let listener = TcpListener::from_std(listener)?;
            runtime.spawn(accept::run(listener, router, accept, stopped))
        };
        tracing::info!(%address, data = %values.data.display(), disk = database.disk_detail(), "ready");
        Ok(Self { runtime, database, address, stop, door })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Waits for SIGTERM or SIGINT. A second one ends the process at once.
    ///
    /// # Errors
    /// When the system gives no signals.
    pub fn wait_for_signal(&self) -> Result<()> {
        self.runtime.block_on(async {
            let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
            let mut either = async move || {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
            };
            either().await;
            tokio::spawn(async move {
                either().await;
                std::process::exit(1);
            });
            Ok(())
        })
    }

    /// Finishes what runs, closes the door and the database.
    ///
    /// # Errors
    /// When the clean stop could not be recorded; the next start then scans.
    pub fn stop(self) -> Result<()> {
        tracing::info!("stopping");
        // Nobody listens any more when the door has failed.
        let _ = self.stop.send(true);
        self.runtime.block_on(self.door).context("the door met a bug")?;
        self.runtime.shutdown_timeout(LEFTOVERS);
        self.database.close()?;
        tracing::info!("stopped");
        Ok(())
    }
}
