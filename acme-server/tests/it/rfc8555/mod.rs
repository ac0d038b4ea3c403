//! RFC 8555, filed by section.

mod section_6_2_authentication;
mod section_6_5_replay_protection;
mod section_6_6_rate_limits;
mod section_6_7_errors;
mod section_7_1_6_after_a_restart;
mod section_7_1_resources;
mod section_7_3_4_external_account_binding;
mod section_7_3_4_grants;
mod section_7_3_4_trust;
mod section_7_3_5_key_change;
mod section_7_3_accounts;
mod section_7_4_1_pre_authorization;
mod section_7_4_2_download;
mod section_7_4_finalize;
mod section_7_4_orders;
mod section_7_5_authorizations;
mod section_7_6_revocation;

pub use section_7_3_5_key_change::change;
