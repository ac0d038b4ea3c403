//! Renewal windows and what an order may replace, RFC 9773.

use std::time::Duration;

use ca_core::acme::busy::{BusyHours, BusyRule};
use ca_core::acme::order::OrderFailure;
use ca_core::acme::renewal::{
    PullScope, RenewalInfo, ReplacesRejected, Window, renewal_info, renews_as_asked, require_replaceable,
    suggested_window,
};
use ca_core::acme::{Identifier, OrderStatus, RenewalId, RenewalPolicy, RenewalPull};
use ca_core::id::{AccountId, RenewalPullId};
use ca_core::pkix::serial::SerialNumber;
use ca_core::random::SystemRandom;
use ca_core::revocation::RevocationReason;
use ca_core::store::{CertificateFacts, CertificateId, CertificateState, Version};
use ca_core::time::Timestamp;
use proptest::prelude::*;

const DAY: Duration = Duration::from_hours(24);
/// A Friday, 2027-01-15T08:00:00Z.
const ISSUED: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn certificate(serial: u64, lifetime: Duration) -> CertificateFacts {
    let octets = ca_core::pkix::public_key::sha256(&serial.to_be_bytes());
    CertificateFacts {
        id: CertificateId {
            issuer: "issuing-1".parse().unwrap(),
            serial: SerialNumber::from_be_bytes(&octets[..20]).unwrap(),
        },
        state: CertificateState::Issued { at: ISSUED },
        profile: "tls-server".to_owned().try_into().unwrap(),
        names: vec![Identifier::from_text("www.example.org").unwrap()],
        not_before: ISSUED,
        not_after: ISSUED.plus(lifetime),
        account: Some(AccountId::generate(ISSUED, &mut SystemRandom)),
        reserved_at: ISSUED,
    }
}

fn busy(rules: &[&str]) -> BusyHours {
    rules.iter().map(|rule| rule.parse::<BusyRule>().unwrap()).collect()
}

fn policy(rules: &[&str]) -> RenewalPolicy {
    RenewalPolicy { busy: busy(rules), ..RenewalPolicy::default() }
}

fn window(certificate: &CertificateFacts, policy: &RenewalPolicy, pulls: &[RenewalPull]) -> Window {
    renewal_info(certificate, policy, pulls).unwrap().window
}

fn pull(scope: PullScope) -> RenewalPull {
    RenewalPull {
        id: RenewalPullId::generate(ISSUED, &mut SystemRandom),
        scope,
        issued_before: ISSUED.plus(DAY),
        start: ISSUED.plus(DAY),
        end: ISSUED.plus(DAY * 2),
        explanation_url: Some("https://ca.example.org/incident".to_owned()),
        created_at: ISSUED.plus(DAY),
        version: Version::NEW,
    }
}

fn rules() -> impl Strategy<Value = Vec<String>> {
    let rule = (0..7usize, 0..7usize, 0..1440u32, 1..1440u32).prop_map(|(first, last, from, length)| {
        let days = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
        let to = (from + length) % 1440;
        let time = |minute: u32| format!("{:02}:{:02}", minute / 60, minute % 60);
        format!("{}-{} {}-{}", days[first], days[last], time(from), time(to))
    });
    prop::collection::vec(rule, 0..4)
}

