//! TLS towards hosts that have no certificate yet: any certificate is taken, but its key must have signed the
//! handshake. RFC 8446, RFC 5246.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use ca_core::acme::challenge::{FailureKind, ValidationFailure};
use der::{AnyRef, Decode, Encode};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};

use super::network;

/// A client configuration that offers TLS 1.2 and 1.3 and exactly this ALPN protocol.
///
/// Nothing is resumed: each handshake shows a certificate.
///
/// # Errors
/// If the cryptographic provider lacks what these versions need.
pub(super) fn client_config(protocol: &[u8]) -> Result<Arc<ClientConfig>, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { algorithms }))
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Takes any certificate: self-signed, expired, for another name, with critical extensions that nobody knows.
///
/// For tls-alpn-01 the certificate itself is the proof and is judged later (RFC 8737 §3). For an https redirect of
/// http-01 a trusted one can't be asked for: the host may be there to get its first, and the way to it went over plain
/// http, so that authenticating this hop alone would prove nothing.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    /// Signature schemes don't name a curve in TLS 1.2, so each algorithm that fits the key is tried.
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = PublicKey::of(certificate)?;
        let candidates = self.algorithms.mapping.iter().filter(|(scheme, _)| *scheme == signed.scheme);
        for algorithm in candidates.flat_map(|(_, algorithms)| algorithms.iter()) {
            if algorithm.public_key_alg_id().as_ref() == key.algorithm
                && algorithm.verify_signature(&key.bits, message, signed.signature()).is_ok()
            {
                return Ok(HandshakeSignatureValid::assertion());
            }
        }
        Err(CertificateError::BadSignature.into())
    }

    /// By the bare key: reading the certificate as a relying party would fail on the critical id-pe-acmeIdentifier.
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = PublicKey::of(certificate)?;
        verify_tls13_signature_with_raw_key(
            message,
            &SubjectPublicKeyInfoDer::from(key.spki),
            signed,
            &self.algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A certificate's public key in the pieces that verification needs.
struct PublicKey {
    /// SubjectPublicKeyInfo in DER.
    spki: Vec<u8>,
    /// The contents of its AlgorithmIdentifier.
    algorithm: Vec<u8>,
    /// The contents of its BIT STRING.
    bits: Vec<u8>,
}

impl PublicKey {
    fn of(certificate: &CertificateDer<'_>) -> Result<Self, Error> {
        Self::read(certificate).map_err(|_| CertificateError::BadEncoding.into())
    }

    fn read(certificate: &[u8]) -> der::Result<Self> {
        let certificate = x509_cert::Certificate::from_der(certificate)?;
        let spki = certificate.tbs_certificate().subject_public_key_info();
        let algorithm = spki.algorithm.to_der()?;
        Ok(Self {
            spki: spki.to_der()?,
            algorithm: AnyRef::from_der(&algorithm)?.value().to_vec(),
            bits: spki.subject_public_key.raw_bytes().to_vec(),
        })
    }
}

/// What a handshake that failed means, in words for the requester.
pub(super) fn handshake_failure(address: SocketAddr, error: &io::Error) -> ValidationFailure {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else {
        return network::broken(address, "during the TLS handshake", error.kind());
    };
    let what = match error {
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => {
            "does not offer the application protocol that was asked for (alert no_application_protocol)"
                .to_owned()
        }
        Error::AlertReceived(AlertDescription::UnrecognisedName) => {
            "does not know the server name that was asked for (alert unrecognized_name)".to_owned()
        }
        Error::AlertReceived(alert) => format!("ended the TLS handshake with the alert {alert:?}"),
        Error::InvalidMessage(_) => "does not speak TLS".to_owned(),
        Error::PeerIncompatible(_) => "has no TLS version or cipher suite in common with us".to_owned(),
        Error::InvalidCertificate(CertificateError::BadSignature) => {
            "did not sign the TLS handshake with the key of its certificate".to_owned()
        }
        Error::InvalidCertificate(_) => "presented a certificate that can't be read".to_owned(),
        _ => "broke the rules of the TLS handshake".to_owned(),
    };
    ValidationFailure::new(FailureKind::Tls, format!("{address} {what}"))
}
