//! Questions and answers of the policy webhook as JSON, and the signature on both: docs/POLICY-WEBHOOK.md.

use std::collections::BTreeMap;
use std::time::Duration;

use aws_lc_rs::hmac;
use ca_core::acme::external_account::Owner;
use ca_core::id::{from_hex, to_hex};
use ca_core::policy_hook::{
    Annotations, Detail, Enrichment, HookFailure, Labels, OrderFacts, RefusalKind, Verdict,
};
use ca_core::time::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::{Value, json};

/// The header that carries the signature, in both directions.
pub(super) const SIGNATURE: &str = "chancery-signature";
/// The fewest octets of a secret.
const LEAST_SECRET: usize = 32;
/// The longest header that is looked at, in octets.
const MAX_SIGNATURE: usize = 256;

/// The secret that both sides share.
pub(super) struct Secret(hmac::Key);

/// The signature of a question, to which the answer's is bound.
pub(super) struct Signed {
    /// What goes into the header.
    pub header: String,
    /// The MAC in hexadecimal digits.
    mac: String,
}

impl Secret {
    /// `None` if it is too short.
    pub(super) fn new(secret: &SecretString) -> Option<Self> {
        let octets = secret.expose_secret().as_bytes();
        (octets.len() >= LEAST_SECRET).then(|| Self(hmac::Key::new(hmac::HMAC_SHA256, octets)))
    }

    /// Signs a question.
    pub(super) fn sign(&self, body: &[u8], now: Timestamp) -> Signed {
        let seconds = now.as_millis().div_euclid(1000).to_string();
        let mac = to_hex(hmac::sign(&self.0, &input("request", &[&seconds], body)).as_ref());
        Signed { header: format!("t={seconds},v1={mac}"), mac }
    }

    /// Whether an answer is signed by the service, as the answer to this question.
    pub(super) fn verify(
        &self,
        question: &Signed,
        header: Option<&[u8]>,
        body: &[u8],
    ) -> Result<(), HookFailure> {
        let header = header.ok_or(HookFailure::Signature("it has no Chancery-Signature"))?;
        let unreadable = HookFailure::Signature("its Chancery-Signature is not t=SECONDS,v1=HEX");
        let (seconds, mac) = parse(header).ok_or(unreadable)?;
        hmac::verify(&self.0, &input("response", &[seconds, &question.mac], body), &mac).map_err(|_| {
            HookFailure::Signature("its Chancery-Signature is not made with this secret for this question")
        })
    }
}

/// What is signed: which side speaks, the parts, and the body, each on a line of its own.
fn input(side: &str, parts: &[&str], body: &[u8]) -> Vec<u8> {
    let mut input = Vec::with_capacity(body.len() + 128);
    for line in [side].iter().chain(parts) {
        input.extend_from_slice(line.as_bytes());
        input.push(b'\n');
    }
    input.extend_from_slice(body);
    input
}

fn parse(header: &[u8]) -> Option<(&str, Vec<u8>)> {
    let text = str::from_utf8(header).ok().filter(|text| text.len() <= MAX_SIGNATURE)?;
    let (seconds, mac) = text.strip_prefix("t=")?.split_once(",v1=")?;
    let number = (1..=20).contains(&seconds.len()) && seconds.bytes().all(|b| b.is_ascii_digit());
    if !number {
        return None;
    }
    Some((seconds, from_hex(mac)?))
}

/// The body of a question.
pub(super) fn question(facts: &OrderFacts, now: Timestamp) -> Vec<u8> {
    let identifiers: Vec<Value> =
        facts.names.iter().map(|name| json!({ "type": name.kind(), "value": name.value() })).collect();
    let external_account =
        facts.external_account.as_ref().map(|(id, owner)| json!({ "id": id, "owner": owner.as_str() }));
    json!({
        "version": 1,
        "id": facts.order,
        "asked_at": now.to_string(),
        "account": facts.account,
        "external_account": external_account,
        "directory": facts.directory,
        "profile": facts.profile,
        "issuer": facts.issuer,
        "subject": facts.subject,
        "identifiers": identifiers,
        "key_sha256": facts.key,
        "key_algorithm": facts.key_algorithm,
        "not_before": facts.validity.not_before.to_string(),
        "not_after": facts.validity.not_after.to_string(),
        "validity_seconds": facts.lifetime().as_secs(),
        "replaces": facts.replaces,
    })
    .to_string()
    .into_bytes()
}

