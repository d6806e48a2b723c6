//! From which address a request comes.
//!
//! That is the other end of the connection, unless that is a proxy which the owner trusts to say for whom it asks: then
//! `X-Forwarded-For` is read from its end on, past all trusted proxies, to the first address that is none of them. Whoever
//! is not trusted may write into that header what they like, and it is not looked at.

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;

use crate::auth::Bearer;
use crate::config::Network;

const FORWARDED_FOR: &str = "x-forwarded-for";
/// Proxies in a row that are believed, at most.
const HOPS_MAX: usize = 16;

/// The address of whoever sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client(pub(super) IpAddr);

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

impl Client {
    /// Where nothing is known of the connection.
    pub(super) const UNKNOWN: Self = Self(IpAddr::V6(Ipv6Addr::UNSPECIFIED));

    /// Who asks, as far as the trusted proxies say.
    pub(super) fn of(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> Self {
        let is_trusted = |address: &IpAddr| trusted.iter().any(|network| network.contains(*address));
        let mut client = peer.to_canonical();
        // Several headers are one list; proxies add to its end.
        let lists: Vec<_> = headers.get_all(FORWARDED_FOR).iter().collect();
        let mut entries =
            lists.iter().rev().filter_map(|list| list.to_str().ok()).flat_map(|list| list.rsplit(','));
        for _ in 0..HOPS_MAX {
            if !is_trusted(&client) {
                break;
            }
            // What a trusted proxy did not write as an address leaves the proxy itself.
            let Some(address) = entries.next().and_then(address) else { break };
            client = address;
        }
        Self(client)
    }

    /// By what it is counted: who has an IPv6 address has 2^64 of them.
    pub(super) fn network(self) -> IpAddr {
        match self.0 {
            IpAddr::V4(_) => self.0,
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        }
    }
}

/// An address, with or without brackets and a port.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.parse::<IpAddr>().ok();
    let bracketed = || text.strip_prefix('[')?.split_once(']')?.0.parse().ok();
    let with_port = || text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip());
    plain.or_else(bracketed).or_else(with_port).map(|address| address.to_canonical())
}

/// What a request shows: a key or token, if it has one, and where it comes from.
pub(super) struct Presented {
    pub(super) bearer: Option<Bearer>,
    pub(super) client: Client,
}

impl<S: Sync> FromRequestParts<S> for Presented {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(Self::read(parts))
    }
}

impl Presented {
    fn read(parts: &Parts) -> Self {
        let client = parts.extensions.get().copied().unwrap_or(Client::UNKNOWN);
        Self { bearer: super::sync::bearer(&parts.headers), client }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[&str], trusted: &str) -> String {
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(FORWARDED_FOR, header.parse().unwrap());
        }
        let trusted = Network::list(trusted).unwrap();
        Client::of(peer.parse().unwrap(), &map, &trusted).to_string()
    }

    #[test]
    fn only_trusted_proxies_say_for_whom_they_ask() {
        let forged = ["1.2.3.4, 5.6.7.8"];
        assert_eq!(client("9.9.9.9", &forged, ""), "9.9.9.9");
        assert_eq!(client("9.9.9.9", &forged, "127.0.0.1"), "9.9.9.9");
        assert_eq!(client("127.0.0.1", &forged, "127.0.0.1"), "5.6.7.8");
        assert_eq!(client("::ffff:127.0.0.1", &forged, "127.0.0.1"), "5.6.7.8");
        // What a client writes stands before what the proxy adds, also in a header of its own.
        assert_eq!(client("127.0.0.1", &["6.6.6.6", "5.6.7.8"], "127.0.0.1"), "5.6.7.8");
        assert_eq!(client("10.1.1.1", &["6.6.6.6, 5.6.7.8, 10.9.9.9"], "10.0.0.0/8"), "5.6.7.8");
        assert_eq!(client("10.1.1.1", &["10.0.0.7, 10.9.9.9"], "10.0.0.0/8"), "10.0.0.7");
        assert_eq!(client("127.0.0.1", &[], "127.0.0.1"), "127.0.0.1");
        for rubbish in ["5.6.7.8, x", "5.6.7.8,", "5.6.7.8, unknown", "5.6.7.8, 1.2.3.4.5"] {
            assert_eq!(client("127.0.0.1", &[rubbish], "127.0.0.1"), "127.0.0.1", "{rubbish}");
        }
        for (text, expected) in [("[2001:db8::1]:443", "2001:db8::1"), ("5.6.7.8:99", "5.6.7.8")] {
            assert_eq!(client("127.0.0.1", &[text], "127.0.0.1"), expected);
        }
        let long = ["127.0.0.1,".repeat(200)];
        assert_eq!(client("127.0.0.1", &[&long[0]], "127.0.0.1"), "127.0.0.1");
    }

    #[test]
    fn an_owner_of_ipv6_addresses_is_one_caller() {
        let network = |text: &str| Client(text.parse().unwrap()).network().to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("5.6.7.8"), "5.6.7.8");
    }
}
