//! Challenges: what to fetch, and whether what was seen proves control. RFC 8555 §8, RFC 8737, RFC 8738.

mod judge;

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::acme::account::Thumbprint;
use crate::acme::caa::{CaaFinding, RelevantSet};
use crate::acme::persist;
use crate::pkix::identifier::{DnsName, Identifier};
use crate::pkix::public_key::{KeyHash, sha256};
use crate::time::Timestamp;

/// The kinds of challenge that we offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ChallengeType {
    /// A file at a well-known path over plain HTTP, RFC 8555 §8.3.
    #[serde(rename = "http-01")]
    Http01,
    /// A TXT record, RFC 8555 §8.4; the only one for wildcards, none for addresses.
    #[serde(rename = "dns-01")]
    Dns01,
    /// A self-signed certificate in a TLS handshake with ALPN `acme-tls/1`, RFC 8737.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
    /// A TXT record whose name is the account's own, draft-ietf-acme-dns-account-label-03.
    #[serde(rename = "dns-account-01")]
    DnsAccount01,
    /// A TXT record that stands for long, draft-ietf-acme-dns-persist-02: see [`crate::acme::persist`].
    #[serde(rename = "dns-persist-01")]
    DnsPersist01,
    /// A statement of the device about its identity and its key, draft-ietf-acme-device-attest-10: see
    /// [`crate::acme::attestation`].
    #[serde(rename = "device-attest-01")]
    DeviceAttest01,
}

impl ChallengeType {
    /// Every kind, in the order in which we offer them.
    pub const ALL: [Self; 6] = [
        Self::Http01,
        Self::Dns01,
        Self::TlsAlpn01,
        Self::DnsAccount01,
        Self::DnsPersist01,
        Self::DeviceAttest01,
    ];

    /// Those offered unless configuration says otherwise: the others confuse clients that don't know them.
    pub const USUAL: [Self; 3] = [Self::Http01, Self::Dns01, Self::TlsAlpn01];

    /// The name in RFC 8555, RFC 8737 and the drafts.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http01 => "http-01",
            Self::Dns01 => "dns-01",
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::DnsAccount01 => "dns-account-01",
            Self::DnsPersist01 => "dns-persist-01",
            Self::DeviceAttest01 => "device-attest-01",
        }
    }

    /// Whether what proves control stands in the DNS.
    #[must_use]
    pub const fn is_dns(self) -> bool {
        matches!(self, Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01)
    }

    /// Whether this kind can prove control of `identifier` (RFC 8555 §7.4.1, RFC 8738 §7).
    #[must_use]
    pub fn proves(self, identifier: &Identifier) -> bool {
        match self {
            Self::Http01 | Self::TlsAlpn01 => !identifier.is_wildcard() && !identifier.is_device(),
            Self::Dns01 | Self::DnsAccount01 | Self::DnsPersist01 => {
                matches!(identifier, Identifier::Dns(_))
            }
            Self::DeviceAttest01 => identifier.is_device(),
        }
    }
}

impl fmt::Display for ChallengeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for ChallengeType {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or(())
    }
}

/// A challenge's token: 256 random bits in base64url, RFC 8555 §8.1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

impl Token {
    /// A new token.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut bytes = [0; 32];
        rng.fill_bytes(&mut bytes);
        Self(BASE64_URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `token || '.' || thumbprint`, RFC 8555 §8.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyAuthorization(String);

impl KeyAuthorization {
    /// The key authorization of a token under an account key.
    #[must_use]
    pub fn new(token: &Token, thumbprint: &Thumbprint) -> Self {
        Self(format!("{}.{thumbprint}", token.as_str()))
    }

    /// The key authorization as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The TXT record's value for dns-01: base64url of SHA-256, RFC 8555 §8.4.
    #[must_use]
    pub fn dns_value(&self) -> String {
        BASE64_URL_SAFE_NO_PAD.encode(self.sha256())
    }

    /// SHA-256 of the key authorization.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        sha256(self.0.as_bytes())
    }
}

/// The account that claims to control an identifier, as challenges know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Names its key.
    pub thumbprint: Thumbprint,
    /// The keys it had before, the oldest first.
    pub former: Vec<Thumbprint>,
    /// Its URL.
    pub account_url: String,
    /// What the hashed URIs of accounts in its directory begin with.
    pub account_hash_prefix: String,
    /// The names by which a persistent record can name this CA.
    pub issuer_domain_names: Vec<DnsName>,
}

