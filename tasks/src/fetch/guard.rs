//! Decides which addresses may be fetched, so that no page can send us into a private network.
//!
//! At every hop are checked: the address as written and its host if that is a literal ([`check`];
//! reqwest resolves no literals), all that a name resolves to ([`PublicOnly`]), and where the
//! connection that answered led to ([`is_public`]). What the resolver gives is what gets connected
//! to: a name is asked for once, and cannot change its mind in between.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use futures::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::{Host, Url};

use crate::{address, metadata::MAX_URL_BYTES};

/// Which client may fetch an address.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Reach {
    /// The one that connects to public addresses only.
    Public,
    /// The one for hosts that the settings name.
    Private,
}

/// Why an address is not fetched.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// It could be fetched, but not kept.
    #[error("an address longer than {MAX_URL_BYTES} bytes is not fetched")]
    TooLong,
    /// `file:`, `ftp:`, `gopher:`, …
    #[error("only http and https are fetched, not `{0}`")]
    Scheme(String),
    /// `https://name:password@host/`
    #[error("an address with a user name or a password is not fetched")]
    UserInfo,
    /// There is nobody to ask.
    #[error("the address has no host")]
    NoHost,
    /// Other services than web servers listen there.
    #[error("port {0} is not fetched from")]
    Port(u16),
    /// The host is, or resolves to, a private, local, reserved or otherwise not public address.
    #[error("`{0}` does not lead to a public address")]
    NotPublic(String),
}

/// Checks an address before it is asked for; a name is checked further when it is resolved.
pub(super) fn check(
    url: &Url,
    ports: &[u16],
    allowed: &[AllowedPrivate],
) -> Result<Reach, Refusal> {
    address::check(url)?;
    let (host, port) = url.host().zip(url.port_or_known_default()).ok_or(Refusal::NoHost)?;
    if allowed.iter().any(|allowed| allowed.names(&host, port)) {
        return Ok(Reach::Private);
    }
    if !ports.contains(&port) {
        return Err(Refusal::Port(port));
    }
    let literal = match host {
        Host::Domain(_) => return Ok(Reach::Public),
        Host::Ipv4(ip) => IpAddr::V4(ip),
        Host::Ipv6(ip) => IpAddr::V6(ip),
    };
    if is_public(literal) { Ok(Reach::Public) } else { Err(Refusal::NotPublic(host.to_string())) }
}

/// Finds the addresses of a name.
///
/// The system does ([`SystemLookup`]); a test has a name server of its own.
pub trait Lookup: fmt::Debug + Send + Sync + 'static {
    /// The addresses of `name`, in the order in which they are to be tried.
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As the system finds them: its hosts file, then its name servers.
#[derive(Clone, Copy, Debug)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// As many addresses of one name as are tried; the largest sites give a dozen.
const MAX_ADDRESSES: usize = 16;

/// Resolves names, and refuses one if any of its addresses is not public: which of them gets
/// connected to is not ours to say.
#[derive(Clone, Debug)]
pub(super) struct PublicOnly(pub Arc<dyn Lookup>);

impl PublicOnly {
    /// The addresses of a name, all of them public.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<SocketAddr>, LookupError> {
        let found = self.0.lookup(name.to_owned()).await?;
        if found.is_empty() {
            return Err(LookupError::None);
        }
        Ok(all_public(name, found)?)
    }
}

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            match resolver.addresses(name.as_str()).await {
                Ok(public) => Ok(Box::new(public.into_iter()) as Addrs),
                // As itself, for the fetch to find it among the causes of its failure.
                Err(LookupError::Refused(refusal)) => Err(refusal.into()),
                Err(error) => Err(error.into()),
            }
        })
    }
}

/// Why a name led to no address.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("the name cannot be resolved")]
    Failed(#[from] io::Error),
    #[error("the name has no address")]
    None,
}

fn all_public(name: &str, found: Vec<IpAddr>) -> Result<Vec<SocketAddr>, Refusal> {
    // All are looked at, also those that are not tried.
    if !found.iter().copied().all(is_public) {
        return Err(Refusal::NotPublic(name.to_owned()));
    }
    Ok(found.into_iter().take(MAX_ADDRESSES).map(|ip| SocketAddr::new(ip, 0)).collect())
}

