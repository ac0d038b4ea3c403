//! The commands that look at, and change, what the CA holds: sent to a running server, or carried out here.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use ca_core::pkix::identifier::Identifier;
use ca_core::store::{CertificateFilter, IssuerKind, Role, Store};
use ca_core::time::Timestamp;
use serde_json::{Value, json};
use store::lock::CaLock;

use super::arguments::{
    AccountCommand, CertificateCommand, CertificateList, IssuerCommand, LookCommand, NewCa, OrderCommand,
    RootCommand,
};
use super::output::{Column, Output};
use crate::admin::client::Client;
use crate::admin::execute::{Administration, not_found};
use crate::admin::{Answer, Request};
use crate::config::{Config, LogFormat};
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::{logging, open, setup};

const ISSUER_COLUMNS: &[Column] =
    &[("ID", "id"), ("STATE", "state"), ("SUBJECT", "subject"), ("SHA-256", "sha256")];
const CERTIFICATE_COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("STATE", "state"),
    ("NAMES", "names"),
    ("PROFILE", "profile"),
    ("NOT AFTER", "not_after"),
];
const ACCOUNT_COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("STATUS", "status"),
    ("DIRECTORY", "directory"),
    ("CONTACTS", "contacts"),
    ("CREATED", "created_at"),
];
const ORDER_COLUMNS: &[Column] = &[
    ("ID", "id"),
    ("STATUS", "status"),
    ("NAMES", "names"),
    ("CREATED", "created_at"),
    ("FAILURE", "failure"),
];

/// Where requests go.
pub(super) enum Session {
    /// To the server that runs.
    Server(Client),
    /// Nowhere: this process does the work, in the name of its own user.
    Own(Box<Administration>, #[allow(dead_code, reason = "held, not read")] Option<CaLock>),
}

impl Session {
    /// Asks the server if one runs; else opens the data directory, for writing if `writes`.
    pub(super) async fn open(data: &DataDir, writes: bool) -> Result<Self, Failure> {
        logging::start(LogFormat::Auto, "warn");
        if let Some(client) = Client::connect(&data.admin_socket()).await? {
            return Ok(Self::Server(client));
        }
        let config = Config::load(data)?;
        data.refuse_foreign_root()?;
        let clock = Arc::new(ca_core::time::SystemClock);
        let (store, authority, lock): (Arc<dyn Store>, _, _) = if writes {
            let lock = setup::take_lock(data)?;
            let opened = open::authority(data, &config, lock, &open::Instruments::default()).await?;
            opened.authority.recover().await.map_err(crate::admin::execute::authority_failure)?;
            (opened.store, Some(opened.authority), Some(opened.lock))
        } else {
            (open::remote(data, Role::Ca)?, None, None)
        };
        let (data, roles) = (data.clone(), Vec::new());
        let acme_url = open::acme_url(&config)?;
        let administration =
            Administration { data, store, authority, clock, roles, acme_url, serving: false };
        Ok(Self::Own(Box::new(administration), lock))
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, Failure> {
        let answer = match self {
            Self::Server(client) => client.ask(request).await?,
            Self::Own(administration, _) => {
                administration.execute(request.clone(), nix::unistd::Uid::effective().as_raw()).await
            }
        };
        match answer {
            Answer::Failed(failure) => Err(failure),
            answer => Ok(answer),
        }
    }

    pub(super) async fn object(&mut self, request: &Request) -> Result<Value, Failure> {
        match self.ask(request).await? {
            Answer::Object(object) => Ok(object),
            Answer::Page { .. } | Answer::Failed(_) => Err(unexpected()),
        }
    }

    /// Whether there is a root or issuing CA of this id: a mistyped one would look as if it had issued nothing.
    async fn check_issuer(&mut self, id: &str) -> Result<(), Failure> {
        for kind in [IssuerKind::Issuing, IssuerKind::Root] {
            let issuers = self.rows(None, |_| Ok(Request::Issuers { kind })).await?;
            if issuers.iter().any(|issuer| issuer.get("id").and_then(Value::as_str) == Some(id)) {
                return Ok(());
            }
        }
        Err(not_found("issuer", id))
    }

    /// Every row, or the first `limit`; `request` makes the request for the page that begins at a place.
    pub(super) async fn rows(
        &mut self,
        limit: Option<NonZeroUsize>,
        request: impl Fn(Option<String>) -> Result<Request, Failure>,
    ) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let Answer::Page { rows, next } = self.ask(&request(after)?).await? else {
                return Err(unexpected());
            };
            all.extend(rows);
            if let Some(limit) = limit
                && all.len() >= limit.get()
            {
                all.truncate(limit.get());
                return Ok(all);
            }
            match next {
                Some(next) => after = Some(next),
                None => return Ok(all),
            }
        }
    }
}

