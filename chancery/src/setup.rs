//! Making a CA: the data directory, its configuration, keys, root and issuing CA; and opening what was made.

use std::net::{Ipv4Addr, TcpListener};

use ca_core::audit::Actor;
use ca_core::authority::{Authority, AuthorityError, NewCa};
use ca_core::id::to_hex;
use ca_core::pkix::name::{MAX_ATTRIBUTE, distinguished_name};
use ca_core::signing::{KeyAlgorithm, KeyError};
use ca_core::store::{IssuerKind, IssuerRecord, Store};
use store::lock::{CaLock, LockError};

use crate::admin::execute::{authority_failure, store_failure};
use crate::admin::views::pem;
use crate::config::template::{Keys, Purpose, Template};
use crate::config::{Config, environment, host};
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::open;

/// Over how many CRL shards a new issuing CA spreads its certificates.
pub(crate) const SHARDS: u32 = 16;
/// What a CA's commonName adds to the organisation, at its longest: the identifier is that of its key.
const LONGEST_SUFFIX: &str = " Issuing CA 00000000";
/// Where ACME clients answer http-01 and tls-alpn-01 (RFC 8555 §8.3, RFC 8737 §3).
const USUAL_PORTS: (u16, u16) = (80, 443);
/// Where clients of any user can answer.
const FREE_PORTS: (u16, u16) = (5002, 5001);

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
    let renderings = renderings(data, init)?;
    data.create()?;
    let lock = take_lock(data)?;
    settle_configuration(data, &renderings)?;
    let config = Config::load(data)?;
    if init.keys == Keys::Software && !data.passphrase().exists() {
        hsm::create_passphrase_file(&data.passphrase()).map_err(|e| keys_failure(&e))?;
    }
    let opened = open::authority(data, &config, lock, &open::Instruments::default()).await?;
    create_hierarchy(data, &opened.authority, &*opened.store, init).await?;
    opened.store.close().await;
    Ok(config)
}

/// Checks every option, so that what is wrong on the command line is said before anything is written, and gives the
/// configurations that these options can make: the one to write first.
fn renderings(data: &DataDir, init: &Init) -> Result<Vec<String>, Failure> {
    check_organisation(&init.organisation)?;
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
    let mut ports = vec![USUAL_PORTS];
    if init.purpose == Purpose::FirstLook {
        ports.push(FREE_PORTS);
        if first_look_ports() == FREE_PORTS {
            ports.reverse();
        }
    }
    let render = |(http01_port, tls_alpn01_port)| {
        Template {
            purpose: init.purpose,
            acme_url: init.public_url.trim_end_matches('/').to_owned(),
            pki_url: pki_url.trim_end_matches('/').to_owned(),
            http01_port,
            tls_alpn01_port,
            keys: init.keys.clone(),
        }
        .render()
    };
    let texts: Vec<String> = ports.into_iter().map(render).collect();
    for text in &texts {
        Config::parse("the new chancery.toml", text, []).and_then(|config| config.acme_directory()).map_err(
            |failure| Failure { fix: "correct the option on the command line".to_owned(), ..failure },
        )?;
        // The variables that will override it, too.
        Config::parse("the new chancery.toml", text, environment()?)?;
    }
    check_token(data, &init.keys)?;
    Ok(texts)
}

/// Checks that an organisation's name can stand in a CA's name.
///
/// # Errors
/// [`Code::Usage`] if it is too long, empty or holds control characters.
pub(crate) fn check_organisation(name: &str) -> Result<(), Failure> {
    let common_name = format!("{name}{LONGEST_SUFFIX}");
    distinguished_name(Some(name), Some(&common_name)).map(drop).map_err(|_| {
        let most = MAX_ATTRIBUTE - LONGEST_SUFFIX.len();
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        Failure::new(
            Code::Usage,
            format!("--name '{shown}' can't stand in a CA's name"),
            format!("give 1 to {most} characters, none of them a control character"),
        )
    })
}

/// Checks what can be known of a token without logging in to it.
fn check_token(data: &DataDir, keys: &Keys) -> Result<(), Failure> {
    let Keys::Pkcs11 { module, token, pin_file } = keys else { return Ok(()) };
    if token.is_empty() {
        return Err(Failure::new(
            Code::Usage,
            "--pkcs11-token is empty",
            "give the token's label; `pkcs11-tool -L` lists tokens",
        ));
    }
    // A bare file name is looked for where the system keeps its libraries.
    if module.components().count() > 1
        && let Err(error) = std::fs::metadata(module)
    {
        let missing = KeyError::Unavailable(format!("the module {}: {error}", module.display()));
        return Err(Failure {
            fix: "give the path of the module's shared library with --pkcs11-module".to_owned(),
            ..keys_failure(&missing)
        });
    }
    hsm::read_secret_file(pin_file, data.path()).map(drop).map_err(|error| keys_failure(&error))
}

/// Writes the configuration, or leaves the one that an interrupted attempt with the same options wrote.
fn settle_configuration(data: &DataDir, renderings: &[String]) -> Result<(), Failure> {
    let path = data.configuration();
    match std::fs::read_to_string(&path) {
        Ok(there) if renderings.contains(&there) => return Ok(()),
        // No key and no certificate was made after it; only what somebody edited is worth keeping.
        Ok(there) if !data.has_store() && Template::read(&there).is_some() => {}
        Ok(_) => return Err(half_made(data)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(data.unusable("read", &path, &e)),
    }
    match renderings.first() {
        Some(text) => data.write_shared(&path, text.as_bytes()),
        None => Ok(()),
    }
}

fn half_made(data: &DataDir) -> Failure {
    Failure::new(
        Code::AlreadyInitialised,
        format!(
            "an interrupted init left a CA half made with other options, or an edited chancery.toml, in {}",
            data.path().display()
        ),
        format!("repeat it with the same options, or remove {}", data.path().display()),
    )
}

/// The usual ports if this user's ACME clients can listen on them, else two that anybody can.
fn first_look_ports() -> (u16, u16) {
    let free = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    if free(USUAL_PORTS.0) && free(USUAL_PORTS.1) { USUAL_PORTS } else { FREE_PORTS }
}

async fn create_hierarchy(
    data: &DataDir,
    authority: &Authority,
    store: &dyn Store,
    init: &Init,
) -> Result<(), Failure> {
    let issuers = store.issuers().await.map_err(store_failure)?;
    let organisation = distinguished_name(Some(&init.organisation), None)
        .map_err(|e| Failure::new(Code::Usage, e, "give another --name"))?;
    let ending = format!(",{organisation}");
    if issuers.iter().any(|made| made.trial != init.trial || !made.subject_text.ends_with(&ending)) {
        return Err(half_made(data));
    }
    let algorithm = KeyAlgorithm::EcP256;
    let new = NewCa {
        organisation: init.organisation.clone(),
        key_algorithm: algorithm,
        signature_algorithm: algorithm.default_signature(),
        trial: init.trial,
        shards: SHARDS,
        actor: Actor::Authority,
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
    let code = if matches!(error, KeyError::WrongPin(_)) { Code::Pin } else { Code::Keys };
    Failure::new(code, error, fix)
}
