//! issuer and authorityKeyIdentifier name the CA certificate whose key signs: RFC 5280 §4.1.2.4, §4.2.1.1.

use super::Subject;
use crate::pkix::certificate::authority_key_identifier;

pub(super) fn check(subject: &Subject<'_>) -> Result<(), String> {
    let Some(issuer) = subject.issuer else {
        return if subject.tbs.issuer() == subject.tbs.subject() {
            Ok(())
        } else {
            Err("a root certificate's issuer must be its subject".to_owned())
        };
    };
    if subject.tbs.issuer() != &issuer.subject {
        return Err(format!("the issuer is '{}', not '{}'", subject.tbs.issuer(), issuer.subject));
    }
    let extensions = subject.tbs.extensions().map(Vec::as_slice).unwrap_or_default();
    match authority_key_identifier(extensions) {
        Some(id) if id == issuer.key_identifier => Ok(()),
        Some(_) => Err("authorityKeyIdentifier is not the issuer's subjectKeyIdentifier".to_owned()),
        None => Err("there is no authorityKeyIdentifier".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use crate::lint::fixtures::{assert_only, good};
    use crate::pkix::extensions;
    use crate::pkix::name::distinguished_name;

    #[test]
    fn rfc5280_4_2_1_1_the_key_identifier_is_the_issuers() {
        let mut content = good();
        content.extensions[0] = extensions::authority_key_identifier(&[6; 20]).unwrap();
        assert_only(&content, "authority-key");
    }

    #[test]
    fn rfc5280_4_1_2_4_the_issuer_is_the_issuers_subject() {
        let mut content = good();
        content.issuer = distinguished_name(None, Some("Other CA")).unwrap();
        assert_only(&content, "authority-key");
    }
}
