//! The commented `chancery.toml` that `up` and `init` write; the program never changes it afterwards.

use std::fmt::Write;
use std::path::PathBuf;

use hsm::BackendKind;

use super::Config;

/// What the file is written for.
#[derive(Clone, Debug)]
pub struct Template {
    /// For whom: decides what is admitted and where the listeners are.
    pub purpose: Purpose,
    /// `acme.public_url`.
    pub acme_url: String,
    /// `pki.public_url`.
    pub pki_url: String,
    /// `acme.http01_port`.
    pub http01_port: u16,
    /// `acme.tls_alpn01_port`.
    pub tls_alpn01_port: u16,
    /// Where the keys are.
    pub keys: Keys,
}

/// A first look, or service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `up`: loopback only, any name.
    FirstLook,
    /// `init`: all addresses, external accounts only, no name until the operator lists some.
    Service,
}

/// Where the CA's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keys {
    /// Files under a passphrase.
    Software,
    /// A PKCS#11 token.
    Pkcs11 {
        /// The module's library.
        module: PathBuf,
        /// The token's label.
        token: String,
        /// The file with the user PIN.
        pin_file: PathBuf,
    },
}

impl Template {
    /// What a text was rendered from; `None` if it is not as [`Template::render`] makes it: somebody edited it.
    #[must_use]
    pub fn read(text: &str) -> Option<Self> {
        let config = Config::parse("chancery.toml", text, []).ok()?;
        let keys = match config.keys.backend {
            BackendKind::Software => Keys::Software,
            BackendKind::Pkcs11 => Keys::Pkcs11 {
                module: config.keys.module?,
                token: config.keys.token?,
                pin_file: config.keys.pin_file?,
            },
        };
        let template = |purpose| Self {
            purpose,
            acme_url: config.acme.public_url.clone(),
            pki_url: config.pki.public_url.clone(),
            http01_port: config.acme.http01_port,
            tls_alpn01_port: config.acme.tls_alpn01_port,
            keys: keys.clone(),
        };
        [Purpose::FirstLook, Purpose::Service].map(template).into_iter().find(|made| made.render() == text)
    }

