//! Certificate serial numbers: positive, at most 20 octets, RFC 5280 §4.1.2.2.

use std::fmt;
use std::str::FromStr;

use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A serial number as a positive big-endian integer without leading zero octets, 1 to 20 octets long.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SerialNumber {
    // Left-padded with zeros, so that the derived order is the numeric one.
    octets: [u8; 20],
}

/// The octets are no serial number.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("not a serial number: a positive integer of at most 20 octets is expected")]
pub struct InvalidSerialNumber;

impl SerialNumber {
    /// A new serial with 159 random bits: the first bit is zero, so the INTEGER is positive and 20 octets hold it.
    pub fn generate(rng: &mut (impl CryptoRng + ?Sized)) -> Self {
        let mut octets = [0; 20];
        rng.fill_bytes(&mut octets);
        octets[0] &= 0x7f;
        // All-zero has a chance of 2^-159; one would be as unguessable as any.
        octets[19] |= u8::from(octets == [0; 20]);
        Self { octets }
    }

    /// From the content octets of a DER INTEGER (a leading zero octet is allowed) or of its unsigned magnitude.
    ///
    /// # Errors
    /// If it is zero or longer than 20 octets.
    pub fn from_be_bytes(bytes: &[u8]) -> Result<Self, InvalidSerialNumber> {
        let first = bytes.iter().position(|b| *b != 0).ok_or(InvalidSerialNumber)?;
        let significant = &bytes[first..];
        let start = 20usize.checked_sub(significant.len()).ok_or(InvalidSerialNumber)?;
        let mut octets = [0; 20];
        octets[start..].copy_from_slice(significant);
        Ok(Self { octets })
    }

    /// The magnitude without leading zeros, 1 to 20 octets.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        let first = self.octets.iter().position(|b| *b != 0).unwrap_or(19);
        &self.octets[first..]
    }

    /// For a certificate's or CRL entry's `serialNumber`; `None` if the value needs more than 20 octets as an INTEGER,
    /// which no serial of our own does.
    #[must_use]
    pub fn to_x509(&self) -> Option<x509_cert::serial_number::SerialNumber> {
        x509_cert::serial_number::SerialNumber::new(self.as_bytes()).ok()
    }

    /// From a certificate's `serialNumber`.
    ///
    /// # Errors
    /// If it is negative, zero, or too long.
    pub fn from_x509(serial: &x509_cert::serial_number::SerialNumber) -> Result<Self, InvalidSerialNumber> {
        let bytes = serial.as_bytes();
        if bytes.first().is_some_and(|b| b & 0x80 != 0) {
            return Err(InvalidSerialNumber);
        }
        Self::from_be_bytes(bytes)
    }
}

impl fmt::Display for SerialNumber {
    /// Lower-case hexadecimal, two digits an octet.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for SerialNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SerialNumber({self})")
    }
}

impl FromStr for SerialNumber {
    type Err = InvalidSerialNumber;

    /// Hexadecimal in either case, colons between octets allowed, as `openssl x509 -serial` and browsers show it.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits: String = text.chars().filter(|c| *c != ':').collect();
        let even = if digits.len().is_multiple_of(2) { digits } else { format!("0{digits}") };
        Self::from_be_bytes(&crate::id::from_hex(&even).ok_or(InvalidSerialNumber)?)
    }
}

impl TryFrom<String> for SerialNumber {
    type Error = InvalidSerialNumber;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SerialNumber> for String {
    fn from(serial: SerialNumber) -> Self {
        serial.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_positive_and_at_most_20_octets() {
        assert_eq!(SerialNumber::from_be_bytes(&[]), Err(InvalidSerialNumber));
        assert_eq!(SerialNumber::from_be_bytes(&[0, 0]), Err(InvalidSerialNumber));
        assert_eq!(SerialNumber::from_be_bytes(&[1; 21]), Err(InvalidSerialNumber));
        assert_eq!(SerialNumber::from_be_bytes(&[0, 1]).unwrap().to_string(), "01");
        let largest = SerialNumber::from_be_bytes(&[0x7f; 20]).unwrap();
        assert_eq!(largest.to_x509().unwrap().as_bytes(), largest.as_bytes());
    }

    #[test]
    fn serials_are_read_as_tools_print_them() {
        let serial: SerialNumber = "0A:ff:01".parse().unwrap();
        assert_eq!(serial.as_bytes(), [0x0a, 0xff, 0x01]);
        assert_eq!("aff01".parse(), Ok(serial));
    }
}
