//! The connection that a worker reads on: one owner, one question at a time, and the replies where
//! they came.
//!
//! The library's own connections hand each question to a task and make a tree of values of each
//! answer; for what a worker reads that cost a third of all that it does.

use std::{io, sync::Arc, time::Duration};

use futures::future::select_ok;
use redis::{
    Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult,
    Value,
    aio::ConnectionLike,
    cmd,
    io::tcp::{TcpSettings, socket2::SockRef},
    parse_redis_value, pipe,
};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream, lookup_host},
    time::timeout,
};
use tokio_rustls::TlsConnector;

use crate::{
    BrokerError,
    reply::{Garbled, Scan, is_error},
};

/// A read of 64 small tasks fits.
const BUFFER_FIRST: usize = 64 * 1024;

/// What a buffer keeps of its room after large replies.
const BUFFER_KEPT: usize = 1024 * 1024;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Stream for T {}

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    /// How long replies may take.
    longest: Duration,
    came: Vec<u8>,
    /// A question was sent whose replies have not all been read: what comes next would be taken for
    /// the replies to another.
    out_of_step: bool,
}

/// What a question was answered with.
pub(crate) struct Replies<'a> {
    came: &'a [u8],
    ends: Vec<usize>,
}

impl Wire {
    /// Connects and says who we are. The replies to what is asked later may take up to `longest`.
    pub async fn connect(
        info: &ConnectionInfo,
        within: Duration,
        longest: Duration,
    ) -> Result<Self, BrokerError> {
        let connecting = async {
            let stream = open(info).await?;
            let mut wire = Self { stream, longest, came: Vec::new(), out_of_step: false };
            wire.introduce(info).await?;
            Ok(wire)
        };
        timeout(within, connecting)
            .await
            .unwrap_or_else(|_| Err(RedisError::from(too_late(within)).into()))
    }

    async fn introduce(&mut self, info: &ConnectionInfo) -> Result<(), BrokerError> {
        let settings = info.redis_settings();
        if let Some(password) = settings.password() {
            let mut auth = cmd("AUTH");
            auth.arg(settings.username()).arg(password);
            auth.query_async::<()>(self).await.map_err(|error| match error.into() {
                // Such as a password where none is set: of the settings, whatever its code.
                BrokerError::Unexpected(text) => BrokerError::Denied(text),
                error => error,
            })?;
        }
        let mut names = pipe();
        for (what, name) in [("LIB-NAME", settings.lib_name()), ("LIB-VER", settings.lib_ver())] {
            if let Some(name) = name {
                names.cmd("CLIENT").arg("SETINFO").arg(what).arg(name);
            }
        }
        if !names.is_empty() {
            // Servers before 7.2 do not know the command.
            self.ask(&names.get_packed_pipeline(), names.len()).await?;
        }
        Ok(())
    }

    /// Sends packed commands and waits for as many replies. After an error, and where this is
    /// dropped half way, the wire is of no use any more.
    pub async fn ask(&mut self, packed: &[u8], replies: usize) -> RedisResult<Replies<'_>> {
        if self.out_of_step {
            let broken = io::Error::new(io::ErrorKind::BrokenPipe, "an earlier answer is missing");
            return Err(broken.into());
        }
        self.out_of_step = true;
        self.came.clear();
        self.came.shrink_to(BUFFER_KEPT);
        let longest = self.longest;
        let asking = async {
            self.stream.write_all(packed).await?;
            self.stream.flush().await?;
            let mut scan = Scan::of(replies);
            loop {
                self.came.reserve(BUFFER_FIRST);
                if self.stream.read_buf(&mut self.came).await? == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
                }
                if scan.go_on(&self.came).map_err(garbled)? {
                    return Ok(scan.ends());
                }
            }
        };
        let ends = timeout(longest, asking).await.unwrap_or_else(|_| Err(too_late(longest)))?;
        self.out_of_step = false;
        Ok(Replies { came: &self.came, ends })
    }
}

impl Replies<'_> {
    /// The replies, each as it came.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = [0].into_iter().chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, end)| &self.came[begin..*end])
    }
}

impl ConnectionLike for Wire {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let replies = self.ask(&command.get_packed_command(), 1).await?;
            parse_redis_value(replies.came)
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let replies = self.ask(&pipeline.get_packed_pipeline(), offset + count).await?;
            replies.iter().skip(offset).map(parse_redis_value).collect()
        })
    }

    fn get_db(&self) -> i64 {
        // `BrokerSettings` refuses any other.
        0
    }
}

