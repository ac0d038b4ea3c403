//! `up`, `init` and `serve`.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ca_core::issuance::is_loopback_url;
use ca_core::store::Role;
use hsm::BackendKind;
use serde_json::json;

use super::arguments::{Init, KeyBackend, KeyOptions, Serve, Up};
use super::output::Output;
use crate::config::template::{Keys, Purpose};
use crate::config::{Config, LogFormat};
use crate::data::DataDir;
use crate::failure::{Code, Failure};
use crate::listen::sockets::Handed;
use crate::serve::{Plan, Ready};
use crate::{logging, serve as serving, setup};

/// `chancery up`.
pub(super) async fn up(data: &DataDir, up: Up, handed: Handed, output: &Output) -> Result<(), Failure> {
    let keys = keys(up.keys)?;
    let asked_for_token = keys != Keys::Software;
    let first = !data.roots_pem().exists();
    if first {
        logging::start(LogFormat::Auto, "info");
        let init = setup::Init {
            purpose: Purpose::FirstLook,
            public_url: "https://127.0.0.1:8443".to_owned(),
            pki_url: Some("http://127.0.0.1:8080".to_owned()),
            trial: true,
            organisation: up.name,
            keys,
        };
        let software = init.keys == Keys::Software;
        setup::init(data, &init).await?;
        output.say(&format!("A new CA is in {}.", data.path().display()));
        if software {
            output.say(
                "Its keys are encrypted under a random passphrase in the file `passphrase` beside them: that protects\n\
                 copies of the keys, not this disk.",
            );
        }
    }
    let config = Config::load(data)?;
    if asked_for_token && config.keys.backend == BackendKind::Software {
        return Err(Failure::new(
            Code::AlreadyInitialised,
            format!("the CA in {} has its keys in files, not in a token", data.path().display()),
            "leave --key-backend away to go on with it, or choose another directory with --data",
        ));
    }
    logging::start(config.log.format, "info");
    let plan = Plan { data: data.clone(), config: config.clone(), roles: Role::ALL.into(), handed };
    serving::run(plan, |ready| {
        if output.is_json() {
            output.raw(&format!("{}\n", ready.to_json()));
        } else {
            output.raw(&first_steps(ready, config.acme.http01_port));
        }
    })
    .await
}

/// What a newcomer does next, in lines that can be pasted.
fn first_steps(ready: &Ready, http01_port: u16) -> String {
    let Ready { acme_directory, roots_pem, root_sha256, .. } = ready;
    let roots = shell_quoted(&roots_pem.display().to_string());
    format!(
        "
ACME directory  {acme_directory}
root SHA-256    {root_sha256}
roots           {}

Get a first certificate with certbot:

  REQUESTS_CA_BUNDLE={roots} certbot certonly --standalone --http-01-port {http01_port} --server {acme_directory} -d first.localhost --config-dir ./certbot --work-dir ./certbot --logs-dir ./certbot --agree-tos --register-unsafely-without-email -n

or with lego:

  LEGO_CA_CERTIFICATES={roots} lego --server {acme_directory} --email you@example.com --accept-tos --http --http.port :{http01_port} --domains first.localhost --path ./lego run

Ctrl-C stops; `chancery up` goes on with the same CA.
",
        roots_pem.display()
    )
}

