//! newNonce, [RFC 8555 §7.2](https://www.rfc-editor.org/rfc/rfc8555#section-7.2). The layer around every request puts
//! the nonce into the response.

use http::StatusCode;

use crate::verified::InDirectory;

pub(crate) async fn head(_: InDirectory) -> StatusCode {
    StatusCode::OK
}

pub(crate) async fn get(_: InDirectory) -> StatusCode {
    StatusCode::NO_CONTENT
}
