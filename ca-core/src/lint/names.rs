//! The subject or subjectAltName names somebody, and a commonName of a subscriber also stands in subjectAltName:
//! RFC 5280 §4.1.2.6, §4.2.1.6.

use const_oid::db::{rfc4519, rfc5280};
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::ext::pkix::{ExtendedKeyUsage, SubjectAltName};

use super::Subject;
use crate::pkix::certificate::find;
use crate::pkix::device;
use crate::pkix::identifier::Identifier;

pub(super) fn check(subject: &Subject<'_>) -> Result<(), String> {
    let tbs = subject.tbs;
    let extensions = tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    let alternatives: Option<SubjectAltName> = find(extensions, rfc5280::ID_CE_SUBJECT_ALT_NAME);
    if tbs.subject().is_empty() {
        let critical = extensions.iter().any(|e| e.extn_id == rfc5280::ID_CE_SUBJECT_ALT_NAME && e.critical);
        return match alternatives {
            Some(names) if !names.0.is_empty() && critical => Ok(()),
            _ => Err("the subject is empty and there is no critical subjectAltName".to_owned()),
        };
    }
    let is_tls = find(extensions, rfc5280::ID_CE_EXT_KEY_USAGE).is_some_and(|purposes: ExtendedKeyUsage| {
        purposes.0.iter().any(|p| *p == rfc5280::ID_KP_SERVER_AUTH || *p == rfc5280::ID_KP_CLIENT_AUTH)
    });
    if !is_tls {
        return Ok(());
    }
    let names = alternatives.map(|names| names.0).unwrap_or_default();
    for attribute in tbs.subject().iter_rdn().flat_map(|rdn| rdn.iter()) {
        if attribute.oid == rfc4519::COMMON_NAME {
            let common_name = String::from_utf8_lossy(attribute.value.value()).into_owned();
            if !names.iter().any(|name| says(name, &common_name)) {
                return Err(format!("the commonName '{common_name}' does not stand in subjectAltName"));
            }
        }
    }
    Ok(())
}

fn says(name: &GeneralName, text: &str) -> bool {
    match (name, Identifier::from_text(text)) {
        (GeneralName::OtherName(name), _) => {
            device::from_other_name(name).is_some_and(|device| device.common_name() == text)
        }
        (GeneralName::DnsName(name), Ok(Identifier::Dns(wanted))) => name.as_str() == wanted.as_str(),
        (GeneralName::IpAddress(octets), Ok(Identifier::Ip(std::net::IpAddr::V4(wanted)))) => {
            octets.as_bytes() == wanted.octets()
        }
        (GeneralName::IpAddress(octets), Ok(Identifier::Ip(std::net::IpAddr::V6(wanted)))) => {
            octets.as_bytes() == wanted.octets()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::lint::fixtures::{assert_only, findings, good};
    use crate::pkix::extensions;
    use crate::pkix::identifier::Identifier;
    use crate::pkix::name::distinguished_name;

    #[test]
    fn rfc5280_4_2_1_6_an_empty_subject_needs_a_critical_subject_alt_name() {
        let mut content = good();
        content.subject = distinguished_name(None, None).unwrap();
        assert_only(&content, "names");
        let names = [Identifier::from_text("192.0.2.1").unwrap()];
        content.extensions[4] = extensions::subject_alt_name(&names, true).unwrap();
        assert!(findings(&content).is_empty());
    }

    #[test]
    fn a_common_name_may_be_the_serial_number_of_a_device_that_subject_alt_name_names() {
        let mut content = good();
        let names = [Identifier::from_text("hardware-module:AB12/1.2.3").unwrap()];
        content.extensions[4] = extensions::subject_alt_name(&names, false).unwrap();
        content.subject = distinguished_name(None, Some("AB12")).unwrap();
        assert_eq!(findings(&content), Vec::<String>::new());
        content.subject = distinguished_name(None, Some("AB12/1.2.3")).unwrap();
        assert_only(&content, "names");
    }

    #[test]
    fn a_common_name_stands_in_subject_alt_name_too() {
        let mut content = good();
        content.subject = distinguished_name(None, Some("other.example.org")).unwrap();
        assert_only(&content, "names");
    }
}
