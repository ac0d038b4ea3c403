//! The directory, [RFC 8555 §7.1.1](https://www.rfc-editor.org/rfc/rfc8555#section-7.1.1).

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::json;
use crate::service::App;
use crate::verified::InDirectory;
use crate::wire::directory::{AutoRenewalMeta, DirectoryBody, Meta};

pub(crate) async fn show(State(app): State<App>, InDirectory(directory): InDirectory) -> Response {
    let (links, settings) = (&directory.links, &directory.settings);
    let profiles = &settings.policy.profiles;
    let body = DirectoryBody {
        new_nonce: links.new_nonce(),
        new_account: links.new_account(),
        new_order: links.new_order(),
        new_authz: settings.policy.reuse.is_some().then(|| links.new_authorization()),
        revoke_cert: links.revoke_certificate(),
        key_change: links.key_change(),
        renewal_info: links.renewal_info(),
        meta: Meta {
            terms_of_service: settings.terms_of_service.clone(),
            website: settings.website.clone(),
            caa_identities: settings.caa.iter().flatten().map(ToString::to_string).collect(),
            account_hash_prefix: (!settings.issuer_domain_names.is_empty())
                .then(|| links.account_hash_prefix()),
            auto_renewal: settings.policy.star.as_ref().map(AutoRenewalMeta::from),
            subdomain_auth_allowed: settings.policy.subdomains,
            issuer_domain_names: settings.issuer_domain_names.iter().map(ToString::to_string).collect(),
            external_account_required: settings.external_account_required,
            profiles: profiles
                .iter()
                .map(|name| {
                    let description = app.profile(name).map(|profile| profile.description.clone());
                    (name.to_string(), description.unwrap_or_else(|| name.to_string()))
                })
                .collect(),
        },
    };
    json(StatusCode::OK, &body)
}
