//! The sections `[acme.attestation.FORMAT]`: whose word about devices is taken.

use std::path::PathBuf;

use ca_core::acme::attestation::Format;
use serde::{Deserialize, Serialize};

use super::ConfigError;

/// The section `[acme.attestation]`: the attestation formats that device-attest-01 accepts, each with its roots. A
/// format that is not there is not accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct AttestationConfig {
    /// Managed Device Attestation of Apple's devices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apple: Option<FormatConfig>,
    /// Android Key Attestation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub android_key: Option<FormatConfig>,
    /// TPM 2.0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tpm: Option<FormatConfig>,
    /// YubiKeys and managed devices, as smallstep's clients attest them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<FormatConfig>,
}

/// A section `[acme.attestation.FORMAT]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatConfig {
    /// A PEM file with the CA certificates that attestations must lead to; a path below the data directory unless it is
    /// absolute.
    pub roots: String,
}

/// Where the roots of a format are to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttestationRoots {
    /// The format.
    pub format: Format,
    /// The key in the configuration, for messages.
    pub key: String,
    /// The PEM file, absolute or below the data directory.
    pub file: PathBuf,
}

/// The formats accepted under the section `key`; at least one where the challenge is offered.
pub(super) fn roots(
    config: &AttestationConfig,
    key: &str,
    offered: bool,
) -> Result<Vec<AttestationRoots>, ConfigError> {
    let mut accepted = Vec::new();
    for format in Format::ALL {
        let section = match format {
            Format::Apple => &config.apple,
            Format::AndroidKey => &config.android_key,
            Format::Tpm => &config.tpm,
            Format::Step => &config.step,
        };
        let Some(FormatConfig { roots }) = section else { continue };
        let key = format!("{key}.{format}.roots");
        if roots.is_empty() {
            let problem = "must name a PEM file with the CA certificates that attestations must lead to";
            return Err(ConfigError { key, problem: problem.to_owned() });
        }
        accepted.push(AttestationRoots { format, key, file: PathBuf::from(roots) });
    }
    if offered && accepted.is_empty() {
        let problem = "device-attest-01 is offered, so at least one attestation format needs roots, such as \
                       [acme.attestation.tpm] with roots = \"tpm-roots.pem\"";
        return Err(ConfigError { key: key.to_owned(), problem: problem.to_owned() });
    }
    Ok(accepted)
}