    /// The file's text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        for section in [
            Self::head,
            Self::listen,
            Self::acme,
            Self::validation,
            Self::limits,
            Self::renewal,
            Self::pki,
            Self::keys,
            Self::rest,
        ] {
            text.push_str(&section(self));
        }
        text
    }

    fn head(&self) -> String {
        "\
# Chancery's configuration. The program reads this file at start and never changes it.
# Every key can be overridden by an environment variable CHANCERY__SECTION__KEY, for example
# CHANCERY__ACME__HTTP01_PORT=5002. Keys that are commented out show their defaults.
"
        .to_owned()
    }

    fn listen(&self) -> String {
        let host = match self.purpose {
            Purpose::FirstLook => "127.0.0.1",
            Purpose::Service => "[::]",
        };
        format!(
            "
[listen]
# ACME, HTTPS with a certificate of this CA. With acme_tls = false it is plain HTTP, for a proxy in front.
acme = \"{host}:8443\"
#acme_tls = true
# OCSP, CRLs and CA certificates, plain HTTP as these protocols expect it.
pki = \"{host}:8080\"
# Set these two, to different addresses, where roles ocsp and crl run as processes of their own.
#ocsp = \"{host}:8080\"
#crl = \"{host}:8081\"
# /metrics, /healthz and /readyz. Nothing here is for strangers.
metrics = \"127.0.0.1:9464\"
#max_connections = 4096
#header_timeout_seconds = 10
#request_timeout_seconds = 60
#stall_timeout_seconds = 30
"
        )
    }

    fn acme(&self) -> String {
        let names = match self.purpose {
            Purpose::FirstLook => {
                "\
# The names that can be ordered. \"*\" alone admits any: for a first look only.
allowed_names = [\"*\"]
wildcards = true
"
            }
            Purpose::Service => {
                "\
# The names that can be ordered; nothing is issued until some are listed. \"host.example.org\" is one name,
# \".example.org\" a domain and all below it, \"10.0.0.0/8\" addresses.
allowed_names = []
wildcards = false
"
            }
        };
        let port_note = if self.http01_port == 80 {
            ""
        } else {
            "# Port 80 is not free for this user's ACME clients, so challenges are answered on these two.\n"
        };
        format!(
            "
[acme]
# The base of every ACME URL, as clients reach it. Clients keep it: changing it later breaks them.
public_url = {url}
{names}\
# Whether new ACME accounts must be bound to an external account, which `chancery eab create` makes. What one grants
# is never more than what is admitted here.
external_account_required = {eab}
# The profiles offered; the first is used when a client asks for none.
#profiles = [\"tls-server\", \"tls-client\"]
# dns-account-01 and dns-persist-01 (drafts) too, where clients know them; the latter needs caa_identities.
#challenges = [\"http-01\", \"dns-01\", \"tls-alpn-01\"]
# Whether CAA records of dns names are looked at (RFC 8659): \"off\" or \"check\"; and the names by which records can give
# this CA.
#caa = \"off\"
#caa_identities = [\"ca.example.org\"]
# How long after its validation an authorization serves further orders; 0: every order proves its names. Where it is
# not 0, names can be proven ahead of any order.
#authorization_reuse_seconds = 0
# Whether an authorization for a domain can be had that serves every name below it (RFC 9444).
#subdomains = false
# Whether orders can ask for short-term certificates that are renewed without the client (RFC 8739), and within what.
#star.enabled = false
#star.min_lifetime_seconds = 86400
#star.max_lifetime_seconds = 604800
#star.max_duration_seconds = 31536000
#star.allow_certificate_get = false
# Whether an order may choose notBefore and notAfter, within the lifetime of its profile.
#client_validity = false
# The issuing CA that signs; by default the newest active one (`chancery issuer list`).
#issuer = \"issuing-1\"
{port_note}\
# Where http-01 and tls-alpn-01 challenges are fetched from.
http01_port = {http01}
tls_alpn01_port = {alpn}
# The resolvers used for validation; empty: those of the system.
#dns_servers = [\"192.0.2.53\"]
# Behind a proxy: the networks of those that are believed when they say for whom they ask, and in which header they
# do, x-forwarded-for or forwarded. A proxy must set or extend that header itself.
#trusted_proxies = []
#forwarded_header = \"x-forwarded-for\"
# Devices are believed, by device-attest-01, in the formats apple, android-key, tpm and step: each only by way of the CA
# certificates in a file of its own. The challenge must be named in challenges, and devices in allowed_names, as
# \"permanent-identifier:PREFIX*\" or \"hardware-module:*/1.2.3.4\".
#[acme.attestation.tpm]
#roots = \"tpm-roots.pem\"
# Several directories can be named: each takes what is set in [acme] unless it has its own.
#[acme.directories.default]
",
            url = quoted(&self.acme_url),
            eab = self.purpose == Purpose::Service,
            http01 = self.http01_port,
            alpn = self.tls_alpn01_port,
        )
    }

    fn limits(&self) -> String {
        let limits = match self.purpose {
            Purpose::FirstLook => {
                "
[acme.limits]
# Rate limits and bounds on what clients pile up. All are off here; `chancery init` writes those that suit service.
"
            }
            Purpose::Service => {
                "
[acme.limits]
# How much clients may ask for: COUNT/PERIOD, with all of them at once at most unless 'burst COUNT' follows, or \"off\".
# A directory can have its own, under [acme.directories.NAME.limits], and so can an account: `chancery account limit`.
# Renewals that ARI asked for are not counted.
new_accounts_per_address = \"50/3h\"
new_orders_per_account = \"3000/3h\"
new_orders_per_directory = \"off\"
# Orders that contain a name, whoever places them; and certificates for exactly the same names.
new_orders_per_name = \"100/1d\"
certificates_per_name_set = \"50/7d\"
failed_validations_per_name = \"20/1h\"
# A name that fails so often in a row for an account, with no success between, is closed to it until
# `chancery account unpause`. 0: never.
pause_after_failures = 100
# Accounts without an external account that never ordered anything, and authorizations that wait for a client, by
# account. 0: any number.
max_unused_accounts = 10000
max_pending_authorizations = 2000
# How many bits of a client's address name it.
ipv4_prefix = 32
ipv6_prefix = 64
# A page that says whom to ask for more.
#help_url = \"https://ca.example.org/limits\"
"
            }
        };
        format!(
            "{limits}
[acme.pruning]
# Rows that nobody can use any more are deleted: orders that never got a certificate, authorizations that are over,
# accounts that never ordered anything. Certificates and the audit log never are.
#enabled = true
#every_seconds = 3600
#orders_after_days = 90
#authorizations_after_days = 90
#unused_accounts_after_days = 365
#failures_after_days = 30
"
        )
    }

    fn validation(&self) -> String {
        let head = "
[acme.validation]
# Where validation may connect to. Deny beats allow; an address in neither list must be a global one.
";
        let lists = match self.purpose {
            Purpose::FirstLook => {
                "\
allow_networks = [\"127.0.0.0/8\", \"::1\", \"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\", \"fc00::/7\"]
deny_networks = []
"
            }
            Purpose::Service => {
                "\
allow_networks = [\"10.0.0.0/8\", \"172.16.0.0/12\", \"192.168.0.0/16\", \"fc00::/7\"]
# This machine, link-local addresses, and where clouds keep their metadata.
deny_networks = [
    \"127.0.0.0/8\", \"::1\", \"0.0.0.0/8\", \"::\",
    \"169.254.0.0/16\", \"fe80::/10\",
    \"169.254.169.254\", \"fd00:ec2::254\", \"168.63.129.16\", \"100.100.100.200\",
]
"
            }
        };
        format!("{head}{lists}")
    }

    fn renewal(&self) -> String {
        "
[acme.renewal]
# When clients that ask (RFC 9773) are told to renew: somewhere in this part of a certificate's life, spread evenly over
# all certificates. `chancery renewal pull` asks for it sooner.
#from_percent = 66
#to_percent = 80
# Times of the week, in UTC, at which nobody should renew, where that leaves any.
#busy_hours = [\"Mon-Fri 08:00-18:00\"]
# How long clients wait before they ask again.
#retry_after_seconds = 21600
# A page about it, which clients show to their operators.
#explanation_url = \"https://ca.example.org/renewal\"
"
        .to_owned()
    }

    fn pki(&self) -> String {
        format!(
            "
[pki]
# The base of the URLs in certificates (OCSP, CRLs, CA certificates), as relying parties reach it. Certificates carry
# it for as long as they live.
public_url = {url}
# Where these two are served elsewhere:
#ocsp_url = {url}
#crl_url = {url}
",
            url = quoted(&self.pki_url)
        )
    }

    fn keys(&self) -> String {
        let mut text = "\n[keys]\n".to_owned();
        match &self.keys {
            Keys::Software => text.push_str(
                "\
# The CA's keys are files in keys/, encrypted under the passphrase in this file (or systemd credential).
backend = \"software\"
passphrase_file = \"passphrase\"
# In a PKCS#11 token instead:
#backend = \"pkcs11\"
#module = \"/usr/lib/softhsm/libsofthsm2.so\"
#token = \"chancery\"
#pin_file = \"/etc/chancery/pin\"
#sessions = 4
",
            ),
            Keys::Pkcs11 { module, token, pin_file } => {
                // Writing to a String can't fail.
                let _ = write!(
                    text,
                    "\
# The CA's keys are in a PKCS#11 token. The PIN is read from this file (or systemd credential).
backend = \"pkcs11\"
module = {}
token = {}
pin_file = {}
#sessions = 4
",
                    quoted(&module.to_string_lossy()),
                    quoted(token),
                    quoted(&pin_file.to_string_lossy())
                );
            }
        }
        text
    }

    fn rest(&self) -> String {
        "
# What certificates contain. usage is tls-server or tls-client.
[profiles.tls-server]
usage = \"tls-server\"
validity_days = 90
backdate_minutes = 5
# What ACME clients are told of the profile.
#description = \"certificates for TLS servers, valid for 90 days\"

[profiles.tls-client]
usage = \"tls-client\"
validity_days = 90
backdate_minutes = 5

[store]
# The users of roles that run as processes of their own, by name or number.
#role_users = { acme = \"chancery-acme\", ocsp = \"chancery-ocsp\", crl = \"chancery-crl\" }
# With less free space than this nothing is issued; revocation goes on.
#min_free_bytes = 67108864

[ca]
# How many issuances, revocations, CRLs and own certificates are worked on at a time, of each.
#effects_at_once = 64

# A service of your own that is asked before each certificate is issued, and may refuse it, shorten its life or label it
# (docs/POLICY-WEBHOOK.md):
# [policy.webhook]
# url = \"https://policy.example.org/judge\"
# The secret that both sides sign with, 32 characters or more, and the roots that vouch for the service's certificate.
# secret_file = \"policy-secret\"
# roots_file = \"policy-roots.pem\"
# timeout_milliseconds = 5000
# What no verdict means: \"refuse\" (orders wait give_up_seconds, then fail) or \"allow\".
# on_failure = \"refuse\"
# give_up_seconds = 300
# Where it may be; an address in neither list must be a global one. Without these keys also private networks are allowed.
# allow_networks = [\"10.0.0.0/8\"]
# deny_networks = []

[ocsp]
#response_validity_seconds = 86400
#http_max_age_seconds = 3600
#key_algorithm = \"ec-p256\"

[crl]
#validity_seconds = 604800
#root_validity_seconds = 2592000
# The next CRL is made when this part of its validity is over; a revocation brings one at once.
#refresh_percent = 50
#http_max_age_seconds = 3600

[log]
# auto: for people on a terminal, JSON elsewhere; or human, or json. CHANCERY_LOG sets the level, as in
# CHANCERY_LOG=debug.
#format = \"auto\"
"
        .to_owned()
    }
}

