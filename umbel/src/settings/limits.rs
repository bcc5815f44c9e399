//! How much the API takes in, as it is set.

use std::{num::NonZeroU32, time::Duration};

use clap::Args;
use umbel_api::Limits;

use crate::env::milliseconds;

/// The limits of the API; how far each may go it says itself.
#[derive(Debug, Clone, Args)]
pub(crate) struct LimitSettings {
    /// The largest body of a request, in bytes
    #[arg(long, env = "BODY_LIMIT", global = true, default_value_t = Limits::default().body_bytes)]
    pub body_limit: usize,

    /// How long the body of a request may take in all
    #[arg(long, env = "BODY_TIMEOUT", global = true, default_value = "15s", value_parser = crate::env::duration)]
    pub body_timeout: Duration,

    /// How long a connection may take to send the head of a request
    #[arg(long, env = "HEADER_TIMEOUT", global = true, default_value = "15s", value_parser = crate::env::duration)]
    pub header_timeout: Duration,

    /// How long a connection is kept between two requests: longer than the proxy before it keeps it
    #[arg(long, env = "KEEP_ALIVE", global = true, default_value = "75s", value_parser = crate::env::duration)]
    pub keep_alive: Duration,

    /// How many requests the API works on at once
    #[arg(long, env = "MAX_IN_FLIGHT", global = true, default_value_t = Limits::default().in_flight)]
    pub max_in_flight: usize,

    /// How many requests of one subject the API works on at once, and how many tasks one follows
    #[arg(long, env = "SUBJECT_MAX_IN_FLIGHT", global = true, default_value_t = Limits::default().subject_in_flight)]
    pub subject_max_in_flight: usize,

    /// How many connections are open to the API at once
    #[arg(long, env = "MAX_CONNECTIONS", global = true, default_value_t = Limits::default().connections)]
    pub max_connections: usize,

    /// Requests a second of one subject; 0 for any number
    #[arg(long, env = "RATE_LIMIT", global = true, default_value_t = a_second(Limits::default().per_subject))]
    pub rate_limit: u32,

    /// Requests a second of one address; 0 for any number
    #[arg(long, env = "PEER_RATE_LIMIT", global = true, default_value_t = a_second(Limits::default().per_peer))]
    pub peer_rate_limit: u32,

    /// How many proxies of one's own stand before the API and add to X-Forwarded-For
    #[arg(long, env = "PROXY_HOPS", global = true, default_value_t = Limits::default().proxy_hops)]
    pub proxy_hops: usize,

    /// A port of its own for /metrics, on HOST and without a token; without it admins read it
    #[arg(long, env = "METRICS_PORT", global = true)]
    pub metrics_port: Option<u16>,
}

/// A rate as it is set.
fn a_second(rate: Option<NonZeroU32>) -> u32 {
    rate.map_or(0, NonZeroU32::get)
}

impl LimitSettings {
    pub fn limits(&self) -> Limits {
        Limits {
            body_bytes: self.body_limit,
            header_timeout: self.header_timeout,
            keep_alive: self.keep_alive,
            body_timeout: self.body_timeout,
            in_flight: self.max_in_flight,
            subject_in_flight: self.subject_max_in_flight,
            connections: self.max_connections,
            per_subject: NonZeroU32::new(self.rate_limit),
            per_peer: NonZeroU32::new(self.peer_rate_limit),
            proxy_hops: self.proxy_hops,
        }
    }

    /// Those that are always there.
    pub fn as_env(&self) -> [(&'static str, String); 10] {
        [
            ("BODY_LIMIT", self.body_limit.to_string()),
            ("BODY_TIMEOUT", milliseconds(self.body_timeout)),
            ("HEADER_TIMEOUT", milliseconds(self.header_timeout)),
            ("KEEP_ALIVE", milliseconds(self.keep_alive)),
            ("MAX_IN_FLIGHT", self.max_in_flight.to_string()),
            ("SUBJECT_MAX_IN_FLIGHT", self.subject_max_in_flight.to_string()),
            ("MAX_CONNECTIONS", self.max_connections.to_string()),
            ("RATE_LIMIT", self.rate_limit.to_string()),
            ("PEER_RATE_LIMIT", self.peer_rate_limit.to_string()),
            ("PROXY_HOPS", self.proxy_hops.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        limits: LimitSettings,
    }

    #[test]
    fn what_nobody_sets_is_as_the_api_has_it() {
        let unset = Line::parse_from(["umbel"]).limits.limits();
        assert_eq!(format!("{unset:?}"), format!("{:?}", Limits::default()));
    }
}
