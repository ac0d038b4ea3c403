//! What went wrong on a token: the PKCS#11 function and return code by their standard names, and what to try.

use std::fmt;

use ca_core::signing::{KeyError, KeyLabel, SigningError};
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};

/// Why an operation on a token failed, sorted by what follows from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The token or our sessions are gone: everything is built anew before the next try.
    Lost(String),
    /// The token is fine, and yet this request can't be served now.
    Busy(String),
    /// No answer in time.
    Timeout(String),
    /// The token refused the PIN; it is not tried again.
    WrongPin(String),
    /// There is no key of that label.
    NotFound,
    /// A key that was opened is not there, or not whole: it was removed, or a token that is away still answers.
    Doubtful(String),
    /// The label is taken.
    Exists,
    /// The key is not fit to be a CA key.
    Unsuitable(String),
    /// The token refuses and will refuse again, or the configuration is wrong.
    Refused(String),
}

impl Failure {
    /// Sorts an error of a module call.
    pub(super) fn new(token: &str, error: &Error) -> Self {
        let Error::Pkcs11(code, function) = error else {
            return Self::Refused(format!("on token '{token}': {error}"));
        };
        let what = call(*function, *code);
        let (follows, hint): (fn(String) -> Self, _) = verdict(*code);
        follows(format!("{what} on token '{token}'{}{hint}", if hint.is_empty() { "" } else { ": " }))
    }

    /// Whether trying again later may end better.
    pub(super) fn may_pass(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Busy(_) | Self::Timeout(_) | Self::Doubtful(_))
    }

    /// As the caller of `generate`, `open` or `list` sees it.
    pub(super) fn into_key_error(self, label: Option<&KeyLabel>, place: &str) -> KeyError {
        let place = place.to_owned();
        let label = label.map(ToString::to_string).unwrap_or_default();
        match self {
            Self::Lost(text) | Self::Busy(text) | Self::Timeout(text) | Self::Doubtful(text) => {
                KeyError::Unavailable(text)
            }
            Self::WrongPin(text) => KeyError::WrongPin(text),
            Self::NotFound => KeyError::NotFound { label, place },
            Self::Exists => KeyError::Exists { label, place },
            Self::Unsuitable(reason) => KeyError::Unsuitable { label, reason },
            Self::Refused(text) => KeyError::Failed(text),
        }
    }

    /// As the caller of `sign` sees it.
    pub(super) fn into_signing_error(self, label: &KeyLabel) -> SigningError {
        let label = label.to_string();
        match self {
            // A PIN that changed under way is the operator's to mend: what waits for a signature is not given up.
            Self::Lost(detail)
            | Self::Busy(detail)
            | Self::Timeout(detail)
            | Self::Doubtful(detail)
            | Self::WrongPin(detail) => SigningError::Unavailable { label, detail },
            failure @ (Self::NotFound | Self::Exists) => {
                SigningError::Refused { label, detail: failure.to_string() }
            }
            Self::Unsuitable(detail) | Self::Refused(detail) => SigningError::Refused { label, detail },
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("there is no such key"),
            Self::Exists => f.write_str("the label is taken"),
            Self::Lost(text)
            | Self::Busy(text)
            | Self::Timeout(text)
            | Self::Doubtful(text)
            | Self::WrongPin(text)
            | Self::Unsuitable(text)
            | Self::Refused(text) => f.write_str(text),
        }
    }
}

/// `C_Sign returned CKR_DEVICE_REMOVED`.
pub(super) fn call(function: Function, code: RvError) -> String {
    format!("C_{function:?} returned {}", code_name(code))
}

/// The return code as the standard spells it.
fn code_name(code: RvError) -> String {
    match code {
        RvError::VendorDefined(n) => format!("CKR_VENDOR_DEFINED (0x{n:08x})"),
        RvError::UnknownErrorCode(n) => format!("the unknown code 0x{n:08x}"),
        code => {
            // The variants are the standard's names in camel case.
            let mut name = String::from("CKR");
            for c in format!("{code:?}").chars() {
                if c.is_ascii_uppercase() {
                    name.push('_');
                }
                name.push(c.to_ascii_uppercase());
            }
            name
        }
    }
}

/// What follows from the code, above all whether sessions, handles or the token itself are gone, and what an operator
/// can do.
fn verdict(code: RvError) -> (fn(String) -> Failure, &'static str) {
    let (lost, busy, refused) = (Failure::Lost, Failure::Busy, Failure::Refused);
    match code {
        RvError::TokenNotPresent
        | RvError::TokenNotRecognized
        | RvError::DeviceRemoved
        | RvError::SlotIdInvalid => {
            (lost, "check that the token is attached and its service runs; it is looked for again by itself")
        }
        RvError::DeviceError | RvError::DeviceMemory | RvError::VendorDefined(_) => {
            (lost, "look into the log of the HSM and its client; it is connected again by itself")
        }
        RvError::GeneralError
        | RvError::FunctionFailed
        | RvError::FunctionCanceled
        | RvError::HostMemory
        | RvError::CryptokiNotInitialized
        | RvError::SessionHandleInvalid
        | RvError::SessionClosed
        | RvError::UserNotLoggedIn
        | RvError::ObjectHandleInvalid
        | RvError::KeyHandleInvalid
        | RvError::OperationActive
        | RvError::OperationNotInitialized => (
            lost,
            "the module is loaded anew by itself; if that repeats, look into the log of the HSM's client",
        ),
        RvError::SessionCount => (busy, "the token has no more sessions: lower keys.sessions"),
        RvError::MechanismInvalid | RvError::MechanismParamInvalid | RvError::CurveNotSupported => {
            (refused, "the token does not know this algorithm: choose another for this key")
        }
        RvError::KeyFunctionNotPermitted => (refused, "the key needs CKA_SIGN=true"),
        RvError::TokenWriteProtected | RvError::SessionReadOnly => {
            (refused, "the token is write-protected: allow writing to make keys")
        }
        RvError::TemplateInconsistent
        | RvError::AttributeValueInvalid
        | RvError::AttributeTypeInvalid
        | RvError::TemplateIncomplete => {
            (refused, "the token does not make such keys: make it with the vendor's tool, not extractable")
        }
        _ => (refused, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_the_names_of_the_standard() {
        assert_eq!(code_name(RvError::SlotIdInvalid), "CKR_SLOT_ID_INVALID");
        assert_eq!(code_name(RvError::CryptokiNotInitialized), "CKR_CRYPTOKI_NOT_INITIALIZED");
        assert_eq!(code_name(RvError::VendorDefined(0x8000_0001)), "CKR_VENDOR_DEFINED (0x80000001)");
        assert_eq!(call(Function::InitPIN, RvError::PinInvalid), "C_InitPIN returned CKR_PIN_INVALID");
    }

    #[test]
    fn a_lost_token_is_told_from_one_that_refuses() {
        let failure = |code| Failure::new("chancery", &Error::Pkcs11(code, Function::Sign));
        assert!(matches!(failure(RvError::DeviceRemoved), Failure::Lost(_)));
        assert!(matches!(failure(RvError::KeyHandleInvalid), Failure::Lost(_)));
        assert!(matches!(failure(RvError::MechanismInvalid), Failure::Refused(_)));
        assert!(matches!(failure(RvError::KeyFunctionNotPermitted), Failure::Refused(_)));
    }
}