/// A TOML string.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

#[cfg(test)]
mod tests {
    use ca_core::acme::rate_limit::Limit;

    use super::*;

    fn templates() -> Vec<Template> {
        let pkcs11 = Keys::Pkcs11 {
            module: "/usr/lib/softhsm/libsofthsm2.so".into(),
            token: "a \"token\"".to_owned(),
            pin_file: "/etc/chancery/pin".into(),
        };
        [(Purpose::FirstLook, Keys::Software, 80), (Purpose::Service, pkcs11, 5002)]
            .map(|(purpose, keys, http01_port)| Template {
                purpose,
                acme_url: "https://ca.example.org:8443".to_owned(),
                pki_url: "http://ca.example.org:8080".to_owned(),
                http01_port,
                tls_alpn01_port: 443,
                keys,
            })
            .to_vec()
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        for template in templates() {
            let text = template.render();
            let config = Config::parse("chancery.toml", &text, []).unwrap();
            assert_eq!(config.acme.public_url, template.acme_url);
            assert_eq!(config.acme.http01_port, template.http01_port);
            assert_eq!(config.acme.wildcards, template.purpose == Purpose::FirstLook);
            let limits = &config.acme.directories().unwrap()[0].limits;
            let limited = Limit::ALL.into_iter().filter(|limit| limits.quota(*limit).is_some()).count();
            let bounds = [limits.pause_after, limits.max_unused_accounts, limits.max_pending_authorizations];
            match template.purpose {
                Purpose::FirstLook => assert_eq!((limited, bounds), (0, [None; 3])),
                Purpose::Service => assert!(limited == 5 && bounds.iter().all(Option::is_some)),
            }
            assert_eq!(config.acme.external_account_required, template.purpose == Purpose::Service);
            assert_eq!(config.acme.allowed_names.is_empty(), template.purpose == Purpose::Service);
            if let Keys::Pkcs11 { token, .. } = &template.keys {
                assert_eq!(config.keys.token.as_ref(), Some(token));
            }
        }
    }

