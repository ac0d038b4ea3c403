//! RFC 8659: CAA records, by section.

mod section_3_relevant_set;
mod section_4_properties;
mod validation;

use acme_server::config::Config;
use ca_core::acme::caa::{CaaRecord, CaaSubject, RelevantSet};
use ca_core::acme::{ChallengeType, DnsName};

use crate::support::open_config;

pub const IDENTITY: &str = "ca.example.org";

/// A directory that looks at CAA records, under two names.
pub fn checking() -> Config {
    Config {
        caa: "check".to_owned(),
        caa_identities: vec![IDENTITY.to_owned(), "CA2.example.org".to_owned()],
        ..open_config()
    }
}

/// Records as they are judged: flags, tag and value each.
pub fn set(records: &[(u8, &str, &str)]) -> RelevantSet {
    let record = |(flags, tag, value): &(u8, &str, &str)| CaaRecord {
        flags: *flags,
        tag: (*tag).to_owned(),
        value: value.as_bytes().to_vec(),
    };
    RelevantSet { domain: "example.com".to_owned(), records: records.iter().map(record).collect() }
}

/// What an account asks for a name, validated by dns-01.
pub fn subject(wildcard: bool) -> CaaSubject {
    CaaSubject {
        identities: vec![DnsName::parse(IDENTITY).unwrap()],
        account_url: "https://ca.test:8443/acme/default/account/1".to_owned(),
        method: Some(ChallengeType::Dns01),
        wildcard,
    }
}
