//! CBOR and DER, as much as attestations need.

/// An item of CBOR, RFC 8949.
#[derive(Clone, Debug)]
pub enum Cbor {
    Integer(i64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Cbor>),
    Map(Vec<(&'static str, Cbor)>),
}

impl Cbor {
    pub fn bytes(octets: &[u8]) -> Self {
        Self::Bytes(octets.to_vec())
    }

    /// The path of a certificate, as `x5c` has it.
    pub fn path(certificates: &[Vec<u8>]) -> Self {
        Self::Array(certificates.iter().map(|der| Self::bytes(der)).collect())
    }

    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Integer(value) if *value < 0 => head(1, (-1 - value).try_into().unwrap()),
            Self::Integer(value) => head(0, (*value).try_into().unwrap()),
            Self::Bytes(octets) => [head(2, octets.len()), octets.clone()].concat(),
            Self::Text(text) => [head(3, text.len()), text.as_bytes().to_vec()].concat(),
            Self::Array(items) => {
                items.iter().fold(head(4, items.len()), |out, item| [out, item.encode()].concat())
            }
            Self::Map(members) => members.iter().fold(head(5, members.len()), |out, (name, item)| {
                [out, Self::Text((*name).to_owned()).encode(), item.encode()].concat()
            }),
        }
    }
}

fn head(major: u8, value: usize) -> Vec<u8> {
    let major = major << 5;
    match value {
        0..24 => vec![major | u8::try_from(value).unwrap()],
        24..256 => vec![major | 24, u8::try_from(value).unwrap()],
        _ => [&[major | 25][..], &u16::try_from(value).unwrap().to_be_bytes()].concat(),
    }
}

/// One element of DER with an identifier of any length.
pub fn tlv(identifier: &[u8], content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let length = match length {
        0..128 => vec![u8::try_from(length).unwrap()],
        128..256 => vec![0x81, u8::try_from(length).unwrap()],
        _ => [&[0x82][..], &u16::try_from(length).unwrap().to_be_bytes()].concat(),
    };
    [identifier, &length, content].concat()
}

pub fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(&[0x30], &parts.concat())
}

pub fn octet_string(octets: &[u8]) -> Vec<u8> {
    tlv(&[4], octets)
}

/// An INTEGER below 2^15.
pub fn integer(value: u16) -> Vec<u8> {
    let octets = value.to_be_bytes();
    tlv(&[2], if value < 128 { &octets[1..] } else { &octets })
}

pub fn enumerated(value: u8) -> Vec<u8> {
    tlv(&[10], &[value])
}

pub fn utf8_string(text: &str) -> Vec<u8> {
    tlv(&[12], text.as_bytes())
}

/// An OBJECT IDENTIFIER.
pub fn object_identifier(oid: &[u64]) -> Vec<u8> {
    let mut content = vec![u8::try_from(oid[0] * 40 + oid[1]).unwrap()];
    for arc in &oid[2..] {
        let groups = (0..10).rev().map(|group| u8::try_from((arc >> (7 * group)) & 0x7f).unwrap());
        let groups: Vec<u8> = groups.skip_while(|group| *group == 0).collect();
        let groups = if groups.is_empty() { vec![0] } else { groups };
        let last = groups.len() - 1;
        content
            .extend(groups.iter().enumerate().map(|(i, group)| if i < last { group | 0x80 } else { *group }));
    }
    tlv(&[6], &content)
}

/// An explicit context-specific tag, of any number below 2^14.
pub fn explicit(number: u16, inner: &[u8]) -> Vec<u8> {
    let octet = |bits: u16| u8::try_from(bits).unwrap();
    let identifier = match number {
        0..31 => vec![0xa0 | octet(number)],
        31..128 => vec![0xbf, octet(number)],
        _ => vec![0xbf, 0x80 | octet(number >> 7), octet(number & 0x7f)],
    };
    tlv(&identifier, inner)
}

/// An otherName of subjectAltName (RFC 5280 §4.2.1.6).
pub fn other_name(oid: &[u64], value: &[u8]) -> Vec<u8> {
    tlv(&[0xa0], &[object_identifier(oid), explicit(0, value)].concat())
}

/// PermanentIdentifier (RFC 4043) as otherName.
pub fn permanent_identifier(value: &str) -> Vec<u8> {
    other_name(&[1, 3, 6, 1, 5, 5, 7, 8, 3], &sequence(&[utf8_string(value)]))
}

/// HardwareModuleName (RFC 4108) as otherName.
pub fn hardware_module_name(hardware_type: &[u64], serial: &str) -> Vec<u8> {
    let value = sequence(&[object_identifier(hardware_type), octet_string(serial.as_bytes())]);
    other_name(&[1, 3, 6, 1, 5, 5, 7, 8, 4], &value)
}
