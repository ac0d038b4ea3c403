//! basicConstraints, keyUsage and extKeyUsage fit together; no extension stands twice: RFC 5280 §4.2, §4.2.1.3,
//! §4.2.1.9, §4.2.1.12.

use std::collections::BTreeSet;

use const_oid::db::rfc5280;
use x509_cert::ext::pkix::{BasicConstraints, ExtendedKeyUsage, KeyUsage};

use super::Subject;
use crate::pkix::certificate::find;

pub(super) fn check(subject: &Subject<'_>) -> Result<(), String> {
    let extensions = subject.tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    let mut seen = BTreeSet::new();
    if let Some(twice) = extensions.iter().find(|extension| !seen.insert(extension.extn_id)) {
        return Err(format!("the extension {} stands twice", twice.extn_id));
    }
    let is_ca =
        find(extensions, rfc5280::ID_CE_BASIC_CONSTRAINTS).is_some_and(|basic: BasicConstraints| basic.ca);
    let Some(usage) = find::<KeyUsage>(extensions, rfc5280::ID_CE_KEY_USAGE) else {
        return Err("there is no keyUsage".to_owned());
    };
    if is_ca != subject.ca {
        return Err(format!("basicConstraints says cA {is_ca}, the profile says {}", subject.ca));
    }
    if usage.key_cert_sign() != is_ca || usage.crl_sign() != is_ca {
        return Err("keyCertSign and cRLSign belong to CA certificates, and only to them".to_owned());
    }
    let purposes: Option<ExtendedKeyUsage> = find(extensions, rfc5280::ID_CE_EXT_KEY_USAGE);
    if !is_ca && purposes.is_none_or(|purposes| purposes.0.is_empty()) {
        return Err("there is no extKeyUsage".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use x509_cert::ext::pkix::KeyUsages;

    use crate::lint::fixtures::{assert_only, good};
    use crate::pkix::extensions;

    #[test]
    fn rfc5280_4_2_no_extension_stands_twice() {
        let mut content = good();
        let again = content.extensions[0].clone();
        content.extensions.push(again);
        assert_only(&content, "usage");
    }

    #[test]
    fn rfc5280_4_2_1_9_a_subscriber_is_no_ca() {
        let mut content = good();
        content.extensions.push(extensions::basic_constraints(true, None).unwrap());
        assert_only(&content, "usage");
        let mut content = good();
        content.extensions[2] =
            extensions::key_usage(KeyUsages::DigitalSignature | KeyUsages::KeyCertSign).unwrap();
        assert_only(&content, "usage");
    }
}
