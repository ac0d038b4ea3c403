//! Certificate revocation lists: to-be-signed content out, serials of an earlier one in. RFC 5280 §5.

use std::collections::BTreeSet;

use der::{Decode, Encode};
use x509_cert::certificate::Version;
use x509_cert::crl::{CertificateList, RevokedCert, TbsCertList};
use x509_cert::name::Name;

use crate::pkix::extensions;
use crate::pkix::serial::SerialNumber;
use crate::revocation::RevocationReason;
use crate::signing::SignatureAlgorithm;
use crate::store::RevokedCertificate;
use crate::time::Timestamp;

/// Everything that a CRL says.
#[derive(Clone, Debug)]
pub struct CrlContent<'a> {
    /// How the issuer signs.
    pub signature: SignatureAlgorithm,
    /// The issuer's Name.
    pub issuer: Name,
    /// The issuer's own key identifier, for authorityKeyIdentifier.
    pub key_identifier: &'a [u8],
    /// cRLNumber.
    pub number: u64,
    /// thisUpdate.
    pub this_update: Timestamp,
    /// nextUpdate.
    pub next_update: Timestamp,
    /// The URL of issuingDistributionPoint; `None` for a CRL that covers all of the issuer's certificates.
    pub distribution_point: Option<&'a str>,
    /// The entries, by serial.
    pub revoked: &'a [RevokedCertificate],
}

impl CrlContent<'_> {
    /// The TBSCertList in DER. revokedCertificates is left out when empty (§5.1.2.6), `unspecified` is never written
    /// (§5.3.1).
    ///
    /// # Errors
    /// If a part can't be encoded.
    pub fn to_tbs_der(&self) -> Result<Vec<u8>, der::Error> {
        let entries = self.revoked.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        let mut crl_extensions = vec![
            extensions::authority_key_identifier(self.key_identifier)?,
            extensions::crl_number(self.number)?,
        ];
        if let Some(url) = self.distribution_point {
            crl_extensions.push(extensions::issuing_distribution_point(url)?);
        }
        TbsCertList {
            version: Version::V2,
            signature: self.signature.identifier(),
            issuer: self.issuer.clone(),
            this_update: self.this_update.to_x509(),
            next_update: Some(self.next_update.to_x509()),
            revoked_certificates: (!entries.is_empty()).then_some(entries),
            crl_extensions: Some(crl_extensions),
        }
        .to_der()
    }
}

fn entry(revoked: &RevokedCertificate) -> Result<RevokedCert, der::Error> {
    let reason = revoked.revocation.reason;
    let extensions = match reason {
        RevocationReason::Unspecified => None,
        _ => Some(vec![extensions::reason_code(reason.code())?]),
    };
    Ok(RevokedCert {
        serial_number: revoked.serial.to_x509().ok_or(der::ErrorKind::Overlength)?,
        revocation_date: revoked.revocation.at.to_x509(),
        crl_entry_extensions: extensions,
    })
}

/// The serials that a CRL of ours lists.
///
/// # Errors
/// If it is not valid DER.
pub fn listed_serials(der: &[u8]) -> Result<BTreeSet<SerialNumber>, der::Error> {
    let list: CertificateList = CertificateList::from_der(der)?;
    list.tbs_cert_list
        .revoked_certificates
        .unwrap_or_default()
        .iter()
        .map(|entry| SerialNumber::from_x509(&entry.serial_number).map_err(|_| der::ErrorKind::Failed.into()))
        .collect()
}