/// What of IPv4 is not the open internet, by the special-purpose registry of IANA.
const NOT_PUBLIC_V4: [(Ipv4Addr, u32); 16] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),        // this network
    (Ipv4Addr::new(10, 0, 0, 0), 8),       // private
    (Ipv4Addr::new(100, 64, 0, 0), 10),    // carrier-grade NAT
    (Ipv4Addr::new(127, 0, 0, 0), 8),      // loopback
    (Ipv4Addr::new(169, 254, 0, 0), 16),   // link-local, and the clouds' metadata
    (Ipv4Addr::new(172, 16, 0, 0), 12),    // private
    (Ipv4Addr::new(192, 0, 0, 0), 24),     // protocol assignments
    (Ipv4Addr::new(192, 0, 2, 0), 24),     // documentation
    (Ipv4Addr::new(192, 88, 99, 0), 24),   // 6to4 relays
    (Ipv4Addr::new(192, 168, 0, 0), 16),   // private
    (Ipv4Addr::new(198, 18, 0, 0), 15),    // benchmarks
    (Ipv4Addr::new(198, 51, 100, 0), 24),  // documentation
    (Ipv4Addr::new(203, 0, 113, 0), 24),   // documentation
    (Ipv4Addr::new(224, 0, 0, 0), 4),      // multicast
    (Ipv4Addr::new(240, 0, 0, 0), 4),      // reserved, and broadcast
    (Ipv4Addr::new(168, 63, 129, 16), 32), // Azure's host, public by number only
];

/// The only part of IPv6 that is given out. All else, such as `::1`, mapped IPv4, NAT64, unique
/// local, link-local and multicast, lies outside.
const GLOBAL_V6: (Ipv6Addr, u32) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// What of that part is not the open internet.
const NOT_PUBLIC_V6: [(Ipv6Addr, u32); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo among them
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32), // documentation
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, which holds any IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20), // documentation
];

/// Whether an address is one of the open internet.
pub(super) fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let within = |(net, bits)| (ip.to_bits() ^ Ipv4Addr::to_bits(net)) >> (32 - bits) == 0;
            !NOT_PUBLIC_V4.into_iter().any(within)
        }
        IpAddr::V6(ip) => {
            let within = |(net, bits)| (ip.to_bits() ^ Ipv6Addr::to_bits(net)) >> (128 - bits) == 0;
            within(GLOBAL_V6) && !NOT_PUBLIC_V6.into_iter().any(within)
        }
    }
}

/// A host that may be fetched though it is not public: `host-or-ip`, which allows every port, or
/// `host-or-ip:port`. IPv6 with a port needs brackets, `[::1]:8123`.
///
/// It is compared with the host as the address writes it; another name for the same machine is
/// not allowed by it.
#[derive(Clone, Debug, PartialEq)]
pub struct AllowedPrivate {
    host: Host<String>,
    port: Option<u16>,
}

impl AllowedPrivate {
    fn names(&self, host: &Host<&str>, port: u16) -> bool {
        self.host == *host && self.port.is_none_or(|allowed| allowed == port)
    }
}

impl FromStr for AllowedPrivate {
    type Err = AllowedPrivateError;

    fn from_str(text: &str) -> Result<Self, AllowedPrivateError> {
        let wrong = || AllowedPrivateError { text: text.to_owned() };
        if let Ok(ip) = text.parse::<Ipv6Addr>() {
            return Ok(Self { host: Host::Ipv6(ip), port: None });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !text.ends_with(']') => {
                let port = port.parse().ok().filter(|port| *port != 0);
                (host, Some(port.ok_or_else(wrong)?))
            }
            _ => (text, None),
        };
        let host = Host::parse(host).map_err(|_| wrong())?;
        // The parser for hosts lets `*` and the like through, which would silently match nothing.
        match &host {
            Host::Domain(name)
                if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) =>
            {
                Err(wrong())
            }
            _ => Ok(Self { host, port }),
        }
    }
}

/// A setting that names no host.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "`{text}` is not a host with or without a port, such as `localhost`, `127.0.0.1:8123` or `[::1]:8123`"
)]
pub struct AllowedPrivateError {
    text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(url: &str, allowed: &[&str]) -> Result<Reach, Refusal> {
        let allowed: Vec<_> = allowed.iter().map(|text| text.parse().unwrap()).collect();
        check(&url.parse().unwrap(), &[80, 443], &allowed)
    }

    fn refused_as_not_public(url: &str) {
        assert!(matches!(reach(url, &[]), Err(Refusal::NotPublic(_))), "{url}");
    }

