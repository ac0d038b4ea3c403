//! Single values of the section `[acme]`: from text and numbers to what is used, with an error that names the key.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ca_core::acme::DnsName;
use ca_core::policy::{AllowedNames, NameRule, Network};

use super::ConfigError;

pub(super) fn networks(list: &[String], key: &str) -> Result<Vec<Network>, ConfigError> {
    each(list, key, |text| {
        text.parse::<Network>()
            .map_err(|_| format!("'{text}' is no network; write an address or ADDRESS/PREFIX, as 10.0.0.0/8"))
    })
}

/// Reads each entry of a list; an error names the key.
pub(super) fn each<T, E: ToString>(
    list: &[String],
    key: &str,
    read: impl Fn(&String) -> Result<T, E>,
) -> Result<Vec<T>, ConfigError> {
    list.iter()
        .map(|text| read(text).map_err(|why| ConfigError { key: key.to_owned(), problem: why.to_string() }))
        .collect()
}

pub(super) fn names(rules: &[String], key: String) -> Result<AllowedNames, ConfigError> {
    match rules {
        [any] if any == "*" => Ok(AllowedNames::Any),
        rules if rules.iter().any(|rule| rule == "*") => {
            let problem = "'*' admits every name and must stand alone".to_owned();
            Err(ConfigError { key, problem })
        }
        rules => each(rules, &key, |text| text.parse::<NameRule>()).map(AllowedNames::List),
    }
}

/// The identities are read also where nothing is checked, so that a mistake does not wait for the day of the switch.
pub(super) fn identities(list: &[String], key: &str) -> Result<Vec<DnsName>, ConfigError> {
    each(list, key, |text| {
        let name = DnsName::parse(text).map_err(|why| format!("'{text}' is no issuer domain name: {why}"))?;
        if name.is_wildcard() { Err(format!("'{text}' must not be a wildcard")) } else { Ok(name) }
    })
}

pub(super) fn caa(
    (mode, mode_key): (&String, String),
    identities: Vec<DnsName>,
    key: String,
) -> Result<Option<Vec<DnsName>>, ConfigError> {
    match mode.as_str() {
        "off" => Ok(None),
        "check" if identities.is_empty() => {
            let problem = "CAA records are checked, so this CA needs a name that they can give, such as \
                           \"ca.example.org\""
                .to_owned();
            Err(ConfigError { key, problem })
        }
        "check" => Ok(Some(identities)),
        other => {
            let problem = format!("must be \"off\" or \"check\", not '{other}'");
            Err(ConfigError { key: mode_key, problem })
        }
    }
}

pub(super) fn lifetime((seconds, key): (&u64, String)) -> Result<Duration, ConfigError> {
    if (60..=365 * 24 * 3600).contains(seconds) {
        return Ok(Duration::from_secs(*seconds));
    }
    Err(ConfigError { key, problem: format!("must be from 60 to 31536000 seconds, not {seconds}") })
}

pub(super) fn reuse((seconds, key): (&u64, String)) -> Result<Option<Duration>, ConfigError> {
    match seconds {
        0 => Ok(None),
        _ => lifetime((seconds, key)).map(Some),
    }
}

pub(super) fn rsa_bits(
    (min, min_key): (&u32, String),
    (max, max_key): (&u32, String),
) -> Result<(u32, u32), ConfigError> {
    if !(2048..=8192).contains(min) {
        return Err(ConfigError { key: min_key, problem: format!("must be from 2048 to 8192, not {min}") });
    }
    if !(*min..=8192).contains(max) {
        return Err(ConfigError { key: max_key, problem: format!("must be from {min} to 8192, not {max}") });
    }
    Ok((*min, *max))
}

pub(super) fn port((port, key): (&u16, String)) -> Result<u16, ConfigError> {
    if *port == 0 {
        return Err(ConfigError { key, problem: "must be from 1 to 65535, not 0".to_owned() });
    }
    Ok(*port)
}

pub(super) fn resolver(text: &String) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53)))
        .map_err(|_| {
            format!("'{text}' is no address; write 192.0.2.53, 192.0.2.53:8053 or [2001:db8::53]:53")
        })
}