impl Claimant {
    /// The label that is the account's own, draft-ietf-acme-dns-account-label-03: `_` and the first ten octets of
    /// SHA-256 of its URL in base32 (RFC 4648 §6, lower case).
    #[must_use]
    pub fn label(&self) -> String {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let hash = sha256(self.account_url.as_bytes());
        let bits = hash[..10].iter().fold(0_u128, |bits, octet| (bits << 8) | u128::from(*octet));
        let characters = (0..16).rev().map(|group| {
            let index = usize::try_from((bits >> (5 * group)) & 31).unwrap_or(0);
            char::from(ALPHABET[index])
        });
        std::iter::once('_').chain(characters).collect()
    }
}

/// What a challenge that succeeded proves, beside control now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proven {
    /// Until when it may be relied on, where what was seen says so.
    pub until: Option<Timestamp>,
    /// The only key that may be certified by it, where a device has attested one.
    pub attested_key: Option<KeyHash>,
}

/// One challenge of an authorization. A stored type: changing it needs a migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// Its kind, which names it within its authorization.
    #[serde(rename = "type")]
    pub kind: ChallengeType,
    /// Its token.
    pub token: Token,
    /// How far it got.
    pub state: ChallengeState,
}

/// How far a challenge got, RFC 8555 §7.1.6.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ChallengeState {
    /// The client has not said that it is ready.
    Pending,
    /// We are looking.
    Processing {
        /// When the client said that it is ready.
        accepted_at: Timestamp,
    },
    /// Control is proven.
    Valid {
        /// When.
        validated_at: Timestamp,
        /// What was tried, oldest first.
        attempts: Vec<Attempt>,
        /// The only key that may be certified by it, where a device has attested one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        attested_key: Option<KeyHash>,
    },
    /// Control is not proven; the client needs a new authorization.
    Invalid {
        /// When that was decided.
        failed_at: Timestamp,
        /// Why, by the last attempt.
        failure: ValidationFailure,
        /// What was tried, oldest first.
        attempts: Vec<Attempt>,
    },
}

/// One attempt to validate, kept for the requester to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: Timestamp,
    /// The addresses and ports tried, in order; empty if none was reached for.
    pub addresses: Vec<String>,
    /// Why it failed; `None` if it succeeded.
    pub failure: Option<ValidationFailure>,
    /// What the name's CAA records said; `None` if nobody looked, as in a directory that does not ask for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caa: Option<CaaFinding>,
}

/// Why validation failed, in words for the requester. Holds at most 64 escaped bytes of what the far side sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValidationFailure {
    /// What kind of failure: an ACME error type.
    pub kind: FailureKind,
    /// What was seen, and what was expected.
    pub detail: String,
}

impl ValidationFailure {
    /// A failure of this kind.
    pub fn new(kind: FailureKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    /// Whether another attempt may see something else: the network, not the answer, was at fault.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, FailureKind::Connection | FailureKind::Dns)
    }
}

/// The error types of RFC 8555 §6.7 that validation can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FailureKind {
    /// The server could not connect to the validation target.
    Connection,
    /// There was a problem with a DNS query.
    Dns,
    /// The response received didn't match the challenge's requirements.
    IncorrectResponse,
    /// The server received a TLS error during validation.
    Tls,
    /// The client lacks authorization: the right place answered, with the wrong content.
    Unauthorized,
    /// Egress policy forbids to look there.
    RejectedIdentifier,
    /// CAA records forbid the CA to issue, RFC 8659.
    Caa,
    /// What was found does not follow its grammar.
    Malformed,
    /// A device's attestation statement is not acceptable.
    BadAttestationStatement,
}

/// What has to be fetched to decide a challenge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// `GET http://{host}:{http01_port}{path}`, redirects followed within limits.
    Http {
        /// The host to connect to.
        host: Identifier,
        /// The path, from the root.
        path: String,
    },
    /// The TXT records at this name.
    Txt {
        /// The full name, without a trailing dot.
        name: String,
    },
    /// A TLS handshake with ALPN `acme-tls/1`.
    TlsAlpn {
        /// The host to connect to.
        host: Identifier,
        /// What goes into SNI.
        server_name: String,
    },
    /// The CAA records of this name or of the nearest domain above it that has any, RFC 8659 §3. They belong to no
    /// challenge: see [`CaaFinding`].
    Caa {
        /// The name, without a wildcard label.
        name: DnsName,
    },
}

