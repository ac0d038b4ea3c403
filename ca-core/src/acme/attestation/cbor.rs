//! The attestation object in CBOR (RFC 8949): a map with `fmt` and `attStmt`, read once from front to back.
//!
//! Every length is definite, every key a text that stands once, and nothing follows the end. Members that we don't know
//! are skipped to a bounded depth; `authData` is one of them, since it means nothing in ACME.

use minicbor::data::Type;
use minicbor::decode::{Decoder, Error};

use super::AttestationError;

/// What stands in an attestation object.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct AttestationObject<'a> {
    /// The name of the format.
    pub(super) format: &'a str,
    /// The statement, which the format gives its meaning.
    pub(super) statement: Statement<'a>,
}

/// The members of statements that one or the other format has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Statement<'a> {
    pub(super) alg: Option<i64>,
    pub(super) sig: Option<&'a [u8]>,
    pub(super) x5c: Vec<&'a [u8]>,
    pub(super) ver: Option<&'a str>,
    pub(super) cert_info: Option<&'a [u8]>,
    pub(super) pub_area: Option<&'a [u8]>,
}

/// How deep what we skip may be nested.
const MAX_DEPTH: u8 = 8;
/// How many certificates a statement may have.
const MAX_CERTIFICATES: u64 = 8;
/// How many members a map may have.
const MAX_MEMBERS: u64 = 32;

impl From<Error> for AttestationError {
    fn from(_: Error) -> Self {
        Self::Malformed("it is no CBOR of the form that WebAuthn gives it, or it is cut off")
    }
}

impl<'a> AttestationObject<'a> {
    pub(super) fn parse(octets: &'a [u8]) -> Result<Self, AttestationError> {
        let mut decoder = Decoder::new(octets);
        let (mut format, mut statement) = (None, None);
        members(&mut decoder, |name, decoder| {
            match name {
                "fmt" => once(&mut format, decoder.str()?)?,
                "attStmt" => once(&mut statement, Statement::parse(decoder)?)?,
                _ => skip(decoder, MAX_DEPTH)?,
            }
            Ok(())
        })?;
        if decoder.position() != octets.len() {
            return Err(AttestationError::Malformed("something follows its end"));
        }
        let format = format.ok_or(AttestationError::Malformed("it has no 'fmt'"))?;
        let statement = statement.ok_or(AttestationError::Malformed("it has no 'attStmt'"))?;
        Ok(Self { format, statement })
    }
}

impl<'a> Statement<'a> {
    fn parse(decoder: &mut Decoder<'a>) -> Result<Self, AttestationError> {
        let mut statement = Self::default();
        let mut x5c = None;
        members(decoder, |name, decoder| {
            match name {
                "alg" => once(&mut statement.alg, decoder.i64()?)?,
                "sig" => once(&mut statement.sig, decoder.bytes()?)?,
                "ver" => once(&mut statement.ver, decoder.str()?)?,
                "certInfo" => once(&mut statement.cert_info, decoder.bytes()?)?,
                "pubArea" => once(&mut statement.pub_area, decoder.bytes()?)?,
                "x5c" => {
                    let count = definite(decoder.array()?)?;
                    if count > MAX_CERTIFICATES {
                        return Err(AttestationError::Malformed("'x5c' has more than 8 certificates"));
                    }
                    let certificates = (0..count).map(|_| decoder.bytes()).collect::<Result<Vec<_>, _>>()?;
                    once(&mut x5c, certificates)?;
                }
                _ => skip(decoder, MAX_DEPTH)?,
            }
            Ok(())
        })?;
        statement.x5c = x5c.unwrap_or_default();
        Ok(statement)
    }
}

/// A signature that is wrapped in CBOR once more, as format `step` has it.
pub(super) fn wrapped(octets: &[u8]) -> Result<&[u8], AttestationError> {
    let mut decoder = Decoder::new(octets);
    let inner =
        decoder.bytes().map_err(|_| AttestationError::Malformed("'sig' is no byte string in CBOR"))?;
    if decoder.position() == octets.len() {
        Ok(inner)
    } else {
        Err(AttestationError::Malformed("'sig' is no byte string in CBOR"))
    }
}

