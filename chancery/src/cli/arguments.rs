//! The commands and their options, with examples for each.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use ca_core::revocation::RevocationReason;
use ca_core::signing::{KeyAlgorithm, SignatureAlgorithm};
use ca_core::store::Role;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::bench::BenchCommand;

use super::renewal::RenewalCommand;

use super::external_accounts::EabCommand;
use super::limits::AccountLimitCommand;

/// A self-hosted private certificate authority: ACME, OCSP and CRLs over keys in software or in an HSM.
#[derive(Debug, Parser)]
#[command(
    name = "chancery",
    version,
    arg_required_else_help = true,
    after_help = "\
Examples:
  chancery up                                        # a working CA on this machine, in one step
  chancery init --public-url https://ca.example.org  # a CA for service
  chancery serve                                     # run it
  chancery certificate list --name www.example.org   # find certificates
  chancery doctor                                    # check everything"
)]
pub struct Arguments {
    /// The data directory
    #[arg(long, global = true, env = "CHANCERY_DATA", default_value = "./chancery-data", value_name = "DIR")]
    pub data: PathBuf,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a CA if the directory is empty, then serve it on this machine: the quickstart
    Up(Up),
    /// Make a CA for service, without starting it
    Init(Init),
    /// Serve the CA
    Serve(Serve),
    /// Roots
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery root list\n  chancery root create --key-algorithm ec-p384\n  chancery root export > roots.pem"
    )]
    Root(RootCommand),
    /// Issuing CAs
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery issuer list\n  chancery issuer show issuing-1\n  chancery issuer create --root root-1"
    )]
    Issuer(IssuerCommand),
    /// Certificates that were issued
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery certificate list --state issued\n  chancery certificate revoke issuing-1-0a1b2c --reason superseded"
    )]
    Certificate(CertificateCommand),
    /// ACME accounts
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery account list\n  chancery account deactivate ACCOUNT"
    )]
    Account(AccountCommand),
    /// ACME orders
    #[command(subcommand, after_help = "Examples:\n  chancery order list\n  chancery order show ORDER")]
    Order(OrderCommand),
    /// Certificates that clients are asked to renew sooner
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery renewal list\n  chancery renewal pull --issuer issuing-1\n  chancery renewal remove ID"
    )]
    Renewal(RenewalCommand),
    /// External accounts, which new ACME accounts are bound to
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery eab create --owner 'web team' --name .web.example.org\n  chancery eab list\n  chancery eab revoke EAB --accounts"
    )]
    Eab(EabCommand),
    /// Check configuration, files, keys, store, clock, ports and freshness
    #[command(after_help = "Examples:\n  chancery doctor\n  chancery --data /var/lib/chancery doctor --json")]
    Doctor,
    /// Put load on a server, and measure it
    #[command(
        subcommand,
        after_help = "Examples:\n  chancery bench acme --directory https://127.0.0.1:8443/acme/default/directory --clients 32"
    )]
    Bench(BenchCommand),
    /// Print a completion script for a shell
    #[command(
        after_help = "Examples:\n  chancery completions bash > /etc/bash_completion.d/chancery\n  chancery completions fish > ~/.config/fish/completions/chancery.fish"
    )]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chancery up
  chancery --data /tmp/first-look up
  chancery up --json  # one line of JSON when it is ready")]