/// What an attempt to carry out a [`Probe`] saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The addresses and ports tried, in order.
    pub addresses: Vec<String>,
    /// What came back.
    pub answer: Result<Answer, ValidationFailure>,
}

/// What a [`Probe`] brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// An HTTP response.
    Http {
        /// The status code.
        status: u16,
        /// At most the first [`Answer::MAX_BODY`] octets of the body.
        body: Vec<u8>,
        /// Whether the body went on after that.
        truncated: bool,
        /// Whether a redirect led here: then nothing of the body is shown to the requester.
        redirected: bool,
        /// Where the answer came from.
        address: String,
    },
    /// The TXT records found, each with its strings joined; empty for NODATA and NXDOMAIN.
    Txt {
        /// At most 100 values of at most 512 octets.
        values: Vec<Vec<u8>>,
    },
    /// A completed handshake that agreed on `acme-tls/1`.
    TlsAlpn {
        /// The end-entity certificate in DER.
        certificate: Vec<u8>,
        /// Where it came from.
        address: String,
    },
    /// The CAA records found; `None` if there are none up to the top-level domain.
    Caa(Option<RelevantSet>),
}

impl Answer {
    /// How much of an HTTP body is read: a key authorization has 87 octets, and white space may follow.
    pub const MAX_BODY: usize = 512;
    /// So much of a TXT record's value is kept; one that is longer is cut off there.
    pub const MAX_TXT: usize = 512;
}

impl Challenge {
    /// A new challenge.
    pub fn generate(kind: ChallengeType, rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        Self { kind, token: Token::generate(rng), state: ChallengeState::Pending }
    }

    /// What to fetch to decide this challenge for `identifier` (an authorization's: never with a wildcard label);
    /// `None` for device-attest-01, whose proof comes with the client's response.
    #[must_use]
    pub fn probe(&self, identifier: &Identifier, claimant: &Claimant) -> Option<Probe> {
        Some(match self.kind {
            ChallengeType::Http01 => Probe::Http {
                host: identifier.clone(),
                path: format!("/.well-known/acme-challenge/{}", self.token.as_str()),
            },
            ChallengeType::Dns01 => Probe::Txt { name: format!("_acme-challenge.{identifier}") },
            ChallengeType::DnsAccount01 => {
                Probe::Txt { name: format!("{}._acme-challenge.{identifier}", claimant.label()) }
            }
            ChallengeType::DnsPersist01 => Probe::Txt { name: format!("{}.{identifier}", persist::LABEL) },
            ChallengeType::TlsAlpn01 => {
                Probe::TlsAlpn { host: identifier.clone(), server_name: identifier.server_name() }
            }
            ChallengeType::DeviceAttest01 => return None,
        })
    }