proptest! {
    #[test]
    fn a_window_lies_inside_the_validity_and_has_an_extent(
        serial: u64, seconds in 4u64..3650 * 86_400, from in 1u8..=90, width in 1u8..=90, rules in rules(),
    ) {
        let certificate = certificate(serial, Duration::from_secs(seconds));
        let to = from.saturating_add(width).min(95);
        let policy = RenewalPolicy {
            from_percent: from,
            to_percent: to,
            busy: rules.iter().map(|rule| rule.parse::<BusyRule>().unwrap()).collect(),
            ..RenewalPolicy::default()
        };
        let window = suggested_window(&certificate, &policy);
        prop_assert!(window.start < window.end, "{window:?}");
        prop_assert!(certificate.not_before <= window.start && window.end <= certificate.not_after, "{window:?}");
        prop_assert_eq!(window.start, window.start.whole_seconds());
        prop_assert_eq!(suggested_window(&certificate, &policy), window, "the same for every request");
    }

    #[test]
    fn busy_hours_are_kept_where_the_lifetime_permits(serial: u64, days in 7u64..400, rules in rules()) {
        let certificate = certificate(serial, DAY * u32::try_from(days).unwrap());
        let busy: BusyHours = rules.iter().map(|rule| rule.parse::<BusyRule>().unwrap()).collect();
        let policy = RenewalPolicy { busy: busy.clone(), ..RenewalPolicy::default() };
        let window = suggested_window(&certificate, &policy);
        // What is left of each week, if a window has room in it, and the window is not the whole lifetime.
        let week = busy.free(ISSUED, ISSUED.plus(DAY * 7));
        let free_every_day = !week.is_empty()
            && (0..7).all(|day| {
                let (from, to) = (ISSUED.plus(DAY * day), ISSUED.plus(DAY * (day + 1)));
                busy.free(from, to).iter().any(|(from, to)| to.since(*from) >= Duration::from_mins(20))
            });
        if free_every_day {
            for share in 0..=20u32 {
                let time = window.start.plus(window.end.since(window.start) / 20 * share);
                // A client's moment lies in the window; its last second may be the first busy one.
                prop_assert!(share == 20 || !busy.contains(time), "{time} in {window:?} with {rules:?}");
            }
        }
    }

    #[test]
    fn identifiers_are_read_and_written_alike(octets in prop::collection::vec(any::<u8>(), 1..=20), key in prop::collection::vec(any::<u8>(), 1..=64)) {
        prop_assume!(octets.iter().any(|octet| *octet != 0));
        let serial = SerialNumber::from_be_bytes(&octets).unwrap();
        let id = RenewalId { key_identifier: key, serial };
        prop_assert_eq!(id.to_string().parse::<RenewalId>(), Ok(id));
    }

    #[test]
    fn no_text_is_read_as_an_identifier_that_it_is_not(
        data in prop::collection::vec(any::<u8>(), 0..80), text in "[A-Za-z0-9_-]{1,30}\\.[A-Za-z0-9_-]{1,30}",
    ) {
        ca_core::fuzz::renewal_id(&data);
        ca_core::fuzz::renewal_id(text.as_bytes());
    }
}

