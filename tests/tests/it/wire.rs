//! A line from a client to its Redis that loses one request or one answer when told to, waits, and
//! can lead to another server: what a network does, at the moment that a test needs.

use std::{
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What one read takes at most.
const CHUNK: usize = 64 * 1024;

/// Which half of a call does not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The server never hears of it.
    Request,
    /// The server has done it, and the client does not learn.
    Answer,
}

/// One client's line; its connections end without a word when this is dropped.
#[derive(Debug)]
pub struct Wire {
    port: u16,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    /// What is lost next: a half of the next call that has these letters in it.
    loses: Mutex<Option<(Half, &'static str)>>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    server: u16,
    /// New connections are accepted, and wait.
    is_down: bool,
    /// How often all connections were cut.
    cuts: u32,
    /// Requests with these letters in them are taken and never arrive.
    muted: Option<&'static str>,
}

impl Wire {
    /// A line to the server on this port of 127.0.0.1.
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = watch::Sender::new(State { server, is_down: false, cuts: 0, muted: None });
        let shared = Arc::new(Shared { state, loses: Mutex::default() });
        let accepting = tokio::spawn(accept(listener, shared.clone()));
        Self { port, shared, accepting }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `redis://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Loses half of the next call whose request holds `of`; of a read, only one that brings
    /// something. Its connection ends, and the line is down until [`mend`](Self::mend).
    pub fn lose(&self, half: Half, of: &'static str) {
        *self.shared.loses.lock().unwrap() = Some((half, of));
    }

    /// Whether what was to be lost is lost.
    pub fn has_lost(&self) -> bool {
        self.shared.loses.lock().unwrap().is_none()
    }

    /// Cuts all connections; new ones wait for [`mend`](Self::mend).
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// From now on requests with these letters in them are taken and never arrive; nobody learns
    /// of it.
    pub fn mute(&self, of: &'static str) {
        self.shared.state.send_modify(|state| state.muted = Some(of));
    }

    /// The line is whole again, and loses nothing.
    pub fn mend(&self) {
        *self.shared.loses.lock().unwrap() = None;
        self.shared.state.send_modify(|state| {
            state.is_down = false;
            state.muted = None;
        });
    }

    /// Cuts all connections; new ones lead to another server, as behind a balancer.
    pub fn lead_to(&self, server: u16) {
        self.shared.state.send_modify(|state| {
            state.cuts += 1;
            state.server = server;
        });
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

impl Shared {
    fn cut(&self) {
        self.state.send_modify(|state| {
            state.cuts += 1;
            state.is_down = true;
        });
    }

    /// Whether this is a half that is to be lost, of a call that `request` begins.
    fn is_to_lose(&self, half: Half, request: &[u8]) -> bool {
        self.loses.lock().unwrap().is_some_and(|(lost, of)| lost == half && has(request, of))
    }

    fn is_muted(&self, request: &[u8]) -> bool {
        self.state.borrow().muted.is_some_and(|of| has(request, of))
    }

    /// The line is down first: who sees that the half is lost finds it so.
    fn has_lost(&self) {
        self.cut();
        *self.loses.lock().unwrap() = None;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        tokio::spawn(async move {
            // An end by one of the two sides is what connections come to.
            let _ = connection(client, &shared).await;
        });
    }
}

async fn connection(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let mut state = shared.state.subscribe();
    let cuts = state.borrow().cuts;
    let is_settled = |state: &State| !state.is_down || state.cuts != cuts;
    let server = state.wait_for(is_settled).await.map_err(io::Error::other)?.server;
    let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut request = Vec::new();
    let (mut there, mut back) = (vec![0; CHUNK], vec![0; CHUNK]);
    loop {
        tokio::select! {
            biased;
            () = cut(&mut state, cuts) => return Ok(()),
            read = client.read(&mut there) => match read? {
                0 => return Ok(()),
                read => {
                    request = there[..read].to_vec();
                    if shared.is_to_lose(Half::Request, &request) {
                        shared.has_lost();
                        return Ok(());
                    }
                    if shared.is_muted(&request) {
                        continue;
                    }
                    server.write_all(&there[..read]).await?;
                }
            },
            read = server.read(&mut back) => match read? {
                0 => return Ok(()),
                read => {
                    let brings_something = back[0] == b'*' && !back.starts_with(b"*-1");
                    if brings_something && shared.is_to_lose(Half::Answer, &request) {
                        shared.has_lost();
                        return Ok(());
                    }
                    client.write_all(&back[..read]).await?;
                }
            },
        }
    }
}

fn has(request: &[u8], letters: &str) -> bool {
    request.windows(letters.len()).any(|window| window == letters.as_bytes())
}

async fn cut(state: &mut watch::Receiver<State>, cuts: u32) {
    // The sender is in `Shared`: there is no error.
    drop(state.wait_for(|state| state.cuts != cuts).await);
}