pub(super) fn unexpected() -> Failure {
    Failure::new(
        Code::Server,
        "the server answered something else than was asked",
        "use the command line of its own version",
    )
}

/// `root …`.
pub(super) async fn roots(data: &DataDir, command: RootCommand, output: &Output) -> Result<(), Failure> {
    match command {
        RootCommand::Create(new) => create(data, IssuerKind::Root, None, new, output).await,
        RootCommand::Look(command) => look(data, IssuerKind::Root, command, output).await,
    }
}

/// `issuer …`.
pub(super) async fn issuers(data: &DataDir, command: IssuerCommand, output: &Output) -> Result<(), Failure> {
    match command {
        IssuerCommand::Create { root, new } => create(data, IssuerKind::Issuing, root, new, output).await,
        IssuerCommand::Look(command) => look(data, IssuerKind::Issuing, command, output).await,
    }
}

async fn create(
    data: &DataDir,
    kind: IssuerKind,
    root: Option<String>,
    new: NewCa,
    output: &Output,
) -> Result<(), Failure> {
    let mut session = Session::open(data, true).await?;
    let request = Request::CreateIssuer {
        kind,
        root,
        organisation: new.name,
        key_algorithm: new.key_algorithm,
        signature_algorithm: new.signature_algorithm,
    };
    let created = session.object(&request).await?;
    if output.is_json() {
        output.show(&created);
        return Ok(());
    }
    let field = |name| text(&created, name).unwrap_or_default();
    let (id, subject, sha256) = (field("id"), field("subject"), field("sha256"));
    output.say(&match kind {
        IssuerKind::Root => format!(
            "created {id} ({subject}), SHA-256 {sha256}\nit is in roots.pem; give that file to relying parties before `chancery issuer create --root {id}`"
        ),
        IssuerKind::Issuing => format!(
            "created {id} ({subject}) below {}; new certificates come from it from now on",
            field("parent")
        ),
    });
    Ok(())
}

async fn look(
    data: &DataDir,
    kind: IssuerKind,
    command: LookCommand,
    output: &Output,
) -> Result<(), Failure> {
    let mut session = Session::open(data, false).await?;
    match command {
        LookCommand::List => {
            let rows = session.rows(None, |_| Ok(Request::Issuers { kind })).await?;
            output.list(&rows, ISSUER_COLUMNS, "none");
        }
        LookCommand::Show { id } => output.show(&session.object(&Request::Issuer { kind, id }).await?),
        LookCommand::Export { id, out } => {
            let objects = match id {
                Some(id) => vec![session.object(&Request::Issuer { kind, id }).await?],
                None => session.rows(None, |_| Ok(Request::Issuers { kind })).await?,
            };
            let pem: String = objects.iter().filter_map(|object| text(object, "pem")).collect();
            let ids: Vec<&str> = objects.iter().filter_map(|object| object.get("id")?.as_str()).collect();
            export(&ids.join(","), &pem, out.as_deref(), output)?;
        }
    }
    Ok(())
}

/// `certificate …`.
pub(super) async fn certificates(
    data: &DataDir,
    command: CertificateCommand,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        CertificateCommand::List(list) => {
            let filter = filter(&list)?;
            let mut session = Session::open(data, false).await?;
            if let Some(issuer) = &list.issuer {
                session.check_issuer(issuer).await?;
            }
            let rows = session
                .rows(list.limit, |after| {
                    let after = after.map(|after| after.parse().map_err(|_| unexpected())).transpose()?;
                    Ok(Request::Certificates { filter: filter.clone(), after })
                })
                .await?;
            output.list(&rows, CERTIFICATE_COLUMNS, "no certificates");
        }
        CertificateCommand::Show { id } => {
            let mut session = Session::open(data, false).await?;
            output.show(&session.object(&Request::Certificate { id }).await?);
        }
        CertificateCommand::Revoke { id, reason } => {
            let mut session = Session::open(data, true).await?;
            let revoked = session.object(&Request::Revoke { id, reason }).await?;
            if output.is_json() {
                output.show(&revoked);
            } else {
                let field = |name| text(&revoked, name).unwrap_or_default();
                output.say(&format!(
                    "revoked {} ({}): OCSP and the CRL say so",
                    field("id"),
                    field("reason")
                ));
            }
        }
        CertificateCommand::Export { id, chain, out } => {
            let mut session = Session::open(data, false).await?;
            let certificate = session.object(&Request::Certificate { id }).await?;
            let Some(mut pem) = text(&certificate, "pem") else {
                return Err(Failure::new(
                    Code::Conflict,
                    "the certificate was never released, so there is nothing to export",
                    "see its state with `chancery certificate show`",
                ));
            };
            if chain {
                pem.push_str(&text(&certificate, "chain_pem").unwrap_or_default());
            }
            export(&text(&certificate, "id").unwrap_or_default(), &pem, out.as_deref(), output)?;
        }
    }
    Ok(())
}