/// Reads a map, whose keys are texts.
fn members<'a>(
    decoder: &mut Decoder<'a>,
    mut member: impl FnMut(&'a str, &mut Decoder<'a>) -> Result<(), AttestationError>,
) -> Result<(), AttestationError> {
    let count = definite(decoder.map()?)?;
    if count > MAX_MEMBERS {
        return Err(AttestationError::Malformed("a map has more than 32 members"));
    }
    for _ in 0..count {
        let name = decoder.str()?;
        member(name, decoder)?;
    }
    Ok(())
}

fn definite(length: Option<u64>) -> Result<u64, AttestationError> {
    length.ok_or(AttestationError::Malformed("a length is indefinite"))
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), AttestationError> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(AttestationError::Malformed("a member stands there twice")),
    }
}

/// Passes over one item. Every step takes at least one octet, so that the input bounds the work.
fn skip(decoder: &mut Decoder<'_>, depth: u8) -> Result<(), AttestationError> {
    let depth = depth.checked_sub(1).ok_or(AttestationError::Malformed("it is nested too deep"))?;
    match decoder.datatype()? {
        Type::Bytes => drop(decoder.bytes()?),
        Type::String => drop(decoder.str()?),
        Type::Array => {
            for _ in 0..definite(decoder.array()?)? {
                skip(decoder, depth)?;
            }
        }
        Type::Map => {
            for _ in 0..definite(decoder.map()?)? {
                skip(decoder, depth)?;
                skip(decoder, depth)?;
            }
        }
        Type::Tag => {
            decoder.tag()?;
            skip(decoder, depth)?;
        }
        Type::BytesIndef | Type::StringIndef | Type::ArrayIndef | Type::MapIndef | Type::Break => {
            return Err(AttestationError::Malformed("a length is indefinite"));
        }
        // Numbers and simple values have nothing inside.
        _ => decoder.skip()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(octets: &[u8]) -> AttestationError {
        AttestationObject::parse(octets).unwrap_err()
    }

    /// `{"fmt": "tpm", "attStmt": {"alg": -7, "x5c": [h'01']}}`
    const GOOD: &[u8] = b"\xa2\x63fmt\x63tpm\x67attStmt\xa2\x63alg\x26\x63x5c\x81\x41\x01";

    #[test]
    fn an_object_is_read_and_members_that_nobody_knows_are_skipped() {
        let object = AttestationObject::parse(GOOD).unwrap();
        assert_eq!((object.format, object.statement.alg), ("tpm", Some(-7)));
        assert_eq!(object.statement.x5c, [&[1][..]]);
        // "authData", and a member with an array, a map, a tag, a float and null in it.
        let more = b"\xa4\x68authData\x42\x00\x01\x61x\x84\x81\xa1\x01\xf6\xc1\x00\xfb\0\0\0\0\0\0\0\0\x20";
        let more = [&more[..], &GOOD[1..]].concat();
        assert_eq!(AttestationObject::parse(&more).unwrap(), object);
    }

    #[test]
    fn every_truncation_and_every_addition_is_refused() {
        for end in 0..GOOD.len() {
            assert!(matches!(refused(&GOOD[..end]), AttestationError::Malformed(_)), "{end}");
        }
        assert_eq!(refused(&[GOOD, &[0]].concat()), AttestationError::Malformed("something follows its end"));
    }

    #[test]
    fn indefinite_lengths_duplicates_and_depth_without_end_are_refused() {
        let bad: [(&[u8], &str); 5] = [
            (b"\xbf\x63fmt\x63tpm\xff", "a length is indefinite"),
            (b"\xa2\x63fmt\x63tpm\x63fmt\x63tpm", "a member stands there twice"),
            (b"\xa1\x61x\x9f\xff", "a length is indefinite"),
            (b"\xa0", "it has no 'fmt'"),
            (b"\xb8\x40", "a map has more than 32 members"),
        ];
        for (octets, why) in bad {
            assert_eq!(refused(octets), AttestationError::Malformed(why));
        }
        let deep = [&b"\xa1\x61x"[..], &[0x81; 30_000], &[0]].concat();
        assert_eq!(refused(&deep), AttestationError::Malformed("it is nested too deep"));
        // Lengths that the input can't have.
        refused(b"\xa1\x61x\x9b\xff\xff\xff\xff\xff\xff\xff\xff");
        refused(b"\xa1\x61x\x5b\xff\xff\xff\xff\xff\xff\xff\xff");
        refused(b"\xbb\xff\xff\xff\xff\xff\xff\xff\xff");
    }
}
