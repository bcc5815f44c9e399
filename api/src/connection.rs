//! How long a connection may keep us waiting: for a head, and between two requests.
//!
//! These are two limits. A head that drips is an attack, and has little time. A proxy keeps connections
//! for a minute or longer to use them again; one that we close first may have a request on its way,
//! which then is lost: a 502 now and then that no log of ours explains.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use futures::task::AtomicWaker;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// A head is awaited or arrives: so begins each connection.
const HEAD: u8 = 0;
/// A request is answered; other limits hold.
const ANSWER: u8 = 1;
/// The answer has been given, and nothing has come since.
const PAUSE: u8 = 2;

/// Where a connection is, told by those who serve it.
#[derive(Debug, Clone)]
pub(crate) struct Phase(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    /// Who waited for bytes while an answer was given: for the pause there is a time.
    waits: AtomicWaker,
}

impl Phase {
    /// A head has come.
    pub fn answers(&self) {
        self.0.phase.store(ANSWER, Relaxed);
    }

    fn pauses(&self) {
        self.0.phase.store(PAUSE, Release);
        self.0.waits.wake();
    }
}

/// A stream that fails where it is waited for too long.
#[derive(Debug)]
pub(crate) struct Patient<S> {
    stream: S,
    phase: Phase,
    /// The phase that `over` was set for.
    timed: u8,
    over: Pin<Box<Sleep>>,
    head: Duration,
    pause: Duration,
}

impl<S> Patient<S> {
    /// `head` for each head, from its first byte; `pause` between an answer and the next head.
    pub fn new(stream: S, head: Duration, pause: Duration) -> Self {
        let (phase, waits) = (AtomicU8::new(HEAD), AtomicWaker::new());
        let phase = Phase(Arc::new(Shared { phase, waits }));
        Self { stream, phase, timed: HEAD, over: Box::pin(sleep(head)), head, pause }
    }

    pub fn phase(&self) -> Phase {
        self.phase.clone()
    }

    fn arm(&mut self, phase: u8, limit: Duration) {
        self.timed = phase;
        self.over.as_mut().reset(Instant::now() + limit);
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_pending() {
            // Before the look: a pause that begins after it wakes us.
            self.phase.0.waits.register(cx.waker());
        }
        let phase = self.phase.0.phase.load(Acquire);
        if read.is_ready() {
            if phase == PAUSE && buf.filled().len() > before {
                self.phase.0.phase.store(HEAD, Relaxed);
                let head = self.head;
                self.arm(HEAD, head);
            }
            return read;
        }
        match phase {
            ANSWER => return Poll::Pending,
            PAUSE if self.timed != PAUSE => {
                let pause = self.pause;
                self.arm(PAUSE, pause);
            }
            _ => {}
        }
        ready!(self.over.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The body of an answer, with whose end the pause begins.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    phase: Phase,
}

impl Answer {
    pub fn new(body: Body, phase: Phase) -> Self {
        Self { body, phase }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.phase.pauses();
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(3600);

    fn connection(head: Duration, pause: Duration) -> (DuplexStream, Patient<DuplexStream>) {
        let (caller, ours) = duplex(1024);
        (caller, Patient::new(ours, head, pause))
    }

    /// Reads until somebody's time is over.
    async fn runs_out(stream: &mut Patient<DuplexStream>) {
        loop {
            if let Err(error) = stream.read_u8().await {
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
                return;
            }
        }
    }

    async fn is_waited_for(stream: &mut Patient<DuplexStream>) -> bool {
        tokio::time::timeout(3 * SHORT, stream.read_u8()).await.is_err()
    }

    /// A request came and was answered.
    async fn served(caller: &mut DuplexStream, stream: &mut Patient<DuplexStream>) {
        caller.write_all(b"x").await.unwrap();
        stream.read_u8().await.unwrap();
        stream.phase().answers();
        // An answer takes as long as it takes.
        assert!(is_waited_for(stream).await);
        drop(Answer::new(Body::empty(), stream.phase()));
    }

    #[tokio::test]
    async fn who_says_nothing_or_drips_has_the_time_of_one_head() {
        let (_silent, mut stream) = connection(SHORT, LONG);
        runs_out(&mut stream).await;

        let (mut drips, mut stream) = connection(SHORT, LONG);
        let drip = async {
            while drips.write_all(b"x").await.is_ok() {
                sleep(SHORT / 10).await;
            }
        };
        tokio::select! {
            () = runs_out(&mut stream) => {}
            () = drip => unreachable!("the stream is open"),
        }
    }

    #[tokio::test]
    async fn a_pause_has_a_time_of_its_own_and_ends_with_its_first_byte() {
        let (mut caller, mut stream) = connection(SHORT, LONG);
        served(&mut caller, &mut stream).await;
        assert!(is_waited_for(&mut stream).await);
        caller.write_all(b"x").await.unwrap();
        runs_out(&mut stream).await;

        let (mut caller, mut stream) = connection(LONG, SHORT);
        served(&mut caller, &mut stream).await;
        runs_out(&mut stream).await;

        // It begins while one waits for bytes already.
        let (_caller, mut stream) = connection(LONG, SHORT);
        stream.phase().answers();
        let answer = Answer::new(Body::empty(), stream.phase());
        let given = async {
            sleep(SHORT).await;
            drop(answer);
        };
        tokio::join!(runs_out(&mut stream), given);
    }
}