pub(super) struct Up {
    #[command(flatten)]
    pub keys: KeyOptions,
    /// The organisation, for the CAs' names
    #[arg(long, default_value = "Chancery Trial", value_name = "ORG")]
    pub name: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chancery --data /var/lib/chancery init --public-url https://ca.example.org:8443
  chancery init --public-url https://ca.example.org:8443 --name 'Example Ltd' \\
      --key-backend pkcs11 --pkcs11-module /usr/lib/softhsm/libsofthsm2.so \\
      --pkcs11-token chancery --pkcs11-pin-file /etc/chancery/pin")]
pub(super) struct Init {
    /// The base of ACME URLs, as clients reach it; it can't change later
    #[arg(long, value_name = "URL")]
    pub public_url: String,
    /// The base of the URLs in certificates, as relying parties reach it; by default http://HOST:8080
    #[arg(long, value_name = "URL")]
    pub pki_url: Option<String>,
    /// Mark the CA as a trial, so that it may use loopback URLs
    #[arg(long)]
    pub trial: bool,
    /// The organisation, for the CAs' names
    #[arg(long, default_value = "Chancery", value_name = "ORG")]
    pub name: String,
    #[command(flatten)]
    pub keys: KeyOptions,
}

/// Where the CA's keys are to be made.
#[derive(Debug, Args)]
pub(super) struct KeyOptions {
    /// Where the CA's keys are to be made
    #[arg(long, value_enum, default_value = "software", value_name = "BACKEND")]
    pub key_backend: KeyBackend,
    /// The PKCS#11 module's shared library
    #[arg(long, value_name = "PATH", required_if_eq("key_backend", "pkcs11"))]
    pub pkcs11_module: Option<PathBuf>,
    /// The label of the PKCS#11 token
    #[arg(long, value_name = "LABEL", required_if_eq("key_backend", "pkcs11"))]
    pub pkcs11_token: Option<String>,
    /// The file with the user PIN of the token
    #[arg(long, value_name = "FILE", required_if_eq("key_backend", "pkcs11"))]
    pub pkcs11_pin_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum KeyBackend {
    /// Files, encrypted under a passphrase
    Software,
    /// A PKCS#11 token
    Pkcs11,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  chancery --data /var/lib/chancery serve
  chancery serve --only ca
  CHANCERY__LISTEN__METRICS=127.0.0.1:9465 chancery serve --only acme")]
pub(super) struct Serve {
    /// Run these roles only, separated by commas: ca, acme, ocsp, crl
    #[arg(long, value_delimiter = ',', value_parser = role, value_name = "ROLES")]
    pub only: Vec<Role>,
}

fn role(text: &str) -> Result<Role, String> {
    text.parse().map_err(|()| format!("'{text}' is no role; use ca, acme, ocsp or crl"))
}

#[derive(Debug, Subcommand)]
pub(super) enum RootCommand {
    #[command(flatten)]
    Look(LookCommand),
    /// Create a root with a new key; the issuing CAs below other roots go on as they are
    #[command(after_help = "\
Examples:
  chancery root create
  chancery root create --key-algorithm ec-p384 --name 'Example Ltd' --json")]
    Create(NewCa),
}

#[derive(Debug, Subcommand)]
pub(super) enum IssuerCommand {
    #[command(flatten)]
    Look(LookCommand),
    /// Create an issuing CA with a new key; new certificates come from it from then on
    ///
    /// The issuing CAs before it go on serving OCSP and CRLs for what they issued.
    #[command(after_help = "\
Examples:
  chancery issuer create
  chancery issuer create --root root-2 --key-algorithm rsa-3072 --signature-algorithm rsa-pss-sha256")]
    Create {
        /// The id of the root above it; by default the newest
        #[arg(long, value_name = "ROOT")]
        root: Option<String>,
        #[command(flatten)]
        new: NewCa,
    },
}

/// What kind of CA to create.
#[derive(Debug, Args)]
pub(super) struct NewCa {
    /// The organisation, for its name; by default that of the root
    #[arg(long, value_name = "ORG")]
    pub name: Option<String>,
    /// The kind of its key: ec-p256, ec-p384, ed25519, rsa-2048, rsa-3072 or rsa-4096
    #[arg(long, default_value = "ec-p256", value_parser = key_algorithm(), value_name = "KIND")]
    pub key_algorithm: KeyAlgorithm,
    /// How it signs, where the key leaves a choice: rsa-pkcs1-sha256 (usual) or rsa-pss-sha256
    #[arg(long, value_parser = signature_algorithm(), value_name = "ALGORITHM")]
    pub signature_algorithm: Option<SignatureAlgorithm>,
}

fn key_algorithm() -> impl TypedValueParser<Value = KeyAlgorithm> {
    named(KeyAlgorithm::ALL.map(|kind| (kind.name(), kind)))
}

fn signature_algorithm() -> impl TypedValueParser<Value = SignatureAlgorithm> {
    named(SignatureAlgorithm::ALL.map(|algorithm| (algorithm.name(), algorithm)))
}

/// One of several values, by name; completions and help list the names.
fn named<T: Copy + Send + Sync + 'static, const N: usize>(
    values: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.map(|(name, _)| name)).try_map(move |text| {
        values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or("no such value")
    })
}

#[derive(Debug, Subcommand)]
pub(super) enum LookCommand {
    /// List them, active first
    #[command(after_help = "Examples:\n  chancery issuer list\n  chancery root list --json")]
    List,
    /// Show one
    #[command(after_help = "Examples:\n  chancery issuer show issuing-1\n  chancery root show root-1 --json")]
    Show {
        /// Its id or the SHA-256 fingerprint of its certificate
        id: String,
    },
    /// Print certificates in PEM: of one, or of all
    #[command(
        after_help = "Examples:\n  chancery root export > roots.pem\n  chancery issuer export issuing-1 --out issuing-1.pem"
    )]
    Export {
        /// Its id; all without it
        id: Option<String>,
        /// Write to this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum CertificateCommand {
    /// List certificates, newest first
    #[command(after_help = "\
Examples:
  chancery certificate list
  chancery certificate list --name www.example.org --state issued
  chancery certificate list --expires-before 2027-01-01T00:00:00Z --json")]
    List(CertificateList),
    /// Show one
    #[command(
        after_help = "Examples:\n  chancery certificate show issuing-1-0a1b2c\n  chancery certificate show 0a1b2c --json"
    )]
    Show {
        /// Its id or serial
        id: String,
    },
    /// Revoke one; returns when OCSP and the CRL say so
    #[command(after_help = "\
