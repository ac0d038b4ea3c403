//! `chancery renewal …`: which certificates clients are asked to renew sooner (RFC 9773).

use ca_core::time::Timestamp;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::inventory::Session;
use super::output::{Column, Output};
use crate::admin::Request;
use crate::admin::renewal::{NewPull, PullOf};
use crate::data::DataDir;
use crate::failure::Failure;

const COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("CERTIFICATES", "scope"),
    ("START", "start"),
    ("END", "end"),
    ("ISSUED BEFORE", "issued_before"),
];

#[derive(Debug, Subcommand)]
pub(super) enum RenewalCommand {
    /// Ask clients to renew certificates sooner than their lifetimes ask for
    ///
    /// Clients that ask for renewal information (RFC 9773) get a window between the start and the end, spread over that
    /// time, busy hours or not. Certificates that are issued later are not meant.
    #[command(after_help = "\
Examples:
  chancery renewal pull --issuer issuing-1
  chancery renewal pull --certificate issuing-1-0a1b2c --end 2027-01-01T06:00:00Z
  chancery renewal pull --profile tls-server --start 2027-01-01T00:00:00Z --end 2027-01-02T00:00:00Z \\
      --explanation-url https://intranet.example.org/incident-7")]
    Pull(Pull),
    /// List what clients are asked to renew sooner, newest first
    #[command(after_help = "Examples:\n  chancery renewal list\n  chancery renewal list --json")]
    List,
    /// Take one back: windows are again as lifetimes ask for
    #[command(after_help = "Examples:\n  chancery renewal remove 06pk6og0u8b4f8t2v1q3c9d5ro")]
    Remove {
        /// Its id
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct Pull {
    #[command(flatten)]
    of: Of,
    /// From when on (RFC 3339, UTC), also in the past; by default now
    #[arg(long, value_parser = time, value_name = "TIME")]
    start: Option<Timestamp>,
    /// By when (RFC 3339, UTC); by default a day after the start
    #[arg(long, value_parser = time, value_name = "TIME")]
    end: Option<Timestamp>,
    /// Only certificates issued before this time (RFC 3339, UTC); by default now
    #[arg(long, value_parser = time, value_name = "TIME")]
    issued_before: Option<Timestamp>,
    /// A page that says why; clients show it to their operators
    #[arg(long, value_name = "URL")]
    explanation_url: Option<String>,
}

/// Which certificates.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Of {
    /// All of this issuing CA
    #[arg(long, value_name = "ISSUER")]
    issuer: Option<String>,
    /// All of this profile
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// All of this ACME account
    #[arg(long, value_name = "ACCOUNT")]
    account: Option<String>,
    /// This one, by id or serial
    #[arg(long, value_name = "CERTIFICATE")]
    certificate: Option<String>,
}

impl Of {
    fn named(self) -> Option<PullOf> {
        let Self { issuer, profile, account, certificate } = self;
        issuer
            .map(PullOf::Issuer)
            .or(profile.map(PullOf::Profile))
            .or(account.map(PullOf::Account))
            .or(certificate.map(PullOf::Certificate))
    }
}

fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::from_rfc3339(text).ok_or_else(|| "write it as 2027-01-01T00:00:00Z".to_owned())
}

/// `renewal …`.
pub(super) async fn run(data: &DataDir, command: RenewalCommand, output: &Output) -> Result<(), Failure> {
    match command {
        RenewalCommand::Pull(pull) => {
            let Some(of) = pull.of.named() else {
                return Err(Failure::new(
                    crate::failure::Code::Usage,
                    "nothing says which certificates",
                    "give one of --issuer, --profile, --account and --certificate",
                ));
            };
            let new = NewPull {
                of,
                start: pull.start,
                end: pull.end,
                issued_before: pull.issued_before,
                explanation_url: pull.explanation_url,
            };
            let mut session = Session::open(data, true).await?;
            let made = session.object(&Request::PullRenewals(new)).await?;
            if output.is_json() {
                output.show(&made);
            } else {
                output.say(&format!(
                    "{}: clients that ask are told to renew {} between {} and {}",
                    text(&made, "id"),
                    text(&made, "scope"),
                    text(&made, "start"),
                    text(&made, "end"),
                ));
            }
        }
        RenewalCommand::List => {
            let mut session = Session::open(data, false).await?;
            let rows = session.rows(None, |_| Ok(Request::RenewalPulls)).await?;
            output.list(&rows, COLUMNS, "nothing is pulled forward");
        }
        RenewalCommand::Remove { id } => {
            let mut session = Session::open(data, true).await?;
            let removed = session.object(&Request::RemoveRenewalPull { id }).await?;
            if output.is_json() {
                output.show(&removed);
            } else {
                output.say(&format!("{} is taken back: {}", text(&removed, "id"), text(&removed, "scope")));
            }
        }
    }
    Ok(())
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}
