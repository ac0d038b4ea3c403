//! OCSP: reading requests, and signing answers made from certificate records as they stood at `now`. RFC 6960, 5019,
//! 9654.
//!
//! [`Request::parse`] bounds what it reads; [`OcspSigner`] is the only thing that signs a response, and exists only for
//! a certificate that the issuer delegated to; [`ResponseStatus`] names every other outcome.

mod request;
mod response;
mod signer;

pub use request::{
    CertId, CertIdHash, MAX_NONCE_LENGTH, Nonce, Request, RequestError, RequestLimits, fuzz_request,
};
pub use response::{
    BasicOcspResponse, CertStatus, OcspResponse, ResponderId, ResponseBytes, ResponseData, ResponseStatus,
    RevokedInfo, SingleResponse,
};
pub use signer::{
    AnswerError, OcspIssuer, OcspSigner, ResponderError, SignedResponse, UNKNOWN_VALIDITY, Window,
};