/// What an answer must have.
#[derive(Deserialize)]
struct Head {
    verdict: Word,
    #[serde(default)]
    detail: Value,
    #[serde(default, rename = "type")]
    kind: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Word {
    Allow,
    Refuse,
}

/// All that an allowing answer may have: what we don't know, we would not carry out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowing {
    #[serde(rename = "verdict")]
    _verdict: Word,
    #[serde(default, rename = "detail")]
    _detail: Option<String>,
    #[serde(default)]
    owner: Option<Owner>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    validity_seconds: Option<u64>,
}

/// Reads the body of an answer whose signature was checked.
pub(super) fn verdict(body: &[u8]) -> Result<Verdict, HookFailure> {
    let unreadable =
        |error: serde_json::Error| HookFailure::Answer(Detail::new(&error.to_string()).as_str().to_owned());
    // A refusal is taken for one whatever else it says.
    let head: Head = serde_json::from_slice(body).map_err(unreadable)?;
    if let Word::Refuse = head.verdict {
        let kind = match head.kind.as_str() {
            Some("rejectedIdentifier") => RefusalKind::RejectedIdentifier,
            _ => RefusalKind::Unauthorized,
        };
        return Ok(Verdict::Refuse { kind, detail: Detail::new(head.detail.as_str().unwrap_or_default()) });
    }
    let Allowing { owner, labels, validity_seconds, .. } =
        serde_json::from_slice(body).map_err(unreadable)?;
    let labels = Labels::try_from(labels).map_err(|error| HookFailure::Answer(error.to_string()))?;
    Ok(Verdict::Allow(Enrichment {
        annotations: Annotations { owner, labels },
        lifetime: validity_seconds.map(Duration::from_secs),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_signature_is_the_documented_one() {
        // hmac.new(b"0123456789abcdef0123456789abcdef", b'request\n1700000000\n{"version":1}', "sha256").hexdigest()
        let secret = Secret::new(&"0123456789abcdef0123456789abcdef".to_owned().into()).unwrap();
        let signed = secret.sign(br#"{"version":1}"#, Timestamp::from_seconds(1_700_000_000));
        assert_eq!(
            signed.header,
            "t=1700000000,v1=761d9f1b0bcfd08c1d6025f34676cd8e9244dc577549e78ad4cc92bcb68cf9c0"
        );
        let answer = br#"{"verdict":"allow"}"#;
        let header = b"t=1700000001,v1=78a5a9710fb29d203e59816c7a869b6aa454f0e183a4909ce5c7b680afb9cdac";
        assert_eq!(secret.verify(&signed, Some(header), answer), Ok(()));
        let other = secret.sign(br#"{"version":2}"#, Timestamp::from_seconds(1_700_000_000));
        for (question, header, body) in [
            (&other, &header[..], &answer[..]),
            (&signed, &header[..], br#"{"verdict":"allow" }"#),
            (
                &signed,
                b"t=1700000002,v1=78a5a9710fb29d203e59816c7a869b6aa454f0e183a4909ce5c7b680afb9cdac",
                &answer[..],
            ),
            (&signed, signed.header.as_bytes(), br#"{"version":1}"#),
            (&signed, b"", &answer[..]),
            (&signed, b"t=,v1=00", &answer[..]),
            (&signed, b"t=1700000001,v1=", &answer[..]),
        ] {
            assert!(matches!(secret.verify(question, Some(header), body), Err(HookFailure::Signature(_))));
        }
        assert!(Secret::new(&"short".to_owned().into()).is_none());
    }

    #[test]
    fn an_answer_that_asks_for_what_we_do_not_know_is_no_verdict_but_a_refusal_always_is_one() {
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"verdict":"ALLOW"}"#,
            r#"{"verdict":"allow","names":["a.example"]}"#,
            r#"{"verdict":"allow","validity_seconds":-1}"#,
            r#"{"verdict":"allow","owner":"a\nb"}"#,
            r#"{"verdict":"allow","labels":{"a b":"c"}}"#,
            r#"{"verdict":"allow","verdict":"allow"}"#,
        ] {
            assert!(matches!(verdict(bad.as_bytes()), Err(HookFailure::Answer(_))), "{bad}");
        }
        let refused =
            verdict(br#"{"verdict":"refuse","detail":"no","names":[],"type":"rejectedIdentifier"}"#);
        let kind = RefusalKind::RejectedIdentifier;
        assert_eq!(refused, Ok(Verdict::Refuse { kind, detail: Detail::new("no") }));
        let refused = verdict(br#"{"verdict":"refuse","detail":7,"type":"nonesuch"}"#);
        assert!(
            matches!(refused, Ok(Verdict::Refuse { kind: RefusalKind::Unauthorized, .. })),
            "{refused:?}"
        );
    }
}
