//! Which addresses validation may connect to: the operator's lists, and the IANA special-purpose address registries
//! (RFC 6890) for what is in neither.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ca_core::policy::Network;
use thiserror::Error;

/// The addresses that may be connected to.
///
/// An address of a denied network is refused, even if an allowed network has it too; one of an allowed network is
/// admitted; any other only if it is a globally reachable unicast address. An IPv6 address that stands for an IPv4
/// address (IPv4-mapped, IPv4-compatible, NAT64, 6to4) is judged as both.
#[derive(Clone, Debug, Default)]
pub struct Egress {
    /// Admitted beside global addresses.
    pub allow: Vec<Network>,
    /// Refused, whatever else is said.
    pub deny: Vec<Network>,
}

/// Why an address may not be connected to. For an IPv6 form of an IPv4 address, `address` is the one at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Denied {
    /// A denied network has it.
    #[error("{address} is in a denied network")]
    Listed {
        /// The address.
        address: IpAddr,
    },
    /// It is not global, and no allowed network has it.
    #[error("{address} is not a global address and is in no allowed network")]
    NotGlobal {
        /// The address.
        address: IpAddr,
    },
}

impl Egress {
    /// Whether `address` may be connected to.
    ///
    /// # Errors
    /// Which rule forbids it.
    pub fn vet(&self, address: IpAddr) -> Result<(), Denied> {
        let form = Form::of(address);
        let readings = match form {
            Form::Plain => vec![address],
            Form::Translated(inner) => vec![address, inner.into()],
            Form::LocalTranslation { .. } => {
                let mut all = vec![address];
                all.extend(local_translations(address).into_iter().flatten().map(IpAddr::from));
                all
            }
        };
        if let Some(listed) = readings.into_iter().find(|reading| contains(&self.deny, *reading)) {
            return Err(Denied::Listed { address: listed });
        }
        match form {
            Form::Plain => self.admit(address),
            // The outer address is only a way to write or to reach the inner one.
            Form::Translated(inner) => self.admit(inner.into()),
            Form::LocalTranslation { inner } => {
                self.admit(address)?;
                self.admit(inner.into())
            }
        }
    }

    fn admit(&self, address: IpAddr) -> Result<(), Denied> {
        if contains(&self.allow, address) || is_global(address) {
            Ok(())
        } else {
            Err(Denied::NotGlobal { address })
        }
    }
}

fn contains(networks: &[Network], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(address))
}

/// What an address stands for.
#[derive(Clone, Copy)]
enum Form {
    /// Itself.
    Plain,
    /// This IPv4 address: IPv4-mapped and IPv4-compatible (RFC 4291 §2.5.5), NAT64 (RFC 6052 §2.1), 6to4 (RFC 3056).
    Translated(Ipv4Addr),
    /// An IPv4 address behind a translator of the operator's own (RFC 8215), in the layout of a /96 prefix.
    LocalTranslation { inner: Ipv4Addr },
}

impl Form {
    fn of(address: IpAddr) -> Self {
        let IpAddr::V6(address) = address else { return Self::Plain };
        let [a, b, c, d, e, f, g, h] = address.segments();
        let last = v4(g, h);
        match [a, b, c, d, e, f] {
            // :: and ::1 are addresses in their own right.
            [0, 0, 0, 0, 0, 0] if g == 0 && h <= 1 => Self::Plain,
            [0, 0, 0, 0, 0, 0 | 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => Self::Translated(last),
            [0x64, 0xff9b, 1, ..] => Self::LocalTranslation { inner: last },
            [0x2002, high, low, ..] => Self::Translated(v4(high, low)),
            _ => Self::Plain,
        }
    }
}

const fn v4(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

/// Every IPv4 address that a translator with a prefix inside 64:ff9b:1::/48 might read in `address`: the layouts of
/// RFC 6052 §2.2 for /48, /56, /64 and /96. Octet 8 is skipped there.
fn local_translations(address: IpAddr) -> Option<[Ipv4Addr; 4]> {
    let IpAddr::V6(address) = address else { return None };
    let o = address.octets();
    Some([
        Ipv4Addr::new(o[6], o[7], o[9], o[10]),
        Ipv4Addr::new(o[7], o[9], o[10], o[11]),
        Ipv4Addr::new(o[9], o[10], o[11], o[12]),
        Ipv4Addr::new(o[12], o[13], o[14], o[15]),
    ])
}

fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_global_v4(address),
        IpAddr::V6(address) => is_global_v6(address),
    }
}

