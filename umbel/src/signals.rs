//! What signals ask of a process: the first to end in order, the second to end at once. A role under a
//! supervisor listens to the first alone: who signals a whole group, as systemd does, reaches it twice,
//! by itself and through its supervisor, which kills it when all is to end at once.

use std::{fs, io};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::lifeline::is_supervised;

/// Ended at once by a second signal, as `128 + SIGTERM`.
pub(crate) const HARD_STOP: i32 = 143;

/// What has been asked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    /// An orderly end.
    pub stop: CancellationToken,
    /// An end at once.
    pub at_once: CancellationToken,
}

impl Asked {
    /// Listens to SIGTERM, SIGINT and SIGHUP.
    pub fn by_signals() -> io::Result<Self> {
        let asked = Self::default();
        let signals = Signals::listen()?;
        tokio::spawn(signals.tell(asked.clone()));
        Ok(asked)
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The terminal is gone. Under `nohup` it is not listened to.
    hangup: Option<Signal>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: match is_ignored(SIGHUP) {
                true => None,
                false => Some(signal(SignalKind::hangup())?),
            },
        })
    }

    async fn next(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => drop(hangup.recv().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hangup => "SIGHUP",
        }
    }

    async fn tell(mut self, asked: Asked) {
        let signal = self.next().await;
        info!(signal, "stopping");
        asked.stop.cancel();
        if is_supervised() {
            return;
        }
        let signal = self.next().await;
        warn!(signal, "a second signal: ending at once");
        asked.at_once.cancel();
        let signal = self.next().await;
        warn!(signal, "a third signal: gone");
        std::process::exit(HARD_STOP);
    }
}

const SIGHUP: u32 = 1;

/// Whether who started us wants us not to hear of a signal, as `nohup` does.
fn is_ignored(signal: u32) -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| ignores(&status, signal))
}

fn ignores(status: &str, signal: u32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_from_the_mask() {
        let status = |mask: &str| format!("Name:\tumbel\nSigIgn:\t{mask}\nSigCgt:\t0001\n");
        assert!(ignores(&status("0000000000001001"), SIGHUP));
        assert!(!ignores(&status("0000000000001000"), SIGHUP));
        assert!(!ignores("", SIGHUP));
    }
}