async fn open(info: &ConnectionInfo) -> RedisResult<Box<dyn Stream>> {
    let tcp = info.tcp_settings();
    Ok(match info.addr() {
        ConnectionAddr::Tcp(host, port) => Box::new(open_tcp(host, *port, tcp).await?),
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None } => {
            let name = ServerName::try_from(host.as_str())?.to_owned();
            let connector = TlsConnector::from(Arc::new(trust()?));
            Box::new(connector.connect(name, open_tcp(host, *port, tcp).await?).await?)
        }
        ConnectionAddr::Unix(path) => Box::new(UnixStream::connect(path).await?),
        _ => {
            return Err((ErrorKind::InvalidClientConfig, "such an address is not supported").into());
        }
    })
}

/// To whichever address of the host answers first.
async fn open_tcp(host: &str, port: u16, settings: &TcpSettings) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the host has no address"));
    }
    let connecting = addresses.into_iter().map(|address| Box::pin(TcpStream::connect(address)));
    let (stream, _) = select_ok(connecting).await?;
    stream.set_nodelay(settings.nodelay())?;
    let socket = SockRef::from(&stream);
    if let Some(keepalive) = settings.keepalive() {
        socket.set_tcp_keepalive(keepalive)?;
    }
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(settings.user_timeout())?;
    Ok(stream)
}

/// As the library has it for all other connections: the CAs of the system, or those that the
/// environment names.
fn trust() -> RedisResult<ClientConfig> {
    let mut found = rustls_native_certs::load_native_certs();
    if let Some(error) = found.errors.pop() {
        return Err(io::Error::other(error).into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in found.certs {
        roots.add(certificate)?;
    }
    Ok(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
}

/// The error of the server, where a reply is one.
pub(crate) fn refusal(reply: &[u8]) -> RedisResult<()> {
    if is_error(reply) { parse_redis_value(reply)?.extract_error().map(|_| ()) } else { Ok(()) }
}

fn garbled(error: Garbled) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

fn too_late(longest: Duration) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {longest:?}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    const LONGEST: Duration = Duration::from_secs(30);

    fn wire(longest: Duration) -> (Wire, DuplexStream) {
        let (ours, theirs) = duplex(64);
        let stream = Box::new(ours);
        (Wire { stream, longest, came: Vec::new(), out_of_step: false }, theirs)
    }

    async fn answers(mut theirs: DuplexStream, answer: &[u8]) {
        for byte in answer {
            theirs.write_all(&[*byte]).await.unwrap();
        }
        // It hears the question out before it hangs up.
        let _ = theirs.read(&mut [0; 64]).await;
    }

    #[tokio::test]
    async fn what_comes_byte_by_byte_is_read_whole_and_errors_are_those_of_the_library() {
        let (mut wire, theirs) = wire(LONGEST);
        let answering = tokio::spawn(answers(theirs, b"*1\r\n$1\r\na\r\n-NOGROUP gone\r\n"));
        let replies = wire.ask(b"q", 2).await.unwrap();
        let all: Vec<&[u8]> = replies.iter().collect();
        assert_eq!(all, [b"*1\r\n$1\r\na\r\n".as_slice(), b"-NOGROUP gone\r\n"]);
        refusal(all[0]).unwrap();
        let error = BrokerError::from(refusal(all[1]).unwrap_err());
        assert!(matches!(error, BrokerError::GroupGone(_)), "{error:?}");
        answering.await.unwrap();
    }

    #[tokio::test]
    async fn a_broken_off_or_garbled_reply_ends_the_wire() {
        for answer in [b"$9\r\nabc".as_slice(), b"", b"?what\r\n", b":1\r\n:2\r\n"] {
            let (mut wire, mut theirs) = wire(LONGEST);
            theirs.write_all(answer).await.unwrap();
            tokio::spawn(async move { theirs.shutdown().await });
            for _ in 0..2 {
                let error = wire.ask(b"q", 1).await.map(|_| ()).unwrap_err();
                let error = BrokerError::from(error);
                assert!(matches!(error, BrokerError::Unavailable(_)), "{answer:?}: {error:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_wire_that_was_left_waiting_gives_nobody_the_reply_to_another_question() {
        let (mut wire, mut theirs) = wire(Duration::from_millis(1));
        let late = BrokerError::from(wire.ask(b"q", 1).await.map(|_| ()).unwrap_err());
        assert!(matches!(late, BrokerError::Unavailable(_)), "{late:?}");
        theirs.write_all(b":1\r\n").await.unwrap();
        wire.longest = LONGEST;
        assert!(wire.ask(b"q", 1).await.is_err());
    }
}