/// A word that a POSIX shell takes as it is.
pub(super) fn shell_quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// `chancery init`.
pub(super) async fn init(data: &DataDir, init: Init, output: &Output) -> Result<(), Failure> {
    logging::start(LogFormat::Auto, "warn");
    let init = setup::Init {
        purpose: Purpose::Service,
        public_url: init.public_url,
        pki_url: init.pki_url,
        trial: init.trial,
        organisation: init.name,
        keys: keys(init.keys)?,
    };
    let config = setup::init(data, &init).await?;
    let acme_directory = config.acme_directory()?;
    let urls = config.urls();
    if output.is_json() {
        output.show(&json!({
            "id": data.path(),
            "acme_directory": acme_directory,
            "roots_pem": data.roots_pem(),
            "configuration": data.configuration(),
            "trial": init.trial,
        }));
        return Ok(());
    }
    output.say(&format!("A new CA is in {}.", data.path().display()));
    output.say(&format!("  roots          {}", data.roots_pem().display()));
    output.say(&format!("  ACME directory {acme_directory}"));
    output.say(&format!("  CRLs           {}, OCSP {}", urls.crl, urls.ocsp));
    if init.keys == Keys::Software {
        output.say(&format!(
            "  passphrase     {}: it protects copies of the keys, not this disk; keep a copy of it elsewhere",
            data.passphrase().display()
        ));
    }
    if !init.trial && urls.is_loopback() {
        output.say("Its certificates would carry loopback URLs, so nothing is issued until pki.public_url names a host.");
    }
    output.say(&format!(
        "Next: list the names it may certify under acme.allowed_names in {}, then run\n  chancery --data {data} serve\nand make what each new ACME account is bound to:\n  chancery --data {data} eab create --owner NAME",
        data.configuration().display(),
        data = shell_quoted(&data.path().display().to_string())
    ));
    if is_loopback_url(&init.public_url) && !init.trial {
        output.say("Note: --public-url leads to this machine only.");
    }
    Ok(())
}

/// `chancery serve`.
pub(super) async fn serve(
    data: &DataDir,
    serve: Serve,
    handed: Handed,
    output: &Output,
) -> Result<(), Failure> {
    let config = Config::load(data)?;
    logging::start(config.log.format, "info");
    let roles: BTreeSet<Role> =
        if serve.only.is_empty() { Role::ALL.into() } else { serve.only.into_iter().collect() };
    let plan = Plan { data: data.clone(), config, roles, handed };
    serving::run(plan, |ready| {
        if output.is_json() {
            output.raw(&format!("{}\n", ready.to_json()));
        } else {
            tracing::info!(acme_directory = ready.acme_directory, root_sha256 = ready.root_sha256, "ready");
        }
    })
    .await
}

fn keys(options: KeyOptions) -> Result<Keys, Failure> {
    let needed = |value: Option<PathBuf>, option: &str| {
        value.ok_or_else(|| {
            Failure::new(Code::Usage, format!("--{option} is needed with --key-backend pkcs11"), "see --help")
        })
    };
    match options.key_backend {
        KeyBackend::Software => {
            let given = [
                ("module", options.pkcs11_module.is_some()),
                ("token", options.pkcs11_token.is_some()),
                ("pin-file", options.pkcs11_pin_file.is_some()),
            ];
            match given.into_iter().find(|(_, given)| *given) {
                None => Ok(Keys::Software),
                Some((option, _)) => Err(Failure::new(
                    Code::Usage,
                    format!("--pkcs11-{option} was given without --key-backend pkcs11"),
                    "add --key-backend pkcs11, or leave the options of the token away for keys in files",
                )),
            }
        }
        KeyBackend::Pkcs11 => {
            let pin_file = needed(options.pkcs11_pin_file, "pkcs11-pin-file")?;
            // Relative to where the command was typed, not to the data directory.
            let pin_file = std::path::absolute(&pin_file).map_err(|e| {
                Failure::new(
                    Code::Usage,
                    format!("--pkcs11-pin-file {}: {e}", pin_file.display()),
                    "give an absolute path",
                )
            })?;
            let token = options.pkcs11_token.ok_or_else(|| {
                Failure::new(Code::Usage, "--pkcs11-token is needed with --key-backend pkcs11", "see --help")
            })?;
            let mut module = needed(options.pkcs11_module, "pkcs11-module")?;
            // As with the PIN file; a bare name is looked for where the system keeps its libraries.
            if module.components().count() > 1 {
                module = std::path::absolute(&module).unwrap_or(module);
            }
            Ok(Keys::Pkcs11 { module, token, pin_file })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(shell_quoted("/a/b.pem"), "/a/b.pem");
        assert_eq!(shell_quoted("/a b/it's"), r"'/a b/it'\''s'");
    }
}