/// A range of the registry: its first address, the length of its prefix, and whether it is globally reachable.
type Range<T> = (T, u32, bool);

/// <https://www.iana.org/assignments/iana-ipv4-special-registry>, and multicast (RFC 5771). The first match counts, so
/// that the exceptions stand before the ranges that they are taken from.
const SPECIAL_V4: &[Range<Ipv4Addr>] = &[
    (Ipv4Addr::new(0, 0, 0, 0), 8, false),       // "this network", RFC 791
    (Ipv4Addr::new(10, 0, 0, 0), 8, false),      // private use, RFC 1918
    (Ipv4Addr::new(100, 64, 0, 0), 10, false),   // shared address space, RFC 6598
    (Ipv4Addr::new(127, 0, 0, 0), 8, false),     // loopback, RFC 1122
    (Ipv4Addr::new(169, 254, 0, 0), 16, false),  // link local, RFC 3927; metadata services live here
    (Ipv4Addr::new(172, 16, 0, 0), 12, false),   // private use, RFC 1918
    (Ipv4Addr::new(192, 0, 0, 9), 32, true),     // PCP anycast, RFC 7723
    (Ipv4Addr::new(192, 0, 0, 10), 32, true),    // TURN anycast, RFC 8155
    (Ipv4Addr::new(192, 0, 0, 0), 24, false),    // IETF protocol assignments, RFC 6890
    (Ipv4Addr::new(192, 0, 2, 0), 24, false),    // documentation, RFC 5737
    (Ipv4Addr::new(192, 88, 99, 0), 24, false),  // 6to4 relay anycast, deprecated by RFC 7526
    (Ipv4Addr::new(192, 168, 0, 0), 16, false),  // private use, RFC 1918
    (Ipv4Addr::new(198, 18, 0, 0), 15, false),   // benchmarking, RFC 2544
    (Ipv4Addr::new(198, 51, 100, 0), 24, false), // documentation, RFC 5737
    (Ipv4Addr::new(203, 0, 113, 0), 24, false),  // documentation, RFC 5737
    (Ipv4Addr::new(224, 0, 0, 0), 4, false),     // multicast, RFC 5771
    (Ipv4Addr::new(240, 0, 0, 0), 4, false),     // reserved, RFC 1112, and limited broadcast, RFC 8190
];

/// <https://www.iana.org/assignments/iana-ipv6-special-registry>, for what lies inside 2000::/3, the only block from
/// which global unicast addresses are assigned. The first match counts.
const SPECIAL_V6: &[Range<Ipv6Addr>] = &[
    (Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 1), 128, true), // PCP anycast, RFC 7723
    (Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 2), 128, true), // TURN anycast, RFC 8155
    (Ipv6Addr::new(0x2001, 1, 0, 0, 0, 0, 0, 3), 128, true), // DNS-SD registration anycast, RFC 9665
    (Ipv6Addr::new(0x2001, 3, 0, 0, 0, 0, 0, 0), 32, true),  // AMT, RFC 7450
    (Ipv6Addr::new(0x2001, 4, 0x112, 0, 0, 0, 0, 0), 48, true), // AS112, RFC 7535
    (Ipv6Addr::new(0x2001, 0x20, 0, 0, 0, 0, 0, 0), 28, true), // ORCHIDv2, RFC 7343
    (Ipv6Addr::new(0x2001, 0x30, 0, 0, 0, 0, 0, 0), 28, true), // drone remote ID, RFC 9374
    // IETF protocol assignments, RFC 2928: Teredo (RFC 4380), benchmarking (RFC 5180), ORCHID (RFC 4843), the rest.
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, false),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32, false), // documentation, RFC 3849
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, false),     // 6to4, RFC 3056; judged by its IPv4 address
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20, false),     // documentation, RFC 9637
];

