//! dns-persist-01: a TXT record that stands for long and names CA and account
//! ([draft-ietf-acme-dns-persist-02](https://datatracker.ietf.org/doc/html/draft-ietf-acme-dns-persist-02)).
//!
//! A record may be computed and published before any order, by whoever runs the zone, from what the directory and the
//! account's URL say. Nothing of an earlier look is remembered: each attempt judges what stands there now.

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

use crate::acme::account::Thumbprint;
use crate::acme::caa::IssueValue;
use crate::acme::challenge::{Answer, Claimant, FailureKind, Proven, ValidationFailure};
use crate::pkix::identifier::DnsName;
use crate::pkix::public_key::sha256;
use crate::time::Timestamp;

/// The label below which the record stands, §3.
pub const LABEL: &str = "_validation-persist";
/// The hash that account URIs are made with, by its name in the registry of RFC 6920. Others are not accepted.
const HASH: &str = "sha-256";
/// What a record that serves for every domain is computed over instead of a domain, §4.1.
const ANY_DOMAIN: &str = "*";
/// So many octets of a record are shown to the requester.
const MAX_SHOWN: usize = 64;

/// The hashed URI of an account, §4.1: `prefix` as the directory advertises it, `domain` without a trailing dot.
#[must_use]
pub fn hashed_account_uri(prefix: &str, domain: &str, key: &Thumbprint, account_url: &str) -> String {
    // A domain name has at most 253 octets in text.
    let length = u8::try_from(domain.len()).unwrap_or(u8::MAX);
    let input = [&[length], domain.as_bytes(), key.to_string().as_bytes(), account_url.as_bytes()].concat();
    format!("{prefix}{HASH}/{}", BASE64_URL_SAFE_NO_PAD.encode(sha256(&input)))
}

/// Whether one of the records at [`LABEL`] below `domain` lets this account have certificates for it; `wildcard`: for
/// every name one label below it.
///
/// # Errors
/// Why none of them does: the reason of the one that came nearest.
pub fn judge(
    domain: &DnsName,
    wildcard: bool,
    claimant: &Claimant,
    records: &[Vec<u8>],
    now: Timestamp,
) -> Result<Proven, ValidationFailure> {
    let accepted = accepted_uris(domain, claimant);
    let mut nearest: Option<Refused> = None;
    for record in records {
        match judge_record(record, wildcard, claimant, &accepted, now) {
            Ok(proven) => return Ok(proven),
            Err(refused) => nearest = nearest.max(Some(refused)),
        }
    }
    let at = format!("{LABEL}.{domain}");
    let expected = format!(
        "{}; accounturi={}{}",
        claimant.issuer_domain_names.first().map_or("", DnsName::as_str),
        accepted.first().map_or("", String::as_str),
        if wildcard { "; policy=wildcard" } else { "" }
    );
    let (kind, found) = match nearest {
        None => (FailureKind::Unauthorized, "there is no TXT record".to_owned()),
        Some(Refused::OtherIssuer) => (FailureKind::Unauthorized, "no TXT record names this CA".to_owned()),
        Some(Refused::Malformed { what, shown }) => {
            (FailureKind::Malformed, format!("the TXT record \"{shown}\" {what}"))
        }
        Some(Refused::OtherAccount) => (
            FailureKind::Unauthorized,
            "the TXT record names another account, or an account's other key".to_owned(),
        ),
        Some(Refused::Ended(at)) => (FailureKind::Unauthorized, format!("the TXT record ended at {at}")),
        Some(Refused::NoWildcard) => {
            (FailureKind::Unauthorized, "the TXT record does not say policy=wildcard".to_owned())
        }
    };
    Err(ValidationFailure::new(kind, format!("at {at} {found}; expected \"{expected}\"")))
}

/// The URIs by which a record may name the account: by its present key first, then by those it had, the newest first;
/// bound to the domain or to none.
fn accepted_uris(domain: &DnsName, claimant: &Claimant) -> Vec<String> {
    let keys = std::iter::once(&claimant.thumbprint).chain(claimant.former.iter().rev());
    keys.flat_map(|key| {
        [domain.as_str(), ANY_DOMAIN].map(|domain| {
            hashed_account_uri(&claimant.account_hash_prefix, domain, key, &claimant.account_url)
        })
    })
    .collect()
}

/// Why a record is of no use, from the least to the most that it says.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Refused {
    OtherIssuer,
    Malformed { what: &'static str, shown: String },
    OtherAccount,
    Ended(Timestamp),
    NoWildcard,
}