#[test]
fn section_4_1_the_example_of_the_rfc() {
    let id: RenewalId = "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE".parse().unwrap();
    assert_eq!(ca_core::id::to_hex(&id.key_identifier), "69885b6b87464041e1b37b847ba0ae2cde01c8d4");
    assert_eq!(id.serial.to_string(), "87654321");
    assert_eq!(id.to_string(), "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
}

#[test]
fn section_4_1_only_the_right_spelling_is_read() {
    for bad in [
        "",
        ".",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.",
        ".AIdlQyE",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ=.AIdlQyE=",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE.x",
        // Trailing bits that are not zero.
        "aYhba4dGQEHhs3uEe6CuLN4ByNR.AIdlQyE",
        // Without the zero octet the number would be negative; with one too many it would not be DER.
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.h2VDIQ",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AACHZUMh",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AA",
        // The standard alphabet of base64.
        "aYhba4dGQEHhs3uEe6CuLN4ByN+.AIdlQyE",
        "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE\n",
    ] {
        assert!(bad.parse::<RenewalId>().is_err(), "{bad:?}");
    }
    let long = format!("{}.AQ", "A".repeat(88));
    assert!(long.parse::<RenewalId>().is_err(), "66 octets");
}

#[test]
fn windows_spread_evenly_over_the_time_that_policy_leaves() {
    let policy = RenewalPolicy::default();
    let lifetime = DAY * 90;
    let mut counts = [0u32; 10];
    let band = (lifetime / 100 * 66, lifetime / 100 * 80);
    let room = (band.1 - band.0) * 3 / 4;
    for serial in 0..10_000 {
        let window = suggested_window(&certificate(serial, lifetime), &policy);
        let offset = window.start.since(ISSUED) - band.0;
        assert!(window.end.since(ISSUED) <= band.1);
        let bucket = offset.as_millis() * 10 / room.as_millis();
        counts[usize::try_from(bucket).unwrap().min(9)] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn what_is_free_between_busy_hours_is_used_evenly() {
    let policy = policy(&["Mon-Fri 08:00-18:00"]);
    let mut nights = std::collections::BTreeMap::new();
    for serial in 0..5_000 {
        let window = suggested_window(&certificate(serial, DAY * 90), &policy);
        assert!(policy.busy.free(window.start, window.end) == [(window.start, window.end)], "{window:?}");
        *nights.entry(window.start.since(ISSUED).as_secs() / 86_400).or_insert(0u32) += 1;
    }
    assert!(nights.len() >= 12, "all of the days are used: {nights:?}");
}

#[test]
fn a_short_lived_certificate_is_renewed_from_half_of_its_life_on() {
    let policy = RenewalPolicy::default();
    for (lifetime, from, to) in [(DAY * 6, 50, 64), (DAY, 50, 64), (DAY * 10, 66, 80), (DAY * 90, 66, 80)] {
        for serial in 0..50 {
            let window = suggested_window(&certificate(serial, lifetime), &policy);
            assert!(window.start >= ISSUED.plus(lifetime / 100 * from), "{lifetime:?} {window:?}");
            assert!(window.end <= ISSUED.plus(lifetime / 100 * to), "{lifetime:?} {window:?}");
        }
    }
    assert_eq!(policy.retry_after(DAY * 90), Duration::from_hours(6));
    assert_eq!(policy.retry_after(DAY), Duration::from_mins(72));
    assert_eq!(policy.retry_after(Duration::from_mins(5)), Duration::from_mins(1));
}

#[test]
fn a_life_without_a_quiet_hour_is_renewed_all_the_same() {
    let always = policy(&["00:00-24:00"]);
    let window = suggested_window(&certificate(1, DAY * 90), &always);
    assert!(window.start >= ISSUED.plus(DAY * 59) && window.end <= ISSUED.plus(DAY * 73), "{window:?}");
    // A day that is busy in the usual part of its life, and not after it: from Friday 08:00 on, that is.
    let evening = policy(&["Fri 20:00-24:00"]);
    let window = suggested_window(&certificate(1, DAY), &evening);
    assert!(window.start >= ISSUED.plus(Duration::from_hours(16)), "{window:?}");
    assert!(window.end <= ISSUED.plus(DAY / 100 * 90), "{window:?}");
}

#[test]
fn a_revoked_certificate_is_to_be_renewed_at_once() {
    let at = ISSUED.plus(DAY * 3);
    let state = CertificateState::Revoked { issued_at: ISSUED, at, reason: RevocationReason::KeyCompromise };
    let revoked = CertificateFacts { state, ..certificate(1, DAY * 90) };
    let window = window(&revoked, &RenewalPolicy::default(), &[]);
    assert!(window.start < window.end && window.end < at.minus(Duration::from_mins(30)), "{window:?}");
}

#[test]
fn what_was_never_released_has_no_window() {
    for state in [CertificateState::Reserved, CertificateState::Abandoned { at: ISSUED }] {
        let certificate = CertificateFacts { state, ..certificate(1, DAY * 90) };
        assert_eq!(renewal_info(&certificate, &RenewalPolicy::default(), &[]), None);
    }
}

#[test]
fn a_pull_is_about_what_its_scope_names_and_about_nothing_issued_after_it() {
    let policy = RenewalPolicy { explanation_url: Some("https://usual".to_owned()), ..policy(&[]) };
    let meant = certificate(1, DAY * 90);
    let scopes = [
        PullScope::Issuer("issuing-1".parse().unwrap()),
        PullScope::Profile(meant.profile.clone()),
        PullScope::Account(meant.account.unwrap()),
        PullScope::Certificate(meant.id.clone()),
    ];
    for scope in scopes {
        let pulls = [pull(scope)];
        let RenewalInfo { window, explanation_url, .. } = renewal_info(&meant, &policy, &pulls).unwrap();
        assert!(window.start >= pulls[0].start && window.end <= pulls[0].end, "{window:?}");
        assert_eq!(explanation_url.as_deref(), Some("https://ca.example.org/incident"));
        let later = CertificateFacts { reserved_at: pulls[0].issued_before, ..meant.clone() };
        let info = renewal_info(&later, &policy, &pulls).unwrap();
        assert_eq!(info.window, suggested_window(&meant, &policy));
        assert_eq!(info.explanation_url.as_deref(), Some("https://usual"));
    }
    let others = [
        PullScope::Issuer("issuing-2".parse().unwrap()),
        PullScope::Profile("tls-client".to_owned().try_into().unwrap()),
        PullScope::Account(AccountId::generate(ISSUED, &mut SystemRandom)),
        PullScope::Certificate(certificate(2, DAY).id),
    ];
    let others = others.map(pull);
    assert_eq!(window(&meant, &policy, &others), suggested_window(&meant, &policy));
}

#[test]
fn the_earliest_pull_counts_and_one_that_comes_too_late_does_not() {
    let policy = policy(&[]);
    let meant = certificate(1, DAY * 90);
    let of = || PullScope::Certificate(meant.id.clone());
    let early = RenewalPull { explanation_url: None, ..pull(of()) };
    let late = RenewalPull { start: ISSUED.plus(DAY * 80), end: ISSUED.plus(DAY * 85), ..pull(of()) };
    let next_week = RenewalPull { start: ISSUED.plus(DAY * 7), end: ISSUED.plus(DAY * 8), ..pull(of()) };
    assert_eq!(window(&meant, &policy, std::slice::from_ref(&late)), suggested_window(&meant, &policy));
    let pulls = [late, next_week, early.clone()];
    assert_eq!(window(&meant, &policy, &pulls), window(&meant, &policy, &[early]));
}

#[test]
fn a_pull_goes_in_waves_that_spread_over_its_time() {
    let pulls = [pull(PullScope::Issuer("issuing-1".parse().unwrap()))];
    let mut counts = [0u32; 7];
    for serial in 0..7_000 {
        let window = window(&certificate(serial, DAY * 90), &RenewalPolicy::default(), &pulls);
        assert_eq!(window.end.since(window.start), Duration::from_hours(3), "an eighth of a day");
        let bucket = window.start.since(pulls[0].start).as_secs() / Duration::from_hours(3).as_secs();
        counts[usize::try_from(bucket).unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn section_5_an_order_replaces_what_is_its_accounts_and_shares_a_name() {
    let certificate = certificate(1, DAY * 90);
    let account = certificate.account.unwrap();
    let stranger = AccountId::generate(ISSUED, &mut SystemRandom);
    let names = |texts: &[&str]| -> Vec<Identifier> {
        texts.iter().map(|text| Identifier::from_text(text).unwrap()).collect()
    };
    let shared = names(&["new.example.org", "www.example.org"]);
    assert_eq!(require_replaceable(Some(&certificate), account, &shared, None), Ok(()));
    assert_eq!(require_replaceable(None, account, &shared, None), Err(ReplacesRejected::Unknown));
    assert_eq!(
        require_replaceable(Some(&certificate), stranger, &shared, None),
        Err(ReplacesRejected::Unknown)
    );
    let other = names(&["new.example.org", "*.example.org"]);
    assert_eq!(
        require_replaceable(Some(&certificate), account, &other, None),
        Err(ReplacesRejected::NothingShared)
    );

    let failure = OrderFailure::Internal { detail: String::new() };
    for (status, expected) in [
        (OrderStatus::Pending, Err(ReplacesRejected::AlreadyReplaced)),
        (OrderStatus::Ready, Err(ReplacesRejected::AlreadyReplaced)),
        (OrderStatus::Processing, Err(ReplacesRejected::AlreadyReplaced)),
        (OrderStatus::Valid(certificate.id.clone()), Err(ReplacesRejected::AlreadyReplaced)),
        (OrderStatus::Invalid(Some(failure)), Ok(())),
        (OrderStatus::Invalid(None), Ok(())),
    ] {
        assert_eq!(
            require_replaceable(Some(&certificate), account, &shared, Some(&status)),
            expected,
            "{status:?}"
        );
    }
    let never = CertificateFacts { state: CertificateState::Reserved, ..certificate };
    assert_eq!(require_replaceable(Some(&never), account, &shared, None), Err(ReplacesRejected::Unknown));
}

#[test]
fn section_5_a_renewal_in_its_window_or_after_it_was_asked_for() {
    let policy = RenewalPolicy::default();
    let certificate = certificate(1, DAY * 90);
    let window = suggested_window(&certificate, &policy);
    let second = Duration::from_secs(1);
    let names = &certificate.names;
    assert!(!renews_as_asked(&certificate, names, &policy, &[], window.start.minus(second)));
    assert!(renews_as_asked(&certificate, names, &policy, &[], window.start));
    assert!(renews_as_asked(&certificate, names, &policy, &[], window.end.plus(DAY)));
    let pulls = [pull(PullScope::Certificate(certificate.id.clone()))];
    assert!(renews_as_asked(&certificate, names, &policy, &pulls, ISSUED.plus(DAY * 2)));
    let more = [names[0].clone(), Identifier::from_text("more.example.org").unwrap()];
    assert!(!renews_as_asked(&certificate, &more, &policy, &[], window.start), "a name it does not have");
    let revoked =
        CertificateState::Revoked { issued_at: ISSUED, at: ISSUED, reason: RevocationReason::Superseded };
    let revoked = CertificateFacts { state: revoked, ..certificate.clone() };
    assert!(window.start >= self::window(&revoked, &policy, &[]).start, "its window has begun");
    assert!(!renews_as_asked(&revoked, names, &policy, &[], window.start), "its account may have revoked it");
}
