//! RFC 8659 §4: what the records of the relevant set permit.

use ca_core::acme::caa::{CaaFinding, CaaRefused, judge};
use ca_core::acme::challenge::{FailureKind, ValidationFailure};

use super::{IDENTITY, set, subject};

/// Whether these records let us certify a name, and a wildcard name.
fn permits(records: &[(u8, &str, &str)]) -> (bool, bool) {
    let set = set(records);
    (judge(&set, &subject(false)).is_ok(), judge(&set, &subject(true)).is_ok())
}

const ALL: (bool, bool) = (true, true);
const NONE: (bool, bool) = (false, false);

#[test]
fn section_4_2_issue_names_who_may_issue() {
    for (records, expected) in [
        (&[(0, "issue", IDENTITY)][..], ALL),
        (&[(0, "issue", "CA.Example.ORG")], ALL),
        (&[(0, "ISSUE", IDENTITY)], ALL),
        (&[(0, "issue", " \tca.example.org\t ")], ALL),
        (&[(0, "issue", "ca.example.org;")], ALL),
        (&[(0, "issue", "ca.example.org ; ")], ALL),
        (&[(0, "issue", "ca.example.org; account=230123")], ALL),
        (&[(0, "issue", "ca1.example.net")], NONE),
        (&[(0, "issue", "a.ca.example.org")], NONE),
        (&[(0, "issue", "example.org")], NONE),
        (&[(0, "issue", ";")], NONE),
        (&[(0, "issue", "")], NONE),
        (&[(0, "issue", "; account=230123")], NONE),
        // Properties add up.
        (&[(0, "issue", ";"), (0, "issue", "ca1.example.net"), (0, "issue", IDENTITY)], ALL),
    ] {
        assert_eq!(permits(records), expected, "{records:?}");
    }
}

#[test]
fn section_4_2_a_value_that_does_not_follow_the_grammar_names_nobody() {
    for value in [
        "%%%%%",
        "ca.example.org.",
        ".ca.example.org",
        "ca..example.org",
        "-ca.example.org",
        "ca_example.org",
        "ca.example.org account=1",
        "ca.example.org; account",
        "ca.example.org; =1",
        "ca.example.org; a b=1",
        "ca.example.org; a=1 2",
        "ca.example.org; a=1;",
        "ca.example.org; a=1;; b=2",
        "ca.example.org; a=\u{e9}",
        "ca.example.org\n",
        "ca.example.org; a=1\0",
    ] {
        assert_eq!(permits(&[(0, "issue", value)]), NONE, "{value:?}");
        assert_eq!(
            permits(&[(0, "issue", value), (0, "issue", IDENTITY)]),
            ALL,
            "{value:?} beside a good one"
        );
    }
}

#[test]
fn section_4_3_issuewild_is_about_wildcards_alone_and_goes_before_issue_there() {
    for (records, expected) in [
        (&[(0, "issuewild", IDENTITY)][..], ALL),
        (&[(0, "issuewild", ";")], (true, false)),
        (&[(0, "issuewild", "ca1.example.net")], (true, false)),
        (&[(0, "issue", IDENTITY), (0, "issuewild", ";")], (true, false)),
        (&[(0, "issue", ";"), (0, "issuewild", IDENTITY)], (false, true)),
        (&[(0, "issue", IDENTITY), (0, "issuewild", "%%%")], (true, false)),
        (&[(0, "issue", IDENTITY), (0, "IssueWild", "ca1.example.net")], (true, false)),
    ] {
        assert_eq!(permits(records), expected, "{records:?}");
    }
}

#[test]
fn sections_4_1_and_4_5_an_unknown_critical_property_forbids_and_others_are_passed_over() {
    for (records, expected) in [
        (&[(128, "tbs", "Unknown"), (0, "issue", IDENTITY)][..], NONE),
        (&[(255, "tbs", "Unknown"), (0, "issue", IDENTITY)], NONE),
        // Only the most significant bit counts.
        (&[(127, "tbs", "Unknown"), (0, "issue", IDENTITY)], ALL),
        (&[(0, "tbs", "Unknown")], ALL),
        (&[(128, "issue", IDENTITY)], ALL),
        (&[(128, "issue", "ca1.example.net")], NONE),
        // §4.4, RFC 9495, and the CA/Browser Forum's.
        (&[(128, "iodef", "mailto:security@example.com")], ALL),
        (&[(128, "issuemail", ";"), (128, "contactemail", "a@b.example"), (128, "contactphone", "1")], ALL),
        (&[(128, "ContactEmail", "a@b.example"), (0, "issue", ";")], NONE),
    ] {
        assert_eq!(permits(records), expected, "{records:?}");
    }
}

#[test]
fn the_reason_says_where_and_why_and_shows_at_most_64_octets() {
    let refused = |records: &[(u8, &str, &str)]| judge(&set(records), &subject(false)).unwrap_err();
    for (records, text) in [
        (
            &[(128, "tbs", "x"), (0, "issue", IDENTITY)][..],
            "the CAA records at example.com have a critical property 'tbs', which is not known here",
        ),
        (
            &[(0, "issue", ";"), (0, "issue", "ca1.example.net")],
            "the CAA records at example.com do not name this CA (issue \"ca1.example.net\"); it is ca.example.org",
        ),
        (&[(0, "issue", ";")], "the CAA records at example.com let no CA issue (issue \";\")"),
        (
            &[(0, "issue", "%%")],
            "the CAA records at example.com let no CA issue (issue \"%%\"); a value that does not follow RFC 8659 §4.2 \
             names nobody",
        ),
    ] {
        assert_eq!(refused(records).to_string(), text);
    }
    let long = "S".repeat(300);
    for record in [(0, "issue", long.as_str()), (128, long.as_str(), ""), (0, "issue", &format!("{long}%"))] {
        assert_eq!(refused(&[record]).to_string().matches('S').count(), 64);
    }
    let failure = ValidationFailure::from(refused(&[(0, "issue", ";")]));
    assert_eq!((failure.kind, failure.is_transient()), (FailureKind::Caa, false));
    assert!(
        matches!(refused(&[(0, "issue", "\u{1b}[0m")]), CaaRefused::Nobody { shown, .. } if shown.is_ascii())
    );
}

#[test]
fn without_records_anybody_may_issue_and_what_was_found_is_stored() {
    let allowed = set(&[(0, "issue", IDENTITY)]);
    let refused = set(&[(0, "issue", ";")]);
    let failure = ValidationFailure::new(FailureKind::Dns, "SERVFAIL");
    for (found, permitted) in
        [(Ok(None), true), (Ok(Some(&allowed)), true), (Ok(Some(&refused)), false), (Err(failure), false)]
    {
        let finding = CaaFinding::new(found.clone(), &subject(false));
        assert_eq!(finding.permits().is_ok(), permitted, "{found:?}");
        let stored = serde_json::to_string(&finding).unwrap();
        assert_eq!(serde_json::from_str::<CaaFinding>(&stored).unwrap(), finding, "{stored}");
    }
}
