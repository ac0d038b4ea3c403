//! PEM armour (RFC 7468), read and written by hand: the tests look at files as the tools wrote them.

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The DER content of every block with this label, in order.
///
/// # Errors
/// If a block has no end or is not base64.
pub fn decode(text: &str, label: &str) -> Result<Vec<Vec<u8>>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin) {
        let (body, after) =
            after.split_once(&end).with_context(|| format!("a {label} block without an end"))?;
        let body: String = body.split_whitespace().collect();
        blocks.push(STANDARD.decode(body).with_context(|| format!("a {label} block that is not base64"))?);
        rest = after;
    }
    Ok(blocks)
}

/// One block.
#[must_use]
pub fn encode(der: &[u8], label: &str) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.extend(line.iter().map(|byte| char::from(*byte)));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}