fn filter(list: &CertificateList) -> Result<CertificateFilter, Failure> {
    let wrong = |option: &str, detail: &dyn std::fmt::Display| {
        Failure::new(Code::Usage, format!("--{option}: {detail}"), "see `chancery certificate list --help`")
    };
    Ok(CertificateFilter {
        name: list.name.as_deref().map(Identifier::from_text).transpose().map_err(|e| wrong("name", &e))?,
        account: list.account.as_deref().map(str::parse).transpose().map_err(|e| wrong("account", &e))?,
        issuer: list.issuer.as_deref().map(str::parse).transpose().map_err(|e| wrong("issuer", &e))?,
        serial: list
            .serial
            .as_deref()
            .map(|serial| serial.replace(':', "").to_ascii_lowercase().parse())
            .transpose()
            .map_err(|e| wrong("serial", &e))?,
        key: None,
        state: list.state.clone(),
        expires_before: list
            .expires_before
            .as_deref()
            .map(|time| Timestamp::from_rfc3339(time).ok_or("write it as 2027-01-01T00:00:00Z"))
            .transpose()
            .map_err(|e| wrong("expires-before", &e))?,
    })
}

/// `account …`.
pub(super) async fn accounts(
    data: &DataDir,
    command: AccountCommand,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        AccountCommand::List { limit } => {
            let mut session = Session::open(data, false).await?;
            let rows = session
                .rows(limit, |after| {
                    let after = after.map(|after| after.parse().map_err(|_| unexpected())).transpose()?;
                    Ok(Request::Accounts { after })
                })
                .await?;
            output.list(&rows, ACCOUNT_COLUMNS, "no accounts");
        }
        AccountCommand::Show { id } => {
            let mut session = Session::open(data, false).await?;
            output.show(&session.object(&Request::Account { id }).await?);
        }
        AccountCommand::Limits(command) => super::limits::run(data, command, output).await?,
        AccountCommand::Deactivate { id } => {
            let mut session = Session::open(data, true).await?;
            let account = session.object(&Request::DeactivateAccount { id }).await?;
            if output.is_json() {
                output.show(&account);
            } else {
                let field = |name| text(&account, name).unwrap_or_default();
                output.say(&format!("account {} is {}", field("id"), field("status")));
            }
        }
    }
    Ok(())
}

/// `order …`.
pub(super) async fn orders(data: &DataDir, command: OrderCommand, output: &Output) -> Result<(), Failure> {
    match command {
        OrderCommand::List { account, limit } => {
            let account = account.map(|account| account.parse()).transpose().map_err(|e| {
                Failure::new(Code::Usage, format!("--account: {e}"), "see `chancery account list`")
            })?;
            let mut session = Session::open(data, false).await?;
            let rows = session
                .rows(limit, |after| {
                    let after = after.map(|after| after.parse().map_err(|_| unexpected())).transpose()?;
                    Ok(Request::Orders { account, after })
                })
                .await?;
            output.list(&rows, ORDER_COLUMNS, "no orders");
        }
        OrderCommand::Show { id } => {
            let mut session = Session::open(data, false).await?;
            output.show(&session.object(&Request::Order { id }).await?);
        }
    }
    Ok(())
}

pub(super) fn text(object: &Value, field: &str) -> Option<String> {
    object.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn export(id: &str, pem: &str, out: Option<&Path>, output: &Output) -> Result<(), Failure> {
    let Some(path) = out else {
        if output.is_json() {
            output.show(&json!({ "id": id, "pem": pem }));
        } else {
            output.raw(pem);
        }
        return Ok(());
    };
    std::fs::write(path, pem).map_err(|e: io::Error| {
        Failure::new(
            Code::System,
            format!("can't write {}: {e}", path.display()),
            "choose another file with --out",
        )
    })?;
    if output.is_json() {
        output.show(&json!({ "id": id, "file": path }));
    } else {
        output.say(&format!("wrote {}", path.display()));
    }
    Ok(())
}
