//! notBefore lies before notAfter, and the issuer's certificate outlives what it signs: RFC 5280 §4.1.2.5, §6.1.

use super::Subject;
use crate::time::Timestamp;

pub(super) fn check(subject: &Subject<'_>) -> Result<(), String> {
    let validity = subject.tbs.validity();
    let (not_before, not_after) =
        (Timestamp::from_x509(validity.not_before), Timestamp::from_x509(validity.not_after));
    if not_before >= not_after {
        return Err(format!("notBefore {not_before} is not before notAfter {not_after}"));
    }
    match subject.issuer {
        Some(issuer) if not_after > issuer.not_after => {
            Err(format!("notAfter {not_after} is after the issuer's {}", issuer.not_after))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::lint::fixtures::{assert_only, good, issuer};

    #[test]
    fn rfc5280_4_1_2_5_nothing_outlives_its_issuer() {
        let mut content = good();
        content.not_after = issuer().not_after.plus(Duration::from_secs(1));
        assert_only(&content, "validity");
    }

    #[test]
    fn rfc5280_4_1_2_5_times_are_in_order() {
        let mut content = good();
        content.not_after = content.not_before;
        assert_only(&content, "validity");
    }
}
