//! Loopback ports that no other test takes, not even while the server that owns one is down.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
};

/// Below the range from which systems give ports to outgoing connections: one of those could
/// otherwise sit on the port of a server that is about to come back.
const PORTS: Range<u16> = 20_000..32_000;

/// How often a server is started anew, elsewhere, because a foreign program was faster.
const ATTEMPTS: usize = 5;

/// A port that is ours until this is dropped, or the process ends.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    /// The UDP port of the same number, which no server wants: who has it may use the TCP port.
    _claim: UdpSocket,
}

impl Port {
    pub(crate) fn claim() -> Self {
        let ports = usize::from(PORTS.end - PORTS.start);
        // Every test process starts looking somewhere else.
        let start = RandomState::new().hash_one(std::process::id()) as usize % ports;
        PORTS
            .cycle()
            .skip(start)
            .take(ports)
            .find_map(|number| {
                let _claim = UdpSocket::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                TcpListener::bind((Ipv4Addr::LOCALHOST, number)).ok()?;
                Some(Self { number, _claim })
            })
            .expect("a free port on 127.0.0.1")
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Starts a server on a free port, and on another one if that was taken in between.
pub(super) fn on_a_free_port<S>(start: impl Fn(Port) -> Result<S, String>) -> S {
    let mut why = String::new();
    for _ in 0..ATTEMPTS {
        match start(Port::claim()) {
            Ok(server) => return server,
            Err(reason) => why = reason,
        }
    }
    panic!("{why}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_claimed_once() {
        let ports: Vec<Port> = (0..50).map(|_| Port::claim()).collect();
        let mut numbers: Vec<u16> = ports.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), ports.len());
    }
}