    #[test]
    fn only_web_addresses_without_credentials_on_web_ports_are_fetched() {
        assert_eq!(reach("https://example.com/a", &[]), Ok(Reach::Public));
        assert_eq!(reach("http://example.com:443/", &[]), Ok(Reach::Public));
        assert_eq!(reach("ftp://example.com/", &[]), Err(Refusal::Scheme("ftp".into())));
        assert_eq!(reach("file:///etc/passwd", &[]), Err(Refusal::Scheme("file".into())));
        assert_eq!(reach("https://ada@example.com/", &[]), Err(Refusal::UserInfo));
        assert_eq!(reach("https://:pw@example.com/", &[]), Err(Refusal::UserInfo));
        assert_eq!(reach("http://example.com:6379/", &[]), Err(Refusal::Port(6379)));
        let long = format!("https://example.com/{}", "a".repeat(2048));
        assert_eq!(reach(&long, &[]), Err(Refusal::TooLong));
        assert_eq!(reach(&long[..2048], &[]), Ok(Reach::Public));
    }

    #[test]
    fn literal_hosts_that_are_not_public_are_refused_however_they_are_written() {
        for host in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.170",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
            "127.0.0.1.",
            "%31%32%37.0.0.1",
            "①②⑦.0.0.1",
            "[::]",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:8.8.8.8]",
            "[::127.0.0.1]",
            "[64:ff9b::7f00:1]",
            "[64:ff9b:1::1]",
            "[100::1]",
            "[2001::1]",
            "[2001:db8::1]",
            "[2002:7f00:1::]",
            "[3fff::1]",
            "[5f00::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[ff02::1]",
            "[4000::1]",
        ] {
            refused_as_not_public(&format!("http://{host}/"));
        }
    }

    #[test]
    fn literal_hosts_next_to_the_refused_ones_are_public() {
        for host in [
            "1.1.1.1",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.0.0.1",
            "128.0.0.1",
            "169.253.0.1",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.1",
            "192.167.0.1",
            "198.17.0.1",
            "198.20.0.0",
            "223.255.255.255",
            "[2001:200::1]",
            "[2001:4860:4860::8888]",
            "[2606:4700::1111]",
            "[3ffe::1]",
        ] {
            assert_eq!(reach(&format!("http://{host}/"), &[]), Ok(Reach::Public), "{host}");
        }
    }

    #[test]
    fn a_name_is_refused_if_any_of_its_addresses_is_not_public() {
        let resolved = |addresses: &[&str]| {
            let found = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
            all_public("example.com", found).map(|found| found.len())
        };
        assert_eq!(resolved(&["1.1.1.1", "2606:4700::1111"]), Ok(2));
        for mixed in [["1.1.1.1", "127.0.0.1"], ["::1", "1.1.1.1"], ["1.1.1.1", "fd00::1"]] {
            assert_eq!(resolved(&mixed), Err(Refusal::NotPublic("example.com".into())));
        }
        let many = [vec!["1.1.1.1"; 100], vec!["10.0.0.1"]].concat();
        assert_eq!(resolved(&many[..100]), Ok(16));
        assert!(resolved(&many).is_err(), "also the one that would not be tried");
    }

    #[test]
    fn the_development_setting_allows_what_it_names_and_nothing_else() {
        let with_port = ["127.0.0.1:8123", "[::1]:8123", "LOCALHOST:8123"];
        for url in ["http://127.0.0.1:8123/", "http://[::1]:8123/a", "http://localhost:8123/"] {
            assert_eq!(reach(url, &with_port), Ok(Reach::Private), "{url}");
        }
        refused_as_not_public("http://127.0.0.1/");
        assert_eq!(
            reach("http://localhost/", &with_port),
            Ok(Reach::Public),
            "the resolver refuses"
        );
        assert_eq!(reach("http://127.0.0.1:8124/", &with_port), Err(Refusal::Port(8124)));
        assert_eq!(reach("http://127.0.0.2:8123/", &with_port), Err(Refusal::Port(8123)));
        assert_eq!(reach("http://a@127.0.0.1:8123/", &with_port), Err(Refusal::UserInfo));
        assert_eq!(reach("ftp://127.0.0.1:8123/", &with_port), Err(Refusal::Scheme("ftp".into())));

        for url in ["http://127.0.0.1/", "https://127.0.0.1:1/", "http://[::1]:9/"] {
            assert_eq!(reach(url, &["127.0.0.1", "::1"]), Ok(Reach::Private), "{url}");
        }
    }

    #[test]
    fn a_wrong_development_setting_is_refused_with_a_sentence() {
        for wrong in [
            "",
            ":80",
            "127.0.0.1:",
            "127.0.0.1:0",
            "127.0.0.1:70000",
            "127.0.0.1:http",
            "10.0.0.0/8",
            "http://localhost",
            "localhost:1:2",
            "a b",
            "*",
            "*.local",
            "ada@host",
            "[::1",
            "::1]",
            "[::1]8123",
            "256.1.1.1",
        ] {
            let error = wrong.parse::<AllowedPrivate>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("`{wrong}` is not a host")), "{error}");
        }
    }
}