fn judge_record(
    record: &[u8],
    wildcard: bool,
    claimant: &Claimant,
    accepted: &[String],
    now: Timestamp,
) -> Result<Proven, Refused> {
    let malformed = |what: &'static str| {
        let shown = record.get(..MAX_SHOWN).unwrap_or(record).escape_ascii().to_string();
        Refused::Malformed { what, shown }
    };
    // Whose record it is can't be told of one that is no issue-value: records of other CAs are ignored, §4.3.2.
    let value =
        IssueValue::parse(record).map_err(|_| malformed("does not follow the grammar of RFC 8659 §4.2"))?;
    let ours = |issuer: &String| claimant.issuer_domain_names.iter().any(|name| name.as_str() == issuer);
    if !value.issuer.as_ref().is_some_and(ours) {
        return Err(Refused::OtherIssuer);
    }
    // What was cut off might have been the parameter that ends it.
    if record.len() >= Answer::MAX_TXT {
        return Err(malformed("is too long"));
    }
    let parameter = |tag: &str| {
        let mut found = value.parameters.iter().filter(|(name, _)| name.eq_ignore_ascii_case(tag));
        match (found.next(), found.next()) {
            (Some(_), Some(_)) => Err(malformed("has a parameter twice")),
            (one, _) => Ok(one.map(|(_, value)| value.as_str())),
        }
    };
    let uri = parameter("accounturi")?.ok_or_else(|| malformed("has no accounturi"))?;
    let hash = uri
        .strip_prefix(&claimant.account_hash_prefix)
        .and_then(|rest| rest.strip_prefix(HASH)?.strip_prefix('/'))
        .and_then(|hash| BASE64_URL_SAFE_NO_PAD.decode(hash).ok());
    if hash.is_none_or(|hash| hash.len() != 32) {
        return Err(malformed("has an accounturi that is no hashed URI of this CA with sha-256"));
    }
    let until = match parameter("persistUntil")? {
        None => None,
        Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
            // A time that no clock reaches is no limit.
            digits.parse::<i64>().ok().and_then(|s| s.checked_mul(1000)).map(Timestamp::from_millis)
        }
        Some(_) => return Err(malformed("has a persistUntil that is no number of seconds")),
    };
    let wide = parameter("policy")?.is_some_and(|policy| policy.eq_ignore_ascii_case("wildcard"));
    if !accepted.iter().any(|expected| expected == uri) {
        return Err(Refused::OtherAccount);
    }
    if let Some(until) = until.filter(|until| *until <= now) {
        return Err(Refused::Ended(until));
    }
    if wildcard && !wide {
        return Err(Refused::NoWildcard);
    }
    Ok(Proven { until, attested_key: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREFIX: &str = "https://ca.example/account-hash/";
    const ACCOUNT: &str = "https://ca.example/acct/123";
    /// The thumbprint of RFC 7638 §3.1, and what §10.2 of the draft computes from it.
    const KEY: &str = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs";
    const BOUND: &str = "5SQm7n6tPh2-PlLbCKGnViTXX5z19SCN4cPGQHSk-kw";
    const UNBOUND: &str = "NpDnSwUthQK8zCgFdefYxAdAVPnygMLbs9US6oO-5ug";

    fn key() -> Thumbprint {
        KEY.to_owned().try_into().unwrap()
    }

    fn claimant() -> Claimant {
        Claimant {
            thumbprint: key(),
            former: Vec::new(),
            account_url: ACCOUNT.to_owned(),
            account_hash_prefix: PREFIX.to_owned(),
            issuer_domain_names: ["authority.example", "ca.example.net"]
                .map(|name| DnsName::parse(name).unwrap())
                .into(),
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_millis(1_800_000_000_000)
    }

    fn judged(wildcard: bool, records: &[&str]) -> Result<Proven, ValidationFailure> {
        judged_for(&claimant(), wildcard, records)
    }

    fn judged_for(
        claimant: &Claimant,
        wildcard: bool,
        records: &[&str],
    ) -> Result<Proven, ValidationFailure> {
        let records: Vec<Vec<u8>> = records.iter().map(|record| record.as_bytes().to_vec()).collect();
        judge(&DnsName::parse("example.com").unwrap(), wildcard, claimant, &records, now())
    }

    #[test]
    fn a_record_that_may_have_been_cut_off_is_not_taken_for_the_whole() {
        let ended = now().as_millis() / 1000 - 1;
        let record = |note: usize| {
            let note = "x".repeat(note);
            format!(
                "authority.example; accounturi={PREFIX}sha-256/{BOUND}; note={note}; persistUntil={ended}"
            )
        };
        // As it is seen: its end lies beyond the cut.
        let cut = &record(Answer::MAX_TXT)[..Answer::MAX_TXT];
        assert_eq!(judged(false, &[cut]).unwrap_err().kind, FailureKind::Malformed);
        let whole = record(Answer::MAX_TXT - 1 - record(0).len());
        assert_eq!(whole.len(), Answer::MAX_TXT - 1);
        let failure = judged(false, &[&whole]).unwrap_err();
        assert!(failure.detail.contains("the TXT record ended at"), "{}", failure.detail);
        // Beside it one that is whole counts.
        let good = format!("authority.example; accounturi={PREFIX}sha-256/{BOUND}");
        assert!(judged(false, &[cut, &good]).is_ok());
    }

    #[test]
    fn section_10_2_the_hashed_uri_is_that_of_the_example() {
        assert_eq!(
            hashed_account_uri(PREFIX, "example.com", &key(), ACCOUNT),
            format!("{PREFIX}sha-256/{BOUND}")
        );
        assert_eq!(hashed_account_uri(PREFIX, "*", &key(), ACCOUNT), format!("{PREFIX}sha-256/{UNBOUND}"));
    }

    #[test]
    fn section_4_1_a_record_that_names_ca_and_account_is_enough() {
        for hash in [BOUND, UNBOUND] {
            for issuer in ["authority.example", "CA.example.net"] {
                let record = format!("{issuer}; accounturi={PREFIX}sha-256/{hash}; unknown=1");
                assert_eq!(judged(false, &["other.example; x=1", &record]), Ok(Proven::default()));
            }
        }
    }

    #[test]
    fn section_4_1_a_key_that_the_account_had_is_accepted_and_any_other_is_not() {
        let record = format!("authority.example; accounturi={PREFIX}sha-256/{BOUND}");
        let moved = Claimant { thumbprint: Thumbprint([1; 32]), ..claimant() };
        let refused = judged_for(&moved, false, &[&record]).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Unauthorized);
        let moved = Claimant { former: vec![key(), Thumbprint([2; 32])], ..moved };
        assert!(judged_for(&moved, false, &[&record]).is_ok());
    }

    #[test]
    fn section_4_1_an_end_bounds_what_is_proven_and_one_that_passed_proves_nothing() {
        let record = |until: &str| {
            format!("authority.example; accounturi={PREFIX}sha-256/{BOUND}; persistUntil={until}")
        };
        let until = Some(Timestamp::from_millis(1_800_000_001_000));
        assert_eq!(judged(false, &[&record("1800000001")]), Ok(Proven { until, attested_key: None }));
        assert_eq!(judged(false, &[&record("99999999999999999999")]), Ok(Proven::default()));
        let ended = judged(false, &[&record("1800000000")]).unwrap_err();
        assert_eq!(ended.kind, FailureKind::Unauthorized);
        for wrong in ["", "soon", "-1", "+5", "0x10"] {
            assert!(judged(false, &[&record(wrong)]).is_err(), "{wrong}");
        }
        assert_eq!(judged(false, &[&record("soon")]).unwrap_err().kind, FailureKind::Malformed);
    }

    #[test]
    fn section_5_1_wildcards_need_the_policy() {
        let record = format!("authority.example; accounturi={PREFIX}sha-256/{BOUND}");
        assert!(judged(true, &[&record]).unwrap_err().detail.contains("policy=wildcard"));
        assert!(judged(true, &[&format!("{record}; policy=WildCard")]).is_ok());
        assert!(judged(true, &[&format!("{record}; policy=all")]).is_err());
        assert!(judged(false, &[&format!("{record}; policy=all")]).is_ok());
    }

    #[test]
    fn section_9_3_1_errors_tell_a_wrong_record_from_a_foreign_one() {
        let kind = |record: &str| judged(false, &[record]).unwrap_err().kind;
        let uri = format!("{PREFIX}sha-256/{BOUND}");
        assert_eq!(kind("authority.example"), FailureKind::Malformed);
        assert_eq!(kind("authority.example; accounturi=https://ca.example/acct/123"), FailureKind::Malformed);
        assert_eq!(
            kind(&format!("authority.example; accounturi={PREFIX}sha-512/{BOUND}")),
            FailureKind::Malformed
        );
        assert_eq!(
            kind(&format!("authority.example; accounturi={uri}; accounturi={uri}")),
            FailureKind::Malformed
        );
        assert_eq!(kind(&format!("evil.example; accounturi={uri}")), FailureKind::Unauthorized);
        // §4.1: compared as it stands, with no normalization.
        assert_eq!(
            kind(&format!("authority.example; accounturi={}", uri.replace("ca.example", "CA.example"))),
            FailureKind::Malformed
        );
        assert_eq!(judged(false, &[]).unwrap_err().kind, FailureKind::Unauthorized);
    }
}
