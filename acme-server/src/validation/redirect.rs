//! Where an http-01 request goes, and where a redirect may lead: a small, strict reading of URI references, RFC 3986.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use ca_core::pkix::identifier::{DnsName, Identifier};
use http::uri::PathAndQuery;
use thiserror::Error;

/// A Location longer than this is not followed.
const MAX_LOCATION: usize = 2048;

/// The scheme of a URL that we fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Ports that may be connected to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// For http, and what a URL without a port means: the http-01 port.
    pub http: u16,
    /// For https.
    pub https: u16,
}

/// A URL that we fetch; without user information and fragment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Url {
    pub scheme: Scheme,
    pub host: Identifier,
    pub port: u16,
    pub target: PathAndQuery,
}

/// Why a redirect is not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(super) enum RefusedRedirect {
    #[error("its Location is longer than {MAX_LOCATION} bytes")]
    TooLong,
    #[error("its Location is not a valid URL")]
    Invalid,
    #[error("only http and https are followed")]
    Scheme,
    #[error("user information in a URL is not followed")]
    UserInformation,
    #[error("its host is neither a DNS name nor an IP address")]
    Host,
    #[error(
        "it leads to port {port}; http is followed to port {http} or {https} only, https to port {https} only"
    )]
    Port { port: u16, http: u16, https: u16 },
}

impl Url {
    /// What goes into the Host header, RFC 9110 §7.2: brackets round an IPv6 address, the port unless it is the
    /// scheme's own.
    pub fn host_header(&self) -> String {
        let host = match &self.host {
            Identifier::Ip(IpAddr::V6(address)) => format!("[{address}]"),
            other => other.value(),
        };
        match (self.scheme, self.port) {
            (Scheme::Http, 80) | (Scheme::Https, 443) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }

    /// The URL that `location` leads to from here, RFC 3986 §5.2 and RFC 9110 §10.2.2.
    ///
    /// # Errors
    /// Why it is not followed.
    pub fn follow(&self, location: &[u8], ports: Ports) -> Result<Self, RefusedRedirect> {
        if location.len() > MAX_LOCATION {
            return Err(RefusedRedirect::TooLong);
        }
        let text = str::from_utf8(location).map_err(|_| RefusedRedirect::Invalid)?;
        // A backslash is a slash to some readers and none to others; nobody needs one here.
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err(RefusedRedirect::Invalid);
        }
        let text = text.split_once('#').map_or(text, |(before, _)| before);
        let (scheme, rest) = match split_scheme(text) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), rest),
            Some(_) => return Err(RefusedRedirect::Scheme),
            None => (None, text),
        };
        if let Some(rest) = rest.strip_prefix("//") {
            let at = rest.find(['/', '?']).unwrap_or(rest.len());
            let (authority, target) = rest.split_at(at);
            let scheme = scheme.unwrap_or(self.scheme);
            let (host, port) = split_authority(authority)?;
            let port = match (port, scheme) {
                (Some(port), _) => port,
                (None, Scheme::Http) => ports.http,
                (None, Scheme::Https) => ports.https,
            };
            let fine = port == ports.https || (scheme == Scheme::Http && port == ports.http);
            if !fine {
                return Err(RefusedRedirect::Port { port, http: ports.http, https: ports.https });
            }
            let target =
                if target.starts_with('/') { normal(target)? } else { normal(&format!("/{target}"))? };
            return Ok(Self { scheme, host, port, target });
        }
        if scheme.is_some() {
            return Err(RefusedRedirect::Invalid);
        }
        Ok(Self { target: self.relative(rest)?, ..self.clone() })
    }

    fn relative(&self, reference: &str) -> Result<PathAndQuery, RefusedRedirect> {
        let base = self.target.path();
        match reference.bytes().next() {
            None => Ok(self.target.clone()),
            Some(b'/') => normal(reference),
            Some(b'?') => normal(&format!("{base}{reference}")),
            Some(_) => {
                let directory = base.rfind('/').and_then(|at| base.get(..=at)).unwrap_or("/");
                normal(&format!("{directory}{reference}"))
            }
        }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
        })
    }
}

