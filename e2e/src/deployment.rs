//! A running CA as its clients see it, whether its roles share one process or run apart.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use serde_json::Value;

use crate::chancery::{Chancery, Settings};
use crate::roles::{Role, Roles};

/// How the roles are spread over processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `up`: all of them in one.
    OneProcess,
    /// `serve --only`: each in one of its own, under a user of its own where the test is root.
    RolesApart,
}

/// A CA that is ready, with all that a client has to know of it. Dropping it kills its processes and prints their log.
#[derive(Debug)]
pub struct Deployment {
    /// The URL of the ACME directory.
    pub acme_directory: String,
    /// The file with the roots.
    pub roots_pem: PathBuf,
    /// The base of the URLs of CRLs and CA certificates, without a slash at its end.
    pub pki_url: String,
    /// The OCSP responder's URL, as certificates name it.
    pub ocsp_url: String,
    /// Where clients must answer http-01 challenges.
    pub http01: SocketAddr,
    /// Where clients must answer tls-alpn-01 challenges.
    pub tls_alpn01: SocketAddr,
    processes: Processes,
}

#[derive(Debug)]
enum Processes {
    One(Box<Chancery>),
    Apart(Box<Roles>),
}

impl Deployment {
    /// Makes a CA on an empty data directory and waits until all its roles are ready.
    ///
    /// # Errors
    /// If they don't get there; the error ends with their log.
    pub fn start(layout: Layout, settings: &Settings) -> Result<Self> {
        match layout {
            Layout::OneProcess => Self::one(Chancery::start(settings)?),
            Layout::RolesApart => {
                let mut roles = Roles::new(settings)?;
                roles.start_all()?;
                Self::apart(roles)
            }
        }
    }

    fn one(chancery: Chancery) -> Result<Self> {
        let ready = chancery.ready()?.clone();
        let pki_url = chancery.pki_url()?;
        Ok(Self {
            acme_directory: ready.acme_directory,
            roots_pem: ready.roots_pem,
            ocsp_url: format!("{pki_url}/ocsp"),
            pki_url,
            http01: chancery.http01(),
            tls_alpn01: chancery.tls_alpn01(),
            processes: Processes::One(Box::new(chancery)),
        })
    }

    fn apart(roles: Roles) -> Result<Self> {
        Ok(Self {
            acme_directory: roles.acme_directory()?,
            roots_pem: roles.roots_pem(),
            pki_url: roles.crl_url()?,
            ocsp_url: format!("{}/ocsp", roles.ocsp_url()?),
            http01: roles.http01(),
            tls_alpn01: roles.tls_alpn01(),
            processes: Processes::Apart(Box::new(roles)),
        })
    }

    /// Runs a command of the program's own command line as the CA's user, with `--json`, and parses what it prints.
    ///
    /// # Errors
    /// If it fails, or prints something else than one JSON value.
    pub fn cli(&self, arguments: &[&str]) -> Result<Value> {
        match &self.processes {
            Processes::One(chancery) => chancery.cli(arguments),
            Processes::Apart(roles) => roles.cli(arguments),
        }
    }

    /// Asks every process to stop (SIGTERM); each must do so in time and with exit code 0.
    ///
    /// # Errors
    /// If one does not.
    pub fn stop(self) -> Result<()> {
        match self.processes {
            Processes::One(mut chancery) => chancery.stop(),
            Processes::Apart(mut roles) => Role::ALL.into_iter().try_for_each(|role| roles.stop(role)),
        }
    }
}
