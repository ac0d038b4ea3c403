//! revokeCert, [RFC 8555 §7.6](https://www.rfc-editor.org/rfc/rfc8555#section-7.6).

use serde::Deserialize;

use super::Octets;

#[derive(Debug, Deserialize)]
pub(crate) struct RevokeCertificate {
    pub(crate) certificate: Octets,
    /// A reason code of RFC 5280 §5.3.1.
    #[serde(default)]
    pub(crate) reason: Option<serde_json::Number>,
}
