//! Challenges of Internet-Drafts, filed by draft and section.

mod dns_account_label;
mod dns_persist;
