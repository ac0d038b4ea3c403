//! `account limit`, `account paused` and `account unpause`.

use ca_core::acme::rate_limit::{Allowance, Limit};
use clap::Subcommand;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use serde_json::Value;

use super::inventory::{Session, text, unexpected};
use super::output::{Column, Output};
use crate::admin::Request;
use crate::data::DataDir;
use crate::failure::{Code, Failure};

const PAUSED_COLUMNS: &[Column] = &[
    ("ACCOUNT", "account"),
    ("NAME", "name"),
    ("FAILURES", "failures"),
    ("PAUSED", "paused_at"),
    ("LAST FAILURE", "detail"),
];

#[derive(Debug, Subcommand)]
pub(super) enum AccountLimitCommand {
    /// Give an account a rate limit of its own
    #[command(after_help = "\
Examples:
  chancery account limit 06pk6og0u8b4f8t2v1q3c9d5ro new_orders_per_account 5000/3h
  chancery account limit 06pk6og0u8b4f8t2v1q3c9d5ro certificates_per_name_set off
  chancery account limit 06pk6og0u8b4f8t2v1q3c9d5ro new_orders_per_account default")]
    Limit {
        /// Its id
        id: String,
        /// Which, by its key under acme.limits
        #[arg(value_parser = limit())]
        limit: Limit,
        /// COUNT/PERIOD as in 5000/3h, 'off' for none, or 'default' for its directory's
        #[arg(value_parser = own)]
        value: Own,
    },
    /// List the names that accounts can't order because their validation failed again and again
    #[command(after_help = "\
Examples:
  chancery account paused
  chancery account paused --account 06pk6og0u8b4f8t2v1q3c9d5ro --json")]
    Paused {
        /// Of this account
        #[arg(long, value_name = "ACCOUNT")]
        account: Option<String>,
    },
    /// Let an account order a paused name again, or all of its paused names
    #[command(after_help = "\
Examples:
  chancery account unpause 06pk6og0u8b4f8t2v1q3c9d5ro www.example.org
  chancery account unpause 06pk6og0u8b4f8t2v1q3c9d5ro")]
    Unpause {
        /// Its id
        id: String,
        /// The name; all without it
        name: Option<String>,
    },
}

/// A limit of an account's own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Own(Option<Allowance>);

fn own(value: &str) -> Result<Own, String> {
    match value {
        "default" => Ok(Own(None)),
        value => value
            .parse()
            .map(|allowance| Own(Some(allowance)))
            .map_err(|why: ca_core::acme::rate_limit::InvalidQuota| format!("{why}; or 'off', or 'default'")),
    }
}

fn limit() -> impl TypedValueParser<Value = Limit> {
    let names = Limit::ALL.into_iter().filter(|limit| limit.is_per_account()).map(Limit::name);
    PossibleValuesParser::new(names).try_map(|text| text.parse::<Limit>())
}

/// Runs one of them.
pub(super) async fn run(
    data: &DataDir,
    command: AccountLimitCommand,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        AccountLimitCommand::Limit { id, limit, value: Own(allowance) } => {
            let mut session = Session::open(data, true).await?;
            let account = session.object(&Request::LimitAccount { id, limit, allowance }).await?;
            if output.is_json() {
                output.show(&account);
            } else {
                let id = text(&account, "id").unwrap_or_default();
                let value =
                    allowance.map_or_else(|| "that of its directory".to_owned(), |own| own.to_string());
                output.say(&format!("{limit} of account {id} is {value}"));
            }
        }
        AccountLimitCommand::Paused { account } => {
            let account = account.map(|account| account.parse()).transpose().map_err(|e| {
                Failure::new(Code::Usage, format!("--account: {e}"), "see `chancery account list`")
            })?;
            let mut session = Session::open(data, false).await?;
            let rows = session
                .rows(None, |after| {
                    let after = after.map(|after| after.parse().map_err(|_| unexpected())).transpose()?;
                    Ok(Request::PausedNames { account, after })
                })
                .await?;
            output.list(&rows, PAUSED_COLUMNS, "no paused names");
        }
        AccountLimitCommand::Unpause { id, name } => {
            let mut session = Session::open(data, true).await?;
            let lifted = session.object(&Request::Unpause { id, name }).await?;
            if output.is_json() {
                output.show(&lifted);
            } else {
                let names: Vec<&str> = lifted
                    .get("unpaused")
                    .and_then(Value::as_array)
                    .map(|names| names.iter().filter_map(Value::as_str).collect())
                    .unwrap_or_default();
                output.say(&match names.as_slice() {
                    [] => "no name was paused".to_owned(),
                    names => format!("can be ordered again: {}", names.join(", ")),
                });
            }
        }
    }
    Ok(())
}
