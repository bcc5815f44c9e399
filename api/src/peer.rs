//! From where a request comes, as far as that can be believed.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName};

/// From where a request came: the other end of its connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer(pub IpAddr);

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address that a request is counted under: that of the connection, or the one that the
/// outermost of so many proxies of one's own wrote down. What stands before it is the caller's
/// own say, and worth nothing.
pub(crate) fn address(peer: Option<IpAddr>, headers: &HeaderMap, hops: usize) -> Option<IpAddr> {
    let Some(nth_last) = hops.checked_sub(1) else { return peer };
    let values: Vec<&str> =
        headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok()).collect();
    let written = values.iter().flat_map(|value| value.split(',')).collect::<Vec<_>>();
    written.iter().rev().nth(nth_last).and_then(|text| text.trim().parse().ok()).or(peer)
}

/// Whoever has one address of IPv6 has the 2^64 beside it.
pub(crate) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn only_ones_own_proxies_are_believed_about_an_address() {
        let peer: IpAddr = "10.0.0.1".parse().unwrap();
        let found = |sent: &[&'static str], hops| {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(FORWARDED_FOR, HeaderValue::from_static(value));
            }
            address(Some(peer), &headers, hops).unwrap().to_string()
        };
        assert_eq!(found(&["1.1.1.1"], 0), "10.0.0.1");
        assert_eq!(found(&["6.6.6.6, 1.1.1.1"], 1), "1.1.1.1");
        assert_eq!(found(&["6.6.6.6", "1.1.1.1, 2.2.2.2"], 2), "1.1.1.1");
        assert_eq!(found(&["6.6.6.6", "::1"], 1), "::1");
        for none in [&[][..], &["nonsense"], &["1.1.1.1,"]] {
            assert_eq!(found(none, 1), "10.0.0.1", "{none:?}");
        }
        assert_eq!(found(&["1.1.1.1"], 2), "10.0.0.1");
    }
}
