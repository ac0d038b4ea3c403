//! `eab …`: external accounts, which new ACME accounts are bound to.

use std::num::NonZeroUsize;

use ca_core::acme::external_account::GrantConfig;
use ca_core::time::Timestamp;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::inventory::{Session, text, unexpected};
use super::lifecycle::shell_quoted;
use super::output::{Column, Output};
use crate::admin::Request;
use crate::admin::external_accounts::NewExternalAccount;
use crate::data::DataDir;
use crate::failure::{Code, Failure};

const COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("STATUS", "status"),
    ("OWNER", "owner"),
    ("DIRECTORY", "directory"),
    ("NAMES", "names"),
    ("TRUSTED", "trusted"),
    ("EXPIRES", "expires_at"),
];

#[derive(Debug, Subcommand)]
pub(super) enum EabCommand {
    /// Make a key identifier and a MAC key that new ACME accounts are bound with; the key is shown this once
    #[command(after_help = "\
Examples:
  chancery eab create --owner 'web team'
  chancery eab create --owner 'web team' --name .web.example.org --wildcards --max-days 30
  chancery eab create --owner build --name 10.1.0.0/16 --challenge http-01 --expires 2027-01-01T00:00:00Z
  chancery eab create --owner mesh --name .mesh.internal --trusted --single-use --json")]
    Create(Create),
    /// List them, newest first
    #[command(after_help = "Examples:\n  chancery eab list\n  chancery eab list --limit 10 --json")]
    List {
        /// At most so many
        #[arg(long, value_name = "N")]
        limit: Option<NonZeroUsize>,
    },
    /// Show one, with the accounts that are bound to it
    #[command(after_help = "Examples:\n  chancery eab show 06pk6og0u8b4f8t2v1q3c9d5ro --json")]
    Show {
        /// Its id: the key identifier
        id: String,
    },
    /// Take one back: nothing is issued to its accounts from now on; its certificates stay as they are
    #[command(after_help = "\
Examples:
  chancery eab revoke 06pk6og0u8b4f8t2v1q3c9d5ro
  chancery eab revoke 06pk6og0u8b4f8t2v1q3c9d5ro --accounts  # and end the accounts bound to it")]
    Revoke {
        /// Its id: the key identifier
        id: String,
        /// Also end the accounts that are bound to it
        #[arg(long)]
        accounts: bool,
    },
    /// Let role acme publish another sealing key, after acme/sealing.key was lost or seen by a stranger
    ///
    /// MAC keys are stored sealed to a key that only role acme can open. If a stranger may have read it, remove
    /// acme/sealing.key first and restart role acme afterwards: it makes a new one. What was sealed to another key than
    /// the one that it publishes then can't be used for new accounts any more.
    #[command(after_help = "Examples:\n  chancery eab forget-sealing-key")]
    ForgetSealingKey,
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// Whose it is, in your words
    #[arg(long, value_name = "OWNER")]
    owner: String,
    /// For which ACME directory; not needed where there is one
    #[arg(long, value_name = "DIRECTORY")]
    directory: Option<String>,
    /// A name that its accounts may order: host.example.org, .example.org for a domain and all below it, or 10.0.0.0/8;
    /// may be repeated; without it all that the directory admits
    #[arg(long = "name", value_name = "NAME", value_delimiter = ',')]
    names: Vec<String>,
    /// Its accounts may order wildcard names
    #[arg(long)]
    wildcards: bool,
    /// A profile that its accounts may use; may be repeated; without it all of the directory's
    #[arg(long = "profile", value_name = "PROFILE", value_delimiter = ',')]
    profiles: Vec<String>,
    /// The longest validity of their certificates, in days
    #[arg(long, value_name = "DAYS")]
    max_days: Option<u32>,
    /// A challenge that its accounts may answer; may be repeated; without it all of the directory's
    #[arg(long = "challenge", value_name = "CHALLENGE", value_delimiter = ',')]
    challenges: Vec<String>,
    /// Its accounts need no challenge for its names: whoever has the MAC key gets certificates for them
    #[arg(long, requires = "names")]
    trusted: bool,
    /// For one account only
    #[arg(long)]
    single_use: bool,
    /// Until when it can be used (RFC 3339, UTC): nothing is issued to its accounts after that
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
}

