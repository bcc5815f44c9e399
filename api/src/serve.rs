//! A socket for the router.

use std::{future::IntoFuture, io, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long requests may go on after the shutdown has begun. Longer than the time-out of one
/// request would be pointless; shorter than the 30 s that platforms give a process in all.
const GRACE: Duration = Duration::from_secs(20);

/// Serves `router` until `shutdown`, then accepts nothing more and lets running requests end,
/// for 20 s at most; what goes on after that ends with the process.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_within(listener, router, shutdown, GRACE).await
}

async fn serve_within(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
    grace: Duration,
) -> io::Result<()> {
    info!(addr = %listener.local_addr()?, "listening");
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            warn!(%error, "a connection stays with Nagle's delay");
        }
    });
    let server = axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.clone().cancelled_owned())
        .into_future();
    tokio::select! {
        ended = server => ended,
        () = async { shutdown.cancelled().await; tokio::time::sleep(grace).await } => {
            warn!("requests still ran {grace:?} after the shutdown began; they are given up");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::routing::get;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
        sync::Notify,
        task::JoinHandle,
    };

    use super::*;

    struct Running {
        request: TcpStream,
        reached: Arc<Notify>,
        release: Arc<Notify>,
        shutdown: CancellationToken,
        server: JoinHandle<io::Result<()>>,
    }

    /// A server in which one request runs until it is released.
    async fn running(grace: Duration) -> Running {
        let (reached, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (at, go) = (reached.clone(), release.clone());
        let hold = get(|| async move {
            at.notify_one();
            go.notified().await;
            "done"
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let router = Router::new().route("/", hold);
        let server = tokio::spawn(serve_within(listener, router, shutdown.clone(), grace));
        let mut request = TcpStream::connect(addr).await.unwrap();
        request.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        reached.notified().await;
        Running { request, reached, release, shutdown, server }
    }

    #[tokio::test]
    async fn a_running_request_ends_before_the_server_does() {
        let mut running = running(Duration::from_secs(60)).await;
        running.shutdown.cancel();
        running.release.notify_one();
        let mut answer = String::new();
        running.request.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        running.server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_request_that_never_ends_does_not_hold_the_shutdown_up() {
        let running = running(Duration::from_millis(50)).await;
        running.shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(5), running.server)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        drop((running.request, running.reached, running.release));
    }
}
