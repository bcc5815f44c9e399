//! What holds a role to its supervisor: a pair of sockets, the one's standard input the other's to
//! keep. Its end tells the role that the supervisor is gone, however that ended; one byte the other
//! way tells the supervisor that the role was ready once.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    thread,
};

use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Set by the supervisor: standard input is a lifeline.
pub(crate) const SUPERVISED: &str = "UMBEL_SUPERVISED";

pub(crate) fn is_supervised() -> bool {
    std::env::var_os(SUPERVISED).is_some()
}

/// The supervisor's end.
#[derive(Debug)]
pub(crate) struct Lifeline(UnixStream);

impl Lifeline {
    /// One end to keep for as long as the role is to run, one for its standard input.
    pub fn new() -> io::Result<(Self, Stdio)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        Ok((Self(ours), Stdio::from(OwnedFd::from(theirs))))
    }

    /// Whether the role has been ready; asked once it has ended.
    pub fn was_ready(&mut self) -> io::Result<bool> {
        loop {
            match self.0.read(&mut [0]) {
                Ok(bytes) => return Ok(bytes > 0),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Children of the role may still hold the other end.
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                // It ended with something unread: that we wrote nothing does not keep it from that.
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Says in a role that it is ready: all that may be wrong with its settings, its state and its
/// address would have shown by now.
pub(crate) fn tell_ready() {
    if !is_supervised() {
        return;
    }
    let said = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from);
    if let Err(error) = said.and_then(|mut stream| stream.write_all(b"r")) {
        warn!(%error, "the supervisor cannot be told that this role is ready");
    }
}

/// A role must not outlive its supervisor. A thread, because nothing could cancel the read and let
/// the runtime end.
pub(crate) fn end_with_supervisor(shutdown: CancellationToken) -> io::Result<()> {
    thread::Builder::new()
        .name("supervisor-watch".to_owned())
        .spawn(move || {
            let mut byte = [0];
            while matches!(io::stdin().read(&mut byte), Ok(1..)) {}
            if !shutdown.is_cancelled() {
                warn!("the supervisor is gone; stopping");
                shutdown.cancel();
            }
        })
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn run(script: &str) -> bool {
        let (mut lifeline, theirs) = Lifeline::new().unwrap();
        let mut child = Command::new("sh").args(["-c", script]).stdin(theirs).spawn().unwrap();
        child.wait().unwrap();
        lifeline.was_ready().unwrap()
    }

    #[test]
    fn what_a_role_said_before_it_died_is_heard() {
        assert!(run("printf r >&0; kill -KILL $$"));
        assert!(!run("exit 1"));
        // A process that it has left behind holds the other end.
        assert!(!run("sleep 1 & exit 1"));
        assert!(run("printf r >&0; sleep 1 & exit 1"));
    }

    #[test]
    fn a_role_sees_the_end_of_its_supervisor() {
        let (lifeline, theirs) = Lifeline::new().unwrap();
        let mut child = Command::new("cat").stdin(theirs).spawn().unwrap();
        assert!(child.try_wait().unwrap().is_none());
        drop(lifeline);
        assert!(child.wait().unwrap().success());
    }
}