/// RFC 3986 §3.1; `None` if there is no scheme.
fn split_scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let mut bytes = scheme.bytes();
    let valid = bytes.next().is_some_and(|b| b.is_ascii_alphabetic())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    valid.then_some((scheme, rest))
}

/// RFC 3986 §3.2.
fn split_authority(authority: &str) -> Result<(Identifier, Option<u16>), RefusedRedirect> {
    if authority.contains('@') {
        return Err(RefusedRedirect::UserInformation);
    }
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']').ok_or(RefusedRedirect::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| RefusedRedirect::Host)?;
        (Identifier::Ip(address.into()), port)
    } else {
        let at = authority.find(':').unwrap_or(authority.len());
        let (host, port) = authority.split_at(at);
        (host_of(host)?, port)
    };
    let port = match port.strip_prefix(':') {
        None if port.is_empty() => None,
        Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| RefusedRedirect::Invalid)?)
        }
        _ => return Err(RefusedRedirect::Invalid),
    };
    Ok((host, port))
}

/// A name or an IPv4 address in four decimal parts. [`DnsName`] refuses all else that some readers take for an
/// address, such as `127.1` and `2130706433`.
fn host_of(host: &str) -> Result<Identifier, RefusedRedirect> {
    if let Ok(address) = host.parse() {
        return Ok(Identifier::Ip(IpAddr::V4(address)));
    }
    let name = DnsName::parse(host.strip_suffix('.').unwrap_or(host)).map_err(|_| RefusedRedirect::Host)?;
    if name.is_wildcard() { Err(RefusedRedirect::Host) } else { Ok(Identifier::Dns(name)) }
}

