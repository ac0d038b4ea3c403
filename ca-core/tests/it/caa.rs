//! RFC 8659 §4.2 and RFC 8657: the values of CAA properties, read and written, and judged whatever they hold.

use ca_core::acme::caa::{CaaRecord, CaaSubject, IssueValue, MalformedValue, RelevantSet, climb, judge};
use ca_core::acme::{ChallengeType, DnsName};
use ca_core::fuzz;
use proptest::prelude::*;

#[test]
fn values_are_read_to_the_letter() {
    let read = |text: &str| IssueValue::parse(text.as_bytes());
    let value = |issuer: Option<&str>, parameters: &[(&str, &str)]| {
        let owned = |(tag, value): &(&str, &str)| ((*tag).to_owned(), (*value).to_owned());
        let parameters = parameters.iter().map(owned).collect();
        Ok(IssueValue { issuer: issuer.map(str::to_owned), parameters })
    };
    assert_eq!(read("CA1.example.net"), value(Some("ca1.example.net"), &[]));
    assert_eq!(read(""), value(None, &[]));
    assert_eq!(read(" \t;\t "), value(None, &[]));
    assert_eq!(read("ca ;a = 1 ;\tb-c=x=y"), value(Some("ca"), &[("a", "1"), ("b-c", "x=y")]));
    assert_eq!(read("; a="), value(None, &[("a", "")]));
    for bad in
        ["%%%%%", "ca;a", "ca;=1", "ca;-a=1", "ca;a=1;", "ca;;a=1", "ca a=1", "ca.", "ca;a=\u{7f}", "c\u{e4}"]
    {
        assert_eq!(read(bad), Err(MalformedValue), "{bad:?}");
    }
    assert_eq!(IssueValue::parse(&[0xff, b'a']), Err(MalformedValue));
}

#[test]
fn rfc8659_3_the_climb_ends_at_the_top_level_domain() {
    let domains = |name: &str| climb(&DnsName::parse(name).unwrap()).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(domains("a.b.example.com"), ["a.b.example.com", "b.example.com", "example.com", "com"]);
    assert_eq!(domains("*.example.com"), ["example.com", "com"]);
    assert_eq!(domains("host"), ["host"]);
}

fn subject(wildcard: bool) -> CaaSubject {
    CaaSubject {
        identities: vec![DnsName::parse("ca.example.org").unwrap()],
        account_url: "https://ca.example.org/acme/default/account/1".to_owned(),
        method: Some(ChallengeType::Dns01),
        wildcard,
    }
}

/// Records of known and unknown tags, with values that are any octets, nearly good ones, and good ones.
fn record() -> impl Strategy<Value = CaaRecord> {
    let tag = prop_oneof!["issue", "issuewild", "iodef", "[a-zA-Z0-9]{1,15}"];
    let value = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        "(ca\\.example\\.org|other\\.example)?( ?; ?(accounturi|validationmethods|x)=[!-~]{0,12}){0,2};?"
            .prop_map(String::into_bytes),
        Just(b"ca.example.org".to_vec()),
    ];
    (prop_oneof![Just(0_u8), Just(128), any::<u8>()], tag, value).prop_map(|(flags, tag, value)| CaaRecord {
        flags,
        tag,
        value,
    })
}

proptest! {
    #[test]
    fn any_octets_are_read_as_a_value_without_a_panic(data in prop::collection::vec(any::<u8>(), 0..100)) {
        fuzz::caa(&data);
    }

    #[test]
    fn a_value_that_was_read_reads_the_same_when_written(text in "[ \t]?([a-z0-9.-]{0,12})[ \t]?(;[ \t]?([a-z-]{0,4}[ \t]?=?[ -~]{0,5})){0,3}") {
        fuzz::caa(text.as_bytes());
    }

    /// Whoever is permitted is named: without a value that names us, no set with a property that counts permits us.
    #[test]
    fn only_a_property_that_names_us_permits_us(records in prop::collection::vec(record(), 1..6), wildcard in any::<bool>()) {
        let has = |tag: &str| records.iter().any(|record| record.tag.eq_ignore_ascii_case(tag));
        let property = if wildcard && has("issuewild") { "issuewild" } else { "issue" };
        let named = records.iter().any(|record| {
            record.tag.eq_ignore_ascii_case(property)
                && IssueValue::parse(&record.value).is_ok_and(|value| value.issuer.as_deref() == Some("ca.example.org"))
        });
        let restricted = has(property);
        let set = RelevantSet { domain: "example.com".to_owned(), records };
        let permitted = judge(&set, &subject(wildcard)).is_ok();
        prop_assert!(!(permitted && restricted && !named), "{set:?}");
    }
}
