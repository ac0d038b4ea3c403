//! Serial numbers are positive, at most 20 octets, and have at least 64 random bits' length: RFC 5280 §4.1.2.2.

use super::Subject;

pub(super) fn check(subject: &Subject<'_>) -> Result<(), String> {
    let octets = subject.tbs.serial_number().as_bytes();
    match octets.first() {
        Some(first) if first & 0x80 != 0 => Err("the serial number is negative".to_owned()),
        None | Some(0) if octets.len() <= 1 => Err("the serial number is zero".to_owned()),
        _ if octets.len() > 20 => {
            Err(format!("the serial number has {} octets, at most 20 are allowed", octets.len()))
        }
        _ if octets.len() < 8 => {
            Err(format!("the serial number has only {} octets: it can be guessed", octets.len()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use crate::lint::fixtures::{assert_only, good};
    use crate::pkix::serial::SerialNumber;

    #[test]
    fn rfc5280_4_1_2_2_short_serials_are_refused() {
        let mut content = good();
        content.serial = SerialNumber::from_be_bytes(&[1, 2, 3]).unwrap();
        assert_only(&content, "serial");
    }
}
