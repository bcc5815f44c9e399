//! A socket for the router: HTTP/1.1, with a limit on everything that a stranger can make long.
//!
//! HTTP/2 is not spoken here. Without TLS nobody asks for it, and with TLS the proxy that ends it
//! speaks HTTP/1.1 to us.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tracing::{debug, error, info, warn};

use crate::{
    Limits,
    connection::{Answer, Patient},
    peer::Peer,
};

/// How long requests may go on after the shutdown has begun. Longer than the time-out of one
/// request would be pointless; shorter than the 30 s that platforms give a process in all.
const GRACE: Duration = Duration::from_secs(20);

/// Browsers and proxies together send two dozen.
const HEADERS_MOST: usize = 64;

/// Of all headers together; a token may have half of it.
const HEAD_LARGEST: usize = 16 * 1024;

/// What a connection holds of a request or answer at most while it passes.
const BUFFER_LARGEST: usize = 64 * 1024;

/// After a connection could not be accepted for want of files or memory: others must end first.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// As [`serve_within`], with the limits that are default.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_within(listener, router, &Limits::default(), shutdown).await
}

/// Serves `router` until `shutdown`, then accepts nothing more and lets running requests end,
/// for 20 s at most; what goes on after that ends with the process.
pub async fn serve_within(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    shutdown: CancellationToken,
) -> io::Result<()> {
    serve_until(listener, router, limits, shutdown, GRACE).await
}

async fn serve_until(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    shutdown: CancellationToken,
    grace: Duration,
) -> io::Result<()> {
    info!(addr = %listener.local_addr()?, "listening");
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        // `Patient` has limits of its own for heads and for pauses; this one knows no difference.
        .header_read_timeout(None)
        .max_headers(HEADERS_MOST)
        .max_header_size(HEAD_LARGEST)
        .max_buf_size(BUFFER_LARGEST);
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(limits.connections));
    let accepting = async {
        loop {
            // A place first: what waits to be accepted costs the kernel a little, and us nothing.
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let stream = accepted(&listener).await;
            let served = one(&http, stream, router.clone(), limits, connections.watcher());
            tokio::spawn(async move {
                served.await;
                drop(place);
            });
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    drop(listener);
    tokio::select! {
        () = connections.shutdown() => {}
        () = sleep(grace) => {
            warn!("requests still ran {grace:?} after the shutdown began; they are given up");
        }
    }
    Ok(())
}

async fn accepted(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Gone before it was ours: the next one.
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                error!(%error, "no connection can be accepted; trying again in {ACCEPT_AGAIN:?}");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Serves one connection to its end.
fn one(
    http: &http1::Builder,
    stream: TcpStream,
    router: Router,
    limits: &Limits,
    watcher: Watcher,
) -> impl Future<Output = ()> + Send + use<> {
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "a connection stays with Nagle's delay");
    }
    let peer = stream.peer_addr().ok().map(|addr| Peer(addr.ip()));
    let stream = Patient::new(stream, limits.header_timeout, limits.keep_alive);
    let phase = stream.phase();
    let mut stream = TimeoutStream::new(stream);
    // Who asks for much and reads nothing of it would hold the connection for ever.
    stream.set_write_timeout(Some(limits.header_timeout));
    let service = service_fn(move |mut request: Request<Incoming>| {
        if let Some(peer) = peer {
            request.extensions_mut().insert(peer);
        }
        phase.answers();
        let (answer, phase) = (router.clone().oneshot(request), phase.clone());
        async move { answer.await.map(|answer| answer.map(|body| Answer::new(body, phase))) }
    });
    let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
    async move {
        if let Err(error) = watcher.watch(connection).await {
            debug!(%error, "a connection ended badly");
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
        let stop = shutdown.clone();
        let server = tokio::spawn(async move {
            serve_until(listener, router, &Limits::default(), stop, grace).await
        });
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