    /// Whether what was seen proves control of `identifier`, or with `wildcard` of all names one label below it, by
    /// `claimant`.
    ///
    /// # Errors
    /// Why it does not, in words for the requester.
    pub fn judge(
        &self,
        identifier: &Identifier,
        wildcard: bool,
        claimant: &Claimant,
        observed: &Observed,
        now: Timestamp,
    ) -> Result<Proven, ValidationFailure> {
        let answer = observed.answer.as_ref().map_err(Clone::clone)?;
        let expected = KeyAuthorization::new(&self.token, &claimant.thumbprint);
        let now_only = |proven: Result<(), ValidationFailure>| proven.map(|()| Proven::default());
        match (self.kind, answer) {
            (ChallengeType::Http01, Answer::Http { status, body, truncated, redirected, address }) => {
                now_only(judge::http(&expected, *status, body, *truncated, *redirected, address))
            }
            (ChallengeType::Dns01, Answer::Txt { values }) => {
                now_only(judge::txt(&format!("_acme-challenge.{identifier}"), &expected, values))
            }
            (ChallengeType::DnsAccount01, Answer::Txt { values }) => {
                let name = format!("{}._acme-challenge.{identifier}", claimant.label());
                now_only(judge::txt(&name, &expected, values))
            }
            (ChallengeType::DnsPersist01, Answer::Txt { values }) => match identifier {
                Identifier::Dns(domain) => persist::judge(domain, wildcard, claimant, values, now),
                _ => Err(ValidationFailure::new(
                    FailureKind::IncorrectResponse,
                    format!("'{identifier}' is no name that a TXT record can stand at"),
                )),
            },
            (ChallengeType::TlsAlpn01, Answer::TlsAlpn { certificate, address }) => {
                now_only(judge::tls_alpn(identifier, &expected, certificate, address))
            }
            (kind, _) => Err(ValidationFailure::new(
                FailureKind::IncorrectResponse,
                format!("what was fetched does not belong to a {kind} challenge"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(body: &str) -> (Challenge, Thumbprint, Observed) {
        let challenge = Challenge {
            kind: ChallengeType::Http01,
            token: Token("LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0".into()),
            state: ChallengeState::Pending,
        };
        let answer = Answer::Http {
            status: 200,
            body: body.as_bytes().to_vec(),
            truncated: false,
            redirected: false,
            address: "192.0.2.1:80".into(),
        };
        (challenge, Thumbprint([7; 32]), Observed { addresses: vec![], answer: Ok(answer) })
    }

    fn judged(
        challenge: &Challenge,
        thumbprint: Thumbprint,
        observed: &Observed,
    ) -> Result<Proven, ValidationFailure> {
        let claimant = Claimant {
            thumbprint,
            former: Vec::new(),
            account_url: String::new(),
            account_hash_prefix: String::new(),
            issuer_domain_names: Vec::new(),
        };
        challenge.judge(&name(), false, &claimant, observed, Timestamp::from_millis(0))
    }

    fn name() -> Identifier {
        Identifier::from_text("www.example.org").unwrap()
    }

    #[test]
    fn rfc8555_8_3_http_01_ignores_only_trailing_white_space() {
        let (challenge, thumbprint, _) = http("");
        let good = KeyAuthorization::new(&challenge.token, &thumbprint);
        for (body, fine) in [
            (good.as_str().to_owned(), true),
            (format!("{}\r\n", good.as_str()), true),
            (format!(" {}", good.as_str()), false),
            (format!("{}x", good.as_str()), false),
            (String::new(), false),
        ] {
            let (challenge, thumbprint, observed) = http(&body);
            assert_eq!(judged(&challenge, thumbprint, &observed).is_ok(), fine, "{body}");
        }
    }

    #[test]
    fn at_most_64_escaped_bytes_of_a_body_are_shown_and_none_after_a_redirect() {
        let (challenge, thumbprint, mut observed) = http(&"S".repeat(300));
        let failure = judged(&challenge, thumbprint, &observed).unwrap_err();
        assert_eq!(failure.detail.matches('S').count() - challenge.token.as_str().matches('S').count(), 64);
        if let Ok(Answer::Http { redirected, .. }) = &mut observed.answer {
            *redirected = true;
        }
        let failure = judged(&challenge, thumbprint, &observed).unwrap_err();
        assert!(!failure.detail.contains("SSSS"), "{}", failure.detail);
    }

    #[test]
    fn rfc8555_8_4_dns_01_takes_any_of_several_records() {
        let (mut challenge, thumbprint, mut observed) = http("");
        challenge.kind = ChallengeType::Dns01;
        let value = KeyAuthorization::new(&challenge.token, &thumbprint).dns_value();
        observed.answer = Ok(Answer::Txt { values: vec![b"other".to_vec(), value.into_bytes()] });
        assert_eq!(judged(&challenge, thumbprint, &observed), Ok(Proven::default()));
        observed.answer = Ok(Answer::Txt { values: vec![] });
        assert!(judged(&challenge, thumbprint, &observed).is_err());
    }

    #[test]
    fn wildcards_are_proven_by_dns_only_and_addresses_never_by_dns() {
        let wildcard = Identifier::from_text("*.example.org").unwrap();
        let address = Identifier::from_text("192.0.2.1").unwrap();
        assert_eq!(ChallengeType::USUAL.map(|kind| kind.proves(&wildcard)), [false, true, false]);
        assert_eq!(ChallengeType::USUAL.map(|kind| kind.proves(&address)), [true, false, true]);
    }
}