    #[test]
    fn what_was_edited_is_told_from_what_was_written() {
        for template in templates() {
            let text = template.render();
            let read = Template::read(&text).unwrap();
            assert_eq!((read.purpose, &read.keys), (template.purpose, &template.keys));
            assert!(Template::read(&format!("{text}# mine\n")).is_none());
        }
    }

    #[test]
    fn what_is_commented_out_is_the_default() {
        let shown: String = templates()[0]
            .render()
            .lines()
            .filter(|line| !line.contains("[acme.directories") && !line.contains("192.0.2.53"))
            .filter(|line| {
                ![
                    "#issuer",
                    "#caa_identities",
                    "#[acme.attestation",
                    "#roots",
                    "#busy_hours",
                    "#explanation_url",
                    "#description",
                ]
                .iter()
                .any(|l| line.starts_with(l))
            })
            .filter(|line| {
                !["#ocsp = ", "#crl = ", "#ocsp_url", "#crl_url", "#role_users"]
                    .iter()
                    .any(|l| line.starts_with(l))
            })
            .filter(|line| {
                !["#backend", "#module", "#token", "#pin_file", "#sessions"]
                    .iter()
                    .any(|l| line.starts_with(l))
            })
            // A comment has a space after its sign, a key has none.
            .map(|line| match line.strip_prefix('#') {
                Some(key) if !key.starts_with(' ') => format!("{key}\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        let as_shown = Config::parse("chancery.toml", &shown, []).unwrap();
        let by_default = Config::parse("chancery.toml", &templates()[0].render(), []).unwrap();
        assert_eq!(format!("{as_shown:?}"), format!("{by_default:?}"));
    }
}