/// The request target with its dot segments removed, RFC 3986 §5.2.4. `target` begins with a slash.
fn normal(target: &str) -> Result<PathAndQuery, RefusedRedirect> {
    let at = target.find('?').unwrap_or(target.len());
    let (path, query) = target.split_at(at);
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = path.split('/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            "." | ".." => {
                if part == ".." {
                    segments.pop();
                }
                if last {
                    segments.push("");
                }
            }
            other => segments.push(other),
        }
    }
    format!("/{}{query}", segments.join("/")).parse().map_err(|_| RefusedRedirect::Invalid)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PORTS: Ports = Ports { http: 80, https: 443 };

    fn base() -> Url {
        Url {
            scheme: Scheme::Http,
            host: Identifier::from_text("a.example").unwrap(),
            port: 80,
            target: "/b/c/d?q".parse().unwrap(),
        }
    }

    fn show(url: &Url) -> String {
        format!("{}://{}{}", url.scheme, url.host_header(), url.target)
    }

    fn follow(location: &str) -> Result<String, RefusedRedirect> {
        base().follow(location.as_bytes(), PORTS).map(|url| show(&url))
    }

    #[test]
    fn rfc3986_5_4_references_resolve_against_the_url_before() {
        for (reference, expected) in [
            ("http://x.example/y", "http://x.example/y"),
            ("HTTP://X.Example/y", "http://x.example/y"),
            ("https://x.example", "https://x.example/"),
            ("https://x.example:443/y?z", "https://x.example/y?z"),
            ("http://x.example:443/", "http://x.example:443/"),
            ("http://x.example?z", "http://x.example/?z"),
            ("http://x.example:/y", "http://x.example/y"),
            ("http://x.example./y", "http://x.example/y"),
            ("//x.example/y", "http://x.example/y"),
            ("/y", "http://a.example/y"),
            ("y", "http://a.example/b/c/y"),
            ("./y", "http://a.example/b/c/y"),
            ("../y", "http://a.example/b/y"),
            ("../../../../y", "http://a.example/y"),
            ("..", "http://a.example/b/"),
            (".", "http://a.example/b/c/"),
            ("/a/../y/.", "http://a.example/y/"),
            ("?y", "http://a.example/b/c/d?y"),
            ("", "http://a.example/b/c/d?q"),
            ("#fragment", "http://a.example/b/c/d?q"),
            ("y#fragment", "http://a.example/b/c/y"),
            ("y?a=../b", "http://a.example/b/c/y?a=../b"),
            ("http://192.0.2.7/", "http://192.0.2.7/"),
            ("http://[2001:db8::7]/", "http://[2001:db8::7]/"),
            ("http://[2001:DB8:0::7]:443/", "http://[2001:db8::7]:443/"),
        ] {
            assert_eq!(follow(reference).as_deref(), Ok(expected), "{reference}");
        }
    }

    #[test]
    fn redirects_go_to_the_two_ports_only() {
        for (location, port) in [
            ("http://x.example:8080/", 8080),
            ("http://x.example:22/", 22),
            ("https://x.example:80/", 80),
            ("https://x.example:8443/", 8443),
        ] {
            assert_eq!(
                follow(location),
                Err(RefusedRedirect::Port { port, http: 80, https: 443 }),
                "{location}"
            );
        }
        let ports = Ports { http: 5002, https: 443 };
        let mut here = base();
        here.port = 5002;
        let next = here.follow(b"http://x.example/", ports).unwrap();
        assert_eq!(show(&next), "http://x.example:5002/", "no port means the http-01 port");
        assert!(here.follow(b"http://x.example:80/", ports).is_err());
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for (location, expected) in [
            ("http://user@x.example/", RefusedRedirect::UserInformation),
            ("http://user:pass@x.example/", RefusedRedirect::UserInformation),
            ("http://good.example@127.0.0.1/", RefusedRedirect::UserInformation),
            ("ftp://x.example/", RefusedRedirect::Scheme),
            ("file:///etc/passwd", RefusedRedirect::Scheme),
            ("javascript:alert(1)", RefusedRedirect::Scheme),
            ("gopher://x.example/", RefusedRedirect::Scheme),
            ("http:x.example", RefusedRedirect::Invalid),
            ("http:/x.example", RefusedRedirect::Invalid),
            ("http:///y", RefusedRedirect::Host),
            ("http://127.1/", RefusedRedirect::Host),
            ("http://2130706433/", RefusedRedirect::Host),
            ("http://0177.0.0.1/", RefusedRedirect::Host),
            ("http://0x7f.0.0.1/", RefusedRedirect::Host),
            ("http://*.example/", RefusedRedirect::Host),
            ("http://[::1/", RefusedRedirect::Host),
            ("http://[fe80::1%25eth0]/", RefusedRedirect::Host),
            ("http://x.example:99999/", RefusedRedirect::Invalid),
            ("http://x.example:+80/", RefusedRedirect::Invalid),
            ("http://x.example:80:80/", RefusedRedirect::Invalid),
            ("http://[::1]80/", RefusedRedirect::Invalid),
            ("http://x.example/a b", RefusedRedirect::Invalid),
            ("http://x.example/\r\nX: y", RefusedRedirect::Invalid),
            ("http:\\\\x.example/", RefusedRedirect::Invalid),
            ("http://x.exämple/", RefusedRedirect::Invalid),
        ] {
            assert_eq!(follow(location), Err(expected), "{location}");
        }
        assert_eq!(follow(&format!("/{}", "a".repeat(2048))), Err(RefusedRedirect::TooLong));
        assert!(follow(&format!("/{}", "a".repeat(2047))).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_is_followed_goes_to_a_permitted_port_and_a_clean_target(location in "[a-z0-9:/?#@\\[\\]._%-]{0,60}") {
            if let Ok(url) = base().follow(location.as_bytes(), PORTS) {
                prop_assert!(url.port == 443 || (url.port == 80 && url.scheme == Scheme::Http));
                prop_assert!(url.target.path().starts_with('/'));
                prop_assert!(!url.target.path().split('/').any(|part| part == ".."));
                prop_assert!(!url.host.is_wildcard());
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(location in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = base().follow(&location, PORTS);
        }
    }
}
