//! What operators see of signing: latency by backend and algorithm, errors by kind, and whether tokens are there.

use std::time::Duration;

use ca_core::signing::SignatureAlgorithm;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// The metrics of every backend in this process; clones share the same numbers.
#[derive(Clone, Debug)]
pub struct Metrics {
    signing: Family<SigningLabels, Histogram, fn() -> Histogram>,
    errors: Family<ErrorLabels, Counter>,
    token_up: Family<TokenLabels, Gauge>,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct SigningLabels {
    backend: &'static str,
    algorithm: AlgorithmLabel,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ErrorLabels {
    backend: &'static str,
    kind: ErrorKind,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct TokenLabels {
    token: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq)]
struct AlgorithmLabel(SignatureAlgorithm);

impl EncodeLabelValue for AlgorithmLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self.0 {
            SignatureAlgorithm::EcdsaSha256 => "ecdsa-sha256",
            SignatureAlgorithm::EcdsaSha384 => "ecdsa-sha384",
            SignatureAlgorithm::Ed25519 => "ed25519",
            SignatureAlgorithm::RsaPkcs1Sha256 => "rsa-pkcs1-sha256",
            SignatureAlgorithm::RsaPssSha256 => "rsa-pss-sha256",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

/// Why a signature was not made, for counting.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// The key refused.
    Refused,
    /// The token is away.
    TokenLost,
    /// Too many requests wait.
    QueueFull,
    /// No answer in time.
    Timeout,
}

impl EncodeLabelValue for ErrorKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        let name = match self {
            Self::Refused => "refused",
            Self::TokenLost => "token-lost",
            Self::QueueFull => "queue-full",
            Self::Timeout => "timeout",
        };
        EncodeLabelValue::encode(&name, encoder)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            // 20 µs to about 7 s: from a P-256 signature in software to a token in trouble.
            signing: Family::new_with_constructor(|| Histogram::new(exponential_buckets(20e-6, 2.5, 15))),
            errors: Family::default(),
            token_up: Family::default(),
        }
    }
}

impl Metrics {
    /// Registers `hsm_signing_seconds`, `hsm_signing_errors_total` and `hsm_token_up`; a prefix is the registry's.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "hsm_signing_seconds",
            "Time from a signing request to its signature, with the wait in the queue",
            self.signing.clone(),
        );
        registry.register(
            "hsm_signing_errors",
            "Signing requests without a signature, by the reason",
            self.errors.clone(),
        );
        registry.register(
            "hsm_token_up",
            "1 while the PKCS#11 token can be used, 0 while it is being found again",
            self.token_up.clone(),
        );
    }

    pub(crate) fn signed(&self, backend: &'static str, algorithm: SignatureAlgorithm, took: Duration) {
        let labels = SigningLabels { backend, algorithm: AlgorithmLabel(algorithm) };
        self.signing.get_or_create(&labels).observe(took.as_secs_f64());
    }

    pub(crate) fn failed(&self, backend: &'static str, kind: ErrorKind) {
        self.errors.get_or_create(&ErrorLabels { backend, kind }).inc();
    }

    pub(crate) fn token_is_up(&self, token: &str, up: bool) {
        self.token_up.get_or_create(&TokenLabels { token: token.to_owned() }).set(i64::from(up));
    }
}
