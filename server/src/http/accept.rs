//! The accept loop: connections with a header timeout, a limit on their number, and an orderly end.
//!
//! `axum::serve` has neither timeout nor limit, so slow clients would hold sockets for ever. `cli::serve` runs this
//! until it is told to stop.
//!
//! # Concurrency
//! A task per connection; a permit is taken before a connection is accepted, so that those above the limit wait in the
//! system's queue and cost nothing here.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

/// Requests that run when the server stops may take so long.
pub const GRACE: Duration = Duration::from_secs(10);
/// After an accept failed, usually for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Bounds of connections.
#[derive(Clone, Copy, Debug)]
pub struct AcceptOptions {
    /// Connections at a time.
    pub connections_max: usize,
    /// A connection without a whole request head for so long is closed; also bounds how long it may idle.
    pub header_timeout: Duration,
}

/// Serves `router` on `listener` until `stop` turns true; then finishes what runs, for [`GRACE`] at most.
pub async fn run(listener: TcpListener, router: Router, options: AcceptOptions, mut stop: watch::Receiver<bool>) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(options.header_timeout);
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let graceful = GracefulShutdown::new();
    let stopped = async move {
        // An error means that whoever could say stop is gone.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        let next = async {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            next = next => next,
            () = &mut stopped => break,
        };
        let socket = match accepted {
            Ok((socket, _)) => socket,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY failed");
        }
        let connection = builder.serve_connection(TokioIo::new(socket), TowerToHyperService::new(router.clone()));
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // Clients that vanish and heads that time out are theirs to know.
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests still ran {} s after the stop and were cut off", GRACE.as_secs());
    }
}