fn is_global_v4(address: Ipv4Addr) -> bool {
    let bits = u32::from(address);
    SPECIAL_V4
        .iter()
        .find(|(first, prefix, _)| (bits ^ u32::from(*first)).leading_zeros() >= *prefix)
        .is_none_or(|(_, _, global)| *global)
}

fn is_global_v6(address: Ipv6Addr) -> bool {
    let bits = u128::from(address);
    // Loopback, discard, unique local, link local, site local, SRv6, multicast and all unassigned blocks are outside.
    let unicast = bits >> 125 == 1;
    unicast
        && SPECIAL_V6
            .iter()
            .find(|(first, prefix, _)| (bits ^ u128::from(*first)).leading_zeros() >= *prefix)
            .is_none_or(|(_, _, global)| *global)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(list: &[&str]) -> Vec<Network> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn egress(allow: &[&str], deny: &[&str]) -> Egress {
        Egress { allow: networks(allow), deny: networks(deny) }
    }

    fn admitted(egress: &Egress, address: &str) -> bool {
        egress.vet(address.parse().unwrap()).is_ok()
    }

    #[test]
    fn without_lists_only_global_ipv4_addresses_are_admitted() {
        let egress = Egress::default();
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.0.9",
            "192.0.0.10",
            "192.0.1.0",
            "192.0.3.0",
            "192.31.196.1",
            "192.52.193.1",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "192.175.48.1",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
        ] {
            assert!(admitted(&egress, address), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.169.254",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.8",
            "192.0.0.11",
            "192.0.0.170",
            "192.0.0.255",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.0.1",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.7",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.255",
        ] {
            assert_eq!(
                egress.vet(address.parse().unwrap()),
                Err(Denied::NotGlobal { address: address.parse().unwrap() }),
                "{address}"
            );
        }
    }

    #[test]
    fn without_lists_only_global_ipv6_addresses_are_admitted() {
        let egress = Egress::default();
        for address in [
            "2000::1",
            "2001:1::1",
            "2001:1::2",
            "2001:1::3",
            "2001:3::1",
            "2001:4:112::1",
            "2001:20::1",
            "2001:2f:ffff::1",
            "2001:30::1",
            "2001:3f::1",
            "2001:200::1",
            "2001:4860:4860::8888",
            "2001:db7::1",
            "2001:db9::1",
            "2003::1",
            "2606:4700::1",
            "2620:4f:8000::1",
            "3ffe::1",
            "3fff:1000::1",
        ] {
            assert!(admitted(&egress, address), "{address}");
        }
        for address in [
            "::",
            "::1",
            "::2:0:0:1",
            "100::1",
            "100:0:0:1::1",
            "2001::1",
            "2001:0:4136:e378:8000:63bf:3fff:fdd2",
            "2001:1::4",
            "2001:2::1",
            "2001:4:113::1",
            "2001:10::1",
            "2001:1f::1",
            "2001:40::1",
            "2001:1ff::1",
            "2001:db8::1",
            "2001:db8:ffff::1",
            "3fff::1",
            "3fff:fff::1",
            "4000::1",
            "5f00::1",
            "8000::1",
            "fc00::1",
            "fdff::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "ffff::1",
            "1fff::1",
        ] {
            assert!(!admitted(&egress, address), "{address}");
        }
    }

    #[test]
    fn allowed_networks_admit_what_is_not_global() {
        let egress = egress(&["127.0.0.0/8", "::1", "10.0.0.0/8", "fc00::/7"], &[]);
        for address in ["127.0.0.1", "127.9.9.9", "::1", "10.1.2.3", "fd12::1", "1.1.1.1"] {
            assert!(admitted(&egress, address), "{address}");
        }
        for address in ["::", "172.16.0.1", "fe80::1", "169.254.169.254"] {
            assert!(!admitted(&egress, address), "{address}");
        }
    }

    #[test]
    fn deny_beats_allow_and_global() {
        let egress =
            egress(&["10.0.0.0/8", "0.0.0.0/0", "::/0"], &["10.0.5.0/24", "1.1.1.1", "2606:4700::/32"]);
        for address in ["10.0.5.1", "1.1.1.1", "2606:4700::1"] {
            let address = address.parse().unwrap();
            assert_eq!(egress.vet(address), Err(Denied::Listed { address }));
        }
        for address in ["10.0.6.1", "1.1.1.2", "2606:4701::1", "127.0.0.1", "::1"] {
            assert!(admitted(&egress, address), "{address}");
        }
    }

    /// All the ways to write 127.0.0.1 and 169.254.169.254 as IPv6 addresses.
    const FORMS: [(&str, &str); 8] = [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::127.0.0.1", "127.0.0.1"),
        ("64:ff9b::127.0.0.1", "127.0.0.1"),
        ("2002:7f00:1::1", "127.0.0.1"),
        ("::ffff:a9fe:a9fe", "169.254.169.254"),
        ("::a9fe:a9fe", "169.254.169.254"),
        ("64:ff9b::a9fe:a9fe", "169.254.169.254"),
        ("2002:a9fe:a9fe:dead:beef::1", "169.254.169.254"),
    ];

    #[test]
    fn ipv6_forms_of_an_ipv4_address_are_judged_by_it() {
        let default = Egress::default();
        let allowing = egress(&["127.0.0.0/8", "169.254.0.0/16"], &[]);
        for (outer, inner) in FORMS {
            assert_eq!(
                default.vet(outer.parse().unwrap()),
                Err(Denied::NotGlobal { address: inner.parse().unwrap() }),
                "{outer}"
            );
            assert!(admitted(&allowing, outer), "{outer}");
        }
        for public in ["::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::1"] {
            assert!(admitted(&default, public), "{public}");
        }
    }

    #[test]
    fn ipv6_forms_do_not_get_round_the_denied_networks() {
        let everything = egress(&["0.0.0.0/0", "::/0"], &["127.0.0.0/8", "169.254.0.0/16"]);
        for (outer, inner) in FORMS {
            assert_eq!(
                everything.vet(outer.parse().unwrap()),
                Err(Denied::Listed { address: inner.parse().unwrap() }),
                "{outer}"
            );
        }
        let outer_denied = egress(&["0.0.0.0/0"], &["2002::/16", "64:ff9b::/96", "::ffff:0:0/96"]);
        for address in ["2002:808:808::1", "64:ff9b::8.8.8.8", "::ffff:8.8.8.8"] {
            assert!(!admitted(&outer_denied, address), "{address}");
        }
    }

    #[test]
    fn an_allowed_ipv6_range_does_not_admit_the_ipv4_address_inside() {
        let wide = egress(&["::/0"], &[]);
        for (outer, _) in FORMS {
            assert!(!admitted(&wide, outer), "{outer}");
        }
        assert!(admitted(&wide, "::1"));
    }

    #[test]
    fn rfc8215_local_translators_need_both_addresses_to_be_admitted() {
        assert!(!admitted(&Egress::default(), "64:ff9b:1::8.8.8.8"));
        let own = egress(&["64:ff9b:1::/48"], &[]);
        assert!(admitted(&own, "64:ff9b:1::8.8.8.8"));
        assert!(!admitted(&own, "64:ff9b:1::10.0.0.1"));
        assert!(admitted(&egress(&["64:ff9b:1::/48", "10.0.0.0/8"], &[]), "64:ff9b:1::10.0.0.1"));
    }

    #[test]
    fn rfc6052_a_denied_address_is_found_in_every_layout_of_a_local_translator() {
        let own = egress(&["64:ff9b:1::/48", "0.0.0.0/0"], &["169.254.0.0/16"]);
        for address in [
            "64:ff9b:1:a9fe:a9:fe00:808:808",  // /48
            "64:ff9b:1:aaa9:fe:a9fe:808:808",  // /56
            "64:ff9b:1:aaaa:a9:fea9:fe08:808", // /64
            "64:ff9b:1:aaaa::a9fe:a9fe",       // /96
        ] {
            assert_eq!(
                own.vet(address.parse().unwrap()),
                Err(Denied::Listed { address: "169.254.169.254".parse().unwrap() }),
                "{address}"
            );
        }
        assert!(admitted(&own, "64:ff9b:1:aaaa::808:808"));
    }
}
