//! Making a CA: the data directory, its configuration, keys, root and issuing CA; and opening what was made.

use std::net::{Ipv4Addr, TcpListener};

use ca_core::authority::{Authority, AuthorityError, NewHierarchy};
use ca_core::id::to_hex;
use ca_core::signing::{KeyAlgorithm, KeyError};
use ca_core::store::{IssuerKind, IssuerRecord, Store};
use store::lock::{CaLock, LockError};

use crate::admin::execute::{authority_failure, store_failure};
use crate::admin::views::pem;
use crate::config::template::{Keys, Purpose, Template};
use crate::config::{Config, host};
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::open;

/// Over how many CRL shards a new issuing CA spreads its certificates.
const SHARDS: u32 = 16;

/// What `init` is asked for.
#[derive(Clone, Debug)]
pub struct Init {
    /// A first look or service.
    pub purpose: Purpose,
    /// The base of ACME URLs.
    pub public_url: String,
    /// The base of the URLs in certificates; `http://HOST:8080` unless given.
    pub pki_url: Option<String>,
    /// Whether loopback URLs are fine.
    pub trial: bool,
    /// The organisation's name, for the CAs' subjects.
    pub organisation: String,
    /// Where the keys are to be.
    pub keys: Keys,
}

/// Makes the CA, or completes one whose making was interrupted.
///
/// # Errors
/// With what to do; what was made so far is used by the next attempt.
pub async fn init(data: &DataDir, init: &Init) -> Result<Config, Failure> {
    data.refuse_foreign_root()?;
    if data.roots_pem().exists() {
        return Err(Failure::new(
            Code::AlreadyInitialised,
            format!("{} holds a CA already", data.path().display()),
            format!(
                "run `chancery --data {} serve`, or choose another directory with --data",
                data.path().display()
            ),
        ));
    }
    // Anything else in there belongs to somebody; what an interrupted attempt left is ours.
    if !data.is_initialised() && !data.is_vacant()? {
        return Err(Failure::new(
            Code::DataDirectory,
            format!("{} is not empty and holds no CA", data.path().display()),
            "choose an empty or a new directory with --data",
        ));
    }
    data.create()?;
    let lock = take_lock(data)?;
    if !data.is_initialised() {
        write_configuration(data, init)?;
    }
    let config = Config::load(data)?;
    if init.keys == Keys::Software && !data.passphrase().exists() {
        hsm::create_passphrase_file(&data.passphrase()).map_err(|e| keys_failure(&e))?;
    }
    let opened = open::authority(data, &config, lock, &open::Instruments::default()).await?;
    create_hierarchy(data, &opened.authority, &*opened.store, init).await?;
    opened.store.close().await;
    Ok(config)
}

fn write_configuration(data: &DataDir, init: &Init) -> Result<(), Failure> {
    let pki_url = match &init.pki_url {
        Some(url) => url.clone(),
        None => {
            let host = host(&init.public_url).ok_or_else(|| {
                Failure::new(
                    Code::Usage,
                    format!("'{}' is no URL", init.public_url),
                    "write it as https://ca.example.org:8443",
                )
            })?;
            let host = if host.contains(':') { format!("[{host}]") } else { host };
            format!("http://{host}:8080")
        }
    };
    let (http01_port, tls_alpn01_port) = match init.purpose {
        Purpose::Service => (80, 443),
        Purpose::FirstLook => first_look_ports(),
    };
    let template = Template {
        purpose: init.purpose,
        acme_url: init.public_url.trim_end_matches('/').to_owned(),
        pki_url: pki_url.trim_end_matches('/').to_owned(),
        http01_port,
        tls_alpn01_port,
        keys: init.keys.clone(),
    };
    let text = template.render();
    // What is wrong on the command line is said before anything is written.
    Config::parse("the new chancery.toml", &text, [])
        .map_err(|failure| Failure { fix: "correct the option on the command line".to_owned(), ..failure })?;
    data.write_shared(&data.configuration(), text.as_bytes())
}

/// The usual ports if this user's ACME clients can listen on them, else two that anybody can.
fn first_look_ports() -> (u16, u16) {
    let free = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    if free(80) && free(443) { (80, 443) } else { (5002, 5001) }
}

async fn create_hierarchy(
    data: &DataDir,
    authority: &Authority,
    store: &dyn Store,
    init: &Init,
) -> Result<(), Failure> {
    let algorithm = KeyAlgorithm::EcP256;
    let new = NewHierarchy {
        organisation: init.organisation.clone(),
        key_algorithm: algorithm,
        signature_algorithm: algorithm.default_signature(),
        trial: init.trial,
        shards: SHARDS,
    };
    match authority.create_hierarchy(&new).await {
        // An attempt that was interrupted after this made it.
        Ok(_) | Err(AuthorityError::Exists) => {}
        Err(error) => return Err(authority_failure(error)),
    }
    write_roots(data, store).await
}

/// Writes `roots.pem` from the store: PEM blocks only.
///
/// # Errors
/// If it can't be written.
pub async fn write_roots(data: &DataDir, store: &dyn Store) -> Result<(), Failure> {
    let issuers = store.issuers().await.map_err(store_failure)?;
    let text = roots_pem(&issuers);
    if text.is_empty() || std::fs::read(data.roots_pem()).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    data.write_shared(&data.roots_pem(), text.as_bytes())
}

fn roots_pem(issuers: &[IssuerRecord]) -> String {
    let roots = issuers.iter().filter(|issuer| issuer.kind == IssuerKind::Root);
    roots.filter_map(|root| root.certificates.first()).map(|root| pem("CERTIFICATE", &root.der)).collect()
}

/// SHA-256 of the newest root's DER, in hexadecimal.
///
/// # Errors
/// If the store can't be read.
pub async fn root_sha256(store: &dyn Store) -> Result<Option<String>, Failure> {
    let issuers = store.issuers().await.map_err(store_failure)?;
    let root = issuers.iter().find(|issuer| issuer.kind == IssuerKind::Root);
    Ok(root.and_then(|root| root.certificates.first()).map(|certificate| to_hex(&certificate.fingerprint)))
}

/// Takes the lock of the one process that writes.
///
/// # Errors
/// [`Code::Locked`] with the pid of the other one.
pub fn take_lock(data: &DataDir) -> Result<CaLock, Failure> {
    CaLock::acquire(data.path()).map_err(|error| match error {
        LockError::Held { pid } => Failure::new(
            Code::Locked,
            format!("{}: {}", data.path().display(), LockError::Held { pid }),
            match pid {
                Some(pid) => format!("use that one, or stop it first: kill {pid}"),
                None => "use that one, or stop it first".to_owned(),
            },
        ),
        LockError::Io { path, source } => data.unusable("write", &path, &source),
    })
}

/// Says what a key's error means for the operator.
#[must_use]
pub fn keys_failure(error: &KeyError) -> Failure {
    let fix = match error {
        KeyError::WrongPin(_) => {
            "correct the PIN or passphrase file that [keys] names; a token locks itself after a few wrong tries"
        }
        KeyError::Unavailable(_) => {
            "check keys.module and keys.token in chancery.toml, and that the token is plugged in; `softhsm2-util --show-slots` or `pkcs11-tool -L` lists tokens"
        }
        KeyError::NotFound { .. } => "check that [keys] names the backend that this CA was made with",
        KeyError::Exists { .. } => "use an empty token, or another one",
        KeyError::Unsuitable { .. } => "use a token whose keys can't be exported",
        KeyError::Failed(_) => "check the section [keys] in chancery.toml",
    };
    Failure::new(Code::Keys, error, fix)
}
