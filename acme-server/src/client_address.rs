//! The address of a client: the peer's, or behind trusted proxies what they say in X-Forwarded-For or Forwarded
//! ([RFC 7239](https://www.rfc-editor.org/rfc/rfc7239)).

use std::net::{IpAddr, SocketAddr};

use ca_core::policy::Network;
use http::{Extensions, HeaderMap, HeaderName};

/// The far side of the connection that a request came over; the listener puts it into the request's extensions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub SocketAddr);

/// The client's address, in the extensions of a request under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// How many hops are looked at.
const MAX_HOPS: usize = 32;

/// The proxies that are believed, and where they say for whom they ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies {
    /// Their networks.
    pub networks: Vec<Network>,
    /// Which header they write. The other one may come from anybody, so it is never looked at.
    pub header: ForwardedHeader,
}

/// The header in which proxies say for whom they ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardedHeader {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
}

impl ForwardedHeader {
    /// Every header.
    pub const ALL: [Self; 2] = [Self::XForwardedFor, Self::Forwarded];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::XForwardedFor => "x-forwarded-for",
            Self::Forwarded => "forwarded",
        }
    }
}

impl TrustedProxies {
    /// The client's address; `None` if the listener did not say who the peer is.
    pub(crate) fn client(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        let peer = extensions.get::<Peer>()?;
        Some(self.address(peer.0.ip(), headers))
    }

    /// Goes from the peer back hop by hop while the hop is trusted. What can't be read ends the way: then the last hop
    /// that is known counts as the client, never what stands beyond.
    fn address(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut known = peer.to_canonical();
        if !self.trusts(known) {
            return known;
        }
        let name = HeaderName::from_static(self.header.name());
        let mut lines = Vec::new();
        for line in headers.get_all(name) {
            let Ok(line) = line.to_str() else { return known };
            lines.push(line);
        }
        let elements = lines.iter().rev().flat_map(|line| split(line).into_iter().rev());
        for element in elements.take(MAX_HOPS) {
            let said = match self.header {
                ForwardedHeader::XForwardedFor => address(element),
                ForwardedHeader::Forwarded => forwarded_for(element).and_then(|node| address(&node)),
            };
            let Some(said) = said else { return known };
            known = said.to_canonical();
            if !self.trusts(known) {
                return known;
            }
        }
        known
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

/// The elements of a list, split at commas outside quotes.
fn split(line: &str) -> Vec<&str> {
    let (mut elements, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, character) in line.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                elements.push(line[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    elements.push(line[start..].trim());
    elements
}

/// The `for` parameter of an element of Forwarded; `None` unless it stands there once.
fn forwarded_for(element: &str) -> Option<String> {
    let mut found = None;
    for pair in element.split(';') {
        let (name, value) = pair.trim().split_once('=')?;
        if name.eq_ignore_ascii_case("for") {
            let value = match value.strip_prefix('"') {
                // An address needs no escape, so one that has any is none.
                Some(rest) => rest.strip_suffix('"').filter(|inner| !inner.contains(['"', '\\']))?,
                None => value,
            };
            if found.replace(value.to_owned()).is_some() {
                return None;
            }
        }
    }
    found
}

/// `192.0.2.1`, `192.0.2.1:443`, `2001:db8::1`, `[2001:db8::1]` or `[2001:db8::1]:443`.
fn address(text: &str) -> Option<IpAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Some(socket.ip());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse().ok().map(IpAddr::V6)
}

/// The network that counts as one client, as text.
pub(crate) fn network_of(address: IpAddr, ipv4_prefix: u8, ipv6_prefix: u8) -> String {
    match address {
        IpAddr::V4(address) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(ipv4_prefix.min(32))).unwrap_or(0);
            format!("{}/{ipv4_prefix}", std::net::Ipv4Addr::from(u32::from(address) & mask))
        }
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            format!("{}/{ipv6_prefix}", std::net::Ipv6Addr::from(u128::from(address) & mask))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ForwardedHeader) -> TrustedProxies {
        let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec();
        TrustedProxies { networks, header }
    }

    fn seen(proxies: &TrustedProxies, peer: &str, lines: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(proxies.header.name(), line.parse().unwrap());
        }
        proxies.address(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn a_stranger_is_who_connects_whatever_the_headers_say() {
        for header in ForwardedHeader::ALL {
            let proxies = proxies(header);
            assert_eq!(seen(&proxies, "192.0.2.7", &["10.0.0.1", "for=10.0.0.1"]), "192.0.2.7");
        }
        let none = TrustedProxies::default();
        assert_eq!(seen(&none, "10.0.0.1", &["192.0.2.1"]), "10.0.0.1");
        assert_eq!(seen(&none, "::ffff:192.0.2.1", &[]), "192.0.2.1");
    }

    #[test]
    fn behind_proxies_the_client_is_the_last_hop_that_is_none() {
        let proxies = proxies(ForwardedHeader::XForwardedFor);
        for (lines, client) in [
            (&["192.0.2.1"][..], "192.0.2.1"),
            // What a client puts in front is not believed.
            (&["198.51.100.1, 10.9.9.9, 192.0.2.1"], "192.0.2.1"),
            (&["198.51.100.1", "192.0.2.1, 10.0.0.2"], "192.0.2.1"),
            (&["192.0.2.1:4711"], "192.0.2.1"),
            (&["[2001:db8::1]:4711, fd00::2"], "2001:db8::1"),
            (&["2001:db8::1"], "2001:db8::1"),
            (&["::ffff:192.0.2.1"], "192.0.2.1"),
            // Trusted to the end: the first of them asks for itself.
            (&["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            // What can't be read hides what stands before it.
            (&["192.0.2.1, unknown"], "10.0.0.1"),
            (&["192.0.2.1, , 10.0.0.2"], "10.0.0.2"),
            (&["192.0.2.1 192.0.2.2"], "10.0.0.1"),
            (&["192.0.2.01"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
            (&[], "10.0.0.1"),
        ] {
            assert_eq!(seen(&proxies, "10.0.0.1", lines), client, "{lines:?}");
            assert_eq!(seen(&proxies, "::ffff:10.0.0.1", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn rfc7239_forwarded_is_read_strictly() {
        let proxies = proxies(ForwardedHeader::Forwarded);
        for (line, client) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=198.51.100.1, for=192.0.2.43, for=\"10.1.1.1:80\"", "192.0.2.43"),
            ("for=\"198.51.100.1, for=192.0.2.43\"", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("for=_hidden", "10.0.0.1"),
            ("for=192.0.2.1;for=192.0.2.2", "10.0.0.1"),
            ("for=\"192.0.2.1", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
            ("192.0.2.1", "10.0.0.1"),
        ] {
            assert_eq!(seen(&proxies, "10.0.0.1", &[line]), client, "{line}");
        }
    }

    #[test]
    fn a_client_has_a_whole_network() {
        let network = |text: &str, four, six| network_of(text.parse().unwrap(), four, six);
        assert_eq!(network("192.0.2.77", 32, 64), "192.0.2.77/32");
        assert_eq!(network("192.0.2.77", 24, 64), "192.0.2.0/24");
        assert_eq!(network("192.0.2.77", 0, 64), "0.0.0.0/0");
        assert_eq!(network("2001:db8:1:2:3::4", 32, 64), "2001:db8:1:2::/64");
        assert_eq!(network("2001:db8:1:2:3::4", 32, 128), "2001:db8:1:2:3::4/128");
        assert_eq!(network("2001:db8:1:2:3::4", 32, 0), "::/0");
    }
}