/// `eab …`.
pub(super) async fn run(data: &DataDir, command: EabCommand, output: &Output) -> Result<(), Failure> {
    match command {
        EabCommand::Create(new) => create(data, new, output).await,
        EabCommand::List { limit } => {
            let mut session = Session::open(data, false).await?;
            let rows = session
                .rows(limit, |after| {
                    let after = after.map(|after| after.parse().map_err(|_| unexpected())).transpose()?;
                    Ok(Request::ExternalAccounts { after })
                })
                .await?;
            output.list(&rows, COLUMNS, "no external accounts");
            Ok(())
        }
        EabCommand::Show { id } => {
            let mut session = Session::open(data, false).await?;
            output.show(&session.object(&Request::ExternalAccount { id }).await?);
            Ok(())
        }
        EabCommand::Revoke { id, accounts } => {
            let mut session = Session::open(data, true).await?;
            let revoked = session.object(&Request::RevokeExternalAccount { id, accounts }).await?;
            if output.is_json() {
                output.show(&revoked);
                return Ok(());
            }
            let number = |name| revoked.get(name).and_then(Value::as_u64).unwrap_or(0);
            output.say(&format!(
                "revoked {}: nothing is issued to its accounts any more; {} authorizations were taken back, {} accounts ended",
                text(&revoked, "id").unwrap_or_default(),
                number("authorizations_revoked"),
                number("accounts_deactivated"),
            ));
            Ok(())
        }
        EabCommand::ForgetSealingKey => {
            let mut session = Session::open(data, true).await?;
            let forgotten = session.object(&Request::ForgetSealingKey).await?;
            if output.is_json() {
                output.show(&forgotten);
            } else {
                output.say("forgotten; role acme publishes the key that it has within ten seconds, or at its next start");
            }
            Ok(())
        }
    }
}

async fn create(data: &DataDir, new: Create, output: &Output) -> Result<(), Failure> {
    let expires_at = new
        .expires
        .as_deref()
        .map(|time| {
            Timestamp::from_rfc3339(time).ok_or_else(|| {
                Failure::new(
                    Code::Usage,
                    format!("--expires: '{time}' is no time"),
                    "write it as 2027-01-01T00:00:00Z",
                )
            })
        })
        .transpose()?;
    let request = Request::CreateExternalAccount(NewExternalAccount {
        directory: new.directory,
        owner: new.owner,
        grant: GrantConfig {
            names: new.names,
            wildcards: new.wildcards,
            profiles: new.profiles,
            max_days: new.max_days,
            challenges: new.challenges,
            trusted: new.trusted,
        },
        single_use: new.single_use,
        expires_at,
    });
    let mut session = Session::open(data, true).await?;
    let mut made = session.object(&request).await?;
    let field = |name| text(&made, name).unwrap_or_default();
    let (id, key, directory) = (field("id"), field("hmac_key"), field("acme_directory"));
    let roots = shell_quoted(&data.roots_pem().display().to_string());
    let certbot = format!(
        "REQUESTS_CA_BUNDLE={roots} certbot register --server {directory} --eab-kid {id} --eab-hmac-key {key} --agree-tos -m you@example.org"
    );
    let lego = format!(
        "LEGO_CA_CERTIFICATES={roots} lego --server {directory} --eab --kid {id} --hmac {key} --accept-tos --email you@example.org --http --domains NAME run"
    );
    if output.is_json() {
        if let Some(object) = made.as_object_mut() {
            object.insert("certbot".to_owned(), json!(certbot));
            object.insert("lego".to_owned(), json!(lego));
        }
        output.show(&made);
        return Ok(());
    }
    output.say(&format!(
        "\
created {id}, for {} in {directory}

key identifier  {id}
MAC key         {key}

The MAC key is shown this once: it is stored so that only role acme can open it. Whoever has it can bind an account.

With certbot:

  {certbot}

or with lego:

  {lego}
",
        field("owner")
    ));
    Ok(())
}