Examples:
  chancery certificate revoke issuing-1-0a1b2c
  chancery certificate revoke 0a1b2c --reason keyCompromise")]
    Revoke {
        /// Its id or serial
        id: String,
        /// Why, by RFC 5280's name or number
        #[arg(long, default_value = "unspecified", value_parser = reason)]
        reason: RevocationReason,
    },
    /// Print one in PEM
    #[command(after_help = "\
Examples:
  chancery certificate export issuing-1-0a1b2c > certificate.pem
  chancery certificate export 0a1b2c --chain --out fullchain.pem")]
    Export {
        /// Its id or serial
        id: String,
        /// Also the certificates of the CAs below the root
        #[arg(long)]
        chain: bool,
        /// Write to this file
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

fn reason(text: &str) -> Result<RevocationReason, String> {
    text.parse().map_err(|e: ca_core::revocation::InvalidReason| e.to_string())
}

#[derive(Debug, Args)]
pub(super) struct CertificateList {
    /// With this DNS name or IP address, exactly
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Of this ACME account
    #[arg(long, value_name = "ACCOUNT")]
    pub account: Option<String>,
    /// Of this issuer
    #[arg(long, value_name = "ISSUER")]
    pub issuer: Option<String>,
    /// With this serial
    #[arg(long, value_name = "SERIAL")]
    pub serial: Option<String>,
    /// In this state
    #[arg(long, value_parser = ["reserved", "issued", "revoked", "abandoned"])]
    pub state: Option<String>,
    /// Expiring before this time (RFC 3339, UTC)
    #[arg(long, value_name = "TIME")]
    pub expires_before: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N")]
    pub limit: Option<NonZeroUsize>,
}

#[derive(Debug, Subcommand)]
pub(super) enum AccountCommand {
    /// List accounts, newest first
    #[command(after_help = "Examples:\n  chancery account list\n  chancery account list --limit 10 --json")]
    List {
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroUsize>,
    },
    /// Show one
    #[command(after_help = "Examples:\n  chancery account show 06pk6og0u8b4f8t2v1q3c9d5ro")]
    Show {
        /// Its id
        id: String,
    },
    #[command(flatten)]
    Limits(AccountLimitCommand),
    /// End one: its key is refused from now on; its certificates stay as they are
    #[command(after_help = "Examples:\n  chancery account deactivate 06pk6og0u8b4f8t2v1q3c9d5ro")]
    Deactivate {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum OrderCommand {
    /// List orders, newest first
    #[command(
        after_help = "Examples:\n  chancery order list\n  chancery order list --account 06pk6og0u8b4f8t2v1q3c9d5ro"
    )]
    List {
        /// Of this ACME account
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroUsize>,
    },
    /// Show one, with every validation attempt
    #[command(after_help = "Examples:\n  chancery order show 06pk6og0u8b4f8t2v1q3c9d5ro --json")]
    Show {
        /// Its id
        id: String,
    },
}
