//! What is stored of devices, and that rows from before there were any still read.

use ca_core::acme::{ChallengeState, Identifier};
use ca_core::policy::NameRule;
use serde_json::{Value, from_value, json, to_value};

#[test]
fn identifiers_are_stored_by_type_and_value_as_before() {
    for stored in [
        json!({"type": "dns", "value": "*.example.org"}),
        json!({"type": "ip", "value": "192.0.2.1"}),
        json!({"type": "permanent-identifier", "value": "ABCD/1.2.3"}),
        json!({"type": "hardware-module", "value": "ABCD/1.2.3"}),
    ] {
        let identifier: Identifier = from_value(stored.clone()).unwrap();
        assert_eq!(to_value(&identifier).unwrap(), stored);
    }
    assert!(from_value::<Identifier>(json!({"type": "permanent-identifier", "value": "a/b"})).is_err());
}

#[test]
fn a_challenge_that_became_valid_before_keys_were_attested_still_reads() {
    let stored = json!({"status": "valid", "validated_at": 1_800_000_000_000_i64, "attempts": []});
    let state: ChallengeState = from_value(stored).unwrap();
    assert!(matches!(state, ChallengeState::Valid { attested_key: None, .. }));
    assert!(to_value(&state).unwrap().get("attested_key").is_none());
}

#[test]
fn rules_for_devices_are_stored_as_their_text() {
    for text in ["permanent-identifier:AB*", "hardware-module:*/1.2.3", "permanent-identifier:AB12"] {
        let rule: NameRule = from_value(Value::from(text)).unwrap();
        assert_eq!(to_value(&rule).unwrap(), text);
    }
}
