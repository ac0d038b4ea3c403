//! The directory, [RFC 8555 §7.1.1](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.1).

use axum::response::Response;
use http::StatusCode;

use super::json;
use crate::verified::InDirectory;
use crate::wire::directory::{DirectoryBody, Meta};

/// externalAccountRequired is left out, since it is never true, and newAuthz, since it is not offered.
pub(crate) async fn show(InDirectory(directory): InDirectory) -> Response {
    let (links, settings) = (&directory.links, &directory.settings);
    let profiles = &settings.policy.profiles;
    let body = DirectoryBody {
        new_nonce: links.new_nonce(),
        new_account: links.new_account(),
        new_order: links.new_order(),
        revoke_cert: links.revoke_certificate(),
        key_change: links.key_change(),
        meta: Meta {
            terms_of_service: settings.terms_of_service.clone(),
            website: settings.website.clone(),
            profiles: profiles
                .iter()
                .map(|name| (name.to_string(), format!("the certificate profile '{name}'")))
                .collect(),
        },
    };
    json(StatusCode::OK, &body)
}
