//! Connections: one shared for commands, one of its own for each blocking reader.

use std::time::Duration;

use redis::{
    ConnectionInfo,
    aio::{ConnectionManager, ConnectionManagerConfig, PubSubStream},
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};

use tokio::time::timeout;

use crate::{BrokerError, BrokerSettings, wire::Wire};

/// Longer than any script of ours runs, short enough that a caller is not left hanging.
/// (redis-rs' own default of 500 ms cuts off answers that are on their way.)
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// A server that is there accepts within this, also across regions.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long sent bytes may stay unacknowledged before the kernel gives the connection up; it finds
/// a peer whose machine is gone, which no reconnect logic above would notice.
const UNACKED_TIMEOUT: Duration = Duration::from_secs(5);

/// Quiet connections are probed, so that a proxy or firewall that forgot them is noticed.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(3);

/// Makes connections to one Redis.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    client: redis::Client,
}

impl Connector {
    pub fn new(settings: &BrokerSettings, role: &str) -> Result<Self, BrokerError> {
        let info = settings.connection_info()?;
        let redis = info
            .redis_settings()
            .clone()
            .set_lib_name(format!("umbel-{role}"), env!("CARGO_PKG_VERSION"));
        let tcp = TcpSettings::default()
            .set_nodelay(true)
            .set_user_timeout(UNACKED_TIMEOUT)
            .set_keepalive(
                TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY),
            );
        let info: ConnectionInfo = info.set_redis_settings(redis).set_tcp_settings(tcp);
        let client = redis::Client::open(info).map_err(BrokerError::from)?;
        Ok(Self { client })
    }

    /// The shared connection: multiplexed, connects at the first call, reconnects by itself.
    pub fn shared(&self) -> Result<ConnectionManager, BrokerError> {
        let config = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            // Callers have their own backoff; a second one below it would only hide the outage.
            .set_number_of_retries(0);
        Ok(self.client.get_connection_manager_lazy(config)?)
    }

    /// A connection for one owner, whose answers may take up to `longest`.
    pub async fn own(&self, longest: Duration) -> Result<Wire, BrokerError> {
        Wire::connect(self.client.get_connection_info(), CONNECT_TIMEOUT, longest).await
    }

    /// A connection that hears what is said on some channels. It costs no command while nothing is.
    pub async fn subscribed(&self, channels: &[&String]) -> Result<PubSubStream, BrokerError> {
        let subscribing = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(channels).await?;
            Ok(connection.into_on_message())
        };
        // It has no time-outs of its own.
        let longest = CONNECT_TIMEOUT + RESPONSE_TIMEOUT;
        let subscribed = timeout(longest, subscribing).await;
        subscribed.unwrap_or_else(|_| {
            Err(BrokerError::Unavailable(format!("no subscription within {longest:?}")))
        })
    }
}
