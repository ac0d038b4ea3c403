//! An ACME client (RFC 8555) that takes one step at a time, so that tests can do what real clients never do: stop between
//! any two steps, and send what is wrong. ES256 accounts; one connection a request.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::http::{self, Response};
use crate::{eventually, pem};

/// The media type of JWS in ACME.
pub const JOSE: &str = "application/jose+json";

/// How long any one answer may take; the server's own limit is 30 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(40);
/// How long an order or authorization may take to be decided.
const DECIDED_WITHIN: Duration = Duration::from_secs(40);

/// HTTPS to one server, whose certificate some roots vouch for.
#[derive(Clone, Debug)]
pub struct Https {
    address: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Https {
    /// To the server of this `https://ADDRESS:PORT/…` URL, whose certificate these roots (PEM) vouch for.
    ///
    /// # Errors
    /// If the URL has no address, or the file no roots.
    pub fn new(url: &str, roots: &Path) -> Result<Self> {
        let host = url.strip_prefix("https://").and_then(|rest| rest.split('/').next());
        let address = host.with_context(|| format!("{url} is not an https URL"))?.parse()?;
        let mut store = RootCertStore::empty();
        for der in pem::decode(&std::fs::read_to_string(roots)?, "CERTIFICATE")? {
            store.add(CertificateDer::from(der))?;
        }
        let config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
        Ok(Self { address, config: Arc::new(config) })
    }

    /// A connection after the TLS handshake, for a test to write on what it likes.
    ///
    /// # Errors
    /// If there is none.
    pub fn connect(&self) -> Result<StreamOwned<ClientConnection, TcpStream>> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(ANSWER_WITHIN))?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let mut tls = StreamOwned::new(ClientConnection::new(Arc::clone(&self.config), name)?, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(tls)
    }

    /// Sends one request with these header fields and reads the answer to its end.
    ///
    /// # Errors
    /// If the connection fails or the answer is not HTTP; any status code is a response.
    pub fn request(
        &self,
        method: &str,
        url: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response> {
        let prefix = format!("https://{}", self.address);
        let path = url.strip_prefix(&prefix).with_context(|| format!("{url} is not on this server"))?;
        let exchange = || -> Result<Vec<u8>> {
            let mut tls = self.connect()?;
            tls.write_all(
                http::head(method, path, &self.address.to_string(), headers, body.len()).as_bytes(),
            )?;
            // A server may refuse a body that is too large before it has read all of it.
            match tls.write_all(body).and_then(|()| tls.flush()) {
                Err(error) if !matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                    return Err(error.into());
                }
                _ => {}
            }
            let mut answer = Vec::new();
            match tls.read_to_end(&mut answer) {
                // Without close_notify: whether the body is whole, its length says.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof && !answer.is_empty() => {}
                // The rest of a body that the server did not want, as above.
                Err(error) if error.kind() == ErrorKind::ConnectionReset && !answer.is_empty() => {}
                Err(error) => return Err(error.into()),
                Ok(_) => {}
            }
            Ok(answer)
        };
        let answer = exchange().with_context(|| format!("{method} {url}"))?;
        http::parse(&answer)
            .with_context(|| format!("{method} {url}: {:?}", String::from_utf8_lossy(&answer)))
    }
}

/// A key of an account, on P-256.
#[derive(Debug)]
pub struct Key(EcdsaKeyPair);

impl Key {
    /// A new one.
    ///
    /// # Errors
    /// If the machine has no randomness.
    pub fn generate() -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).context("no key")?;
        Ok(Self(pair))
    }

    /// The public key as JWK (RFC 7517), its members in the order of a thumbprint.
    #[must_use]
    pub fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({ "crv": "P-256", "kty": "EC", "x": base64url(x), "y": base64url(y) })
    }

    /// RFC 7638.
    #[must_use]
    pub fn thumbprint(&self) -> String {
        // serde_json writes members in alphabetical order, as RFC 7638 wants them.
        base64url(digest(&SHA256, self.jwk().to_string().as_bytes()).as_ref())
    }

    /// A flattened JWS with this protected header over this payload.
    ///
    /// # Errors
    /// If signing fails.
    pub fn sign(&self, protected: &Value, payload: &str) -> Result<Value> {
        let (protected, payload) =
            (base64url(protected.to_string().as_bytes()), base64url(payload.as_bytes()));
        let signature = self.0.sign(&SystemRandom::new(), format!("{protected}.{payload}").as_bytes());
        let signature = base64url(signature.context("cannot sign")?.as_ref());
        Ok(json!({ "protected": protected, "payload": payload, "signature": signature }))
    }
}

/// An account at one ACME directory.
#[derive(Debug)]
pub struct Client {
    /// The directory object.
    pub directory: Value,
    /// HTTPS to the server.
    pub https: Https,
    /// The account's key.
    pub key: Key,
    account: Mutex<Option<String>>,
    nonce: Mutex<Option<String>>,
}

/// An order as the client knows it.
#[derive(Clone, Debug)]
pub struct Order {
    /// Its URL.
    pub url: String,
    /// The order object, as last seen.
    pub body: Value,
}

/// A challenge that can be met.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// Its URL.
    pub url: String,
    /// The identifier's value, without a wildcard's asterisk.
    pub name: String,
    /// Its token.
    pub token: String,
    /// RFC 8555 §8.1.
    pub key_authorization: String,
}

impl Challenge {
    /// What the TXT record of dns-01 must say, RFC 8555 §8.4.
    #[must_use]
    pub fn dns_value(&self) -> String {
        base64url(digest(&SHA256, self.key_authorization.as_bytes()).as_ref())
    }
}

impl Client {
    /// Reads the directory; there is no account yet.
    ///
    /// # Errors
    /// If that fails.
    pub fn new(directory_url: &str, roots: &Path) -> Result<Self> {
        let https = Https::new(directory_url, roots)?;
        let response = https.request("GET", directory_url, &[], &[])?;
        let directory = body(&response, 200)?;
        let (key, account, nonce) = (Key::generate()?, Mutex::default(), Mutex::default());
        Ok(Self { directory, https, key, account, nonce })
    }

    /// Reads the directory and makes an account.
    ///
    /// # Errors
    /// If that fails.
    pub fn registered(directory_url: &str, roots: &Path) -> Result<Self> {
        let client = Self::new(directory_url, roots)?;
        client.register()?;
        Ok(client)
    }

    /// newAccount; the account that the key has is found again.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn register(&self) -> Result<()> {
        let payload = json!({ "termsOfServiceAgreed": true, "contact": ["mailto:operator@example.com"] });
        let response = self.post(&self.resource("newAccount")?, &payload.to_string())?;
        if response.status != 200 {
            body(&response, 201)?;
        }
        let url = response.header("location").context("no Location")?.to_owned();
        *self.account.lock().unwrap_or_else(PoisonError::into_inner) = Some(url);
        Ok(())
    }

    /// The account's URL, once there is one.
    #[must_use]
    pub fn account(&self) -> Option<String> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// newOrder for identifiers by type and value.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn order(&self, identifiers: &[(&str, &str)]) -> Result<Order> {
        let list: Vec<_> =
            identifiers.iter().map(|(kind, value)| json!({ "type": kind, "value": value })).collect();
        let payload = json!({ "identifiers": list });
        let response = self.post(&self.resource("newOrder")?, &payload.to_string())?;
        let url = response.header("location").map(str::to_owned);
        let body = body(&response, 201)?;
        Ok(Order { url: url.context("no Location")?, body })
    }

    /// The challenges of this type, one for each open authorization of the order.
    ///
    /// # Errors
    /// If an authorization can't be read or offers none.
    pub fn challenges(&self, order: &Order, kind: &str) -> Result<Vec<Challenge>> {
        let mut challenges = Vec::new();
        for url in order.body["authorizations"].as_array().context("no authorizations")? {
            let authorization = self.read(text(url)?)?;
            if authorization["status"] != "pending" {
                continue;
            }
            let offered = authorization["challenges"].as_array().context("no challenges")?;
            let found = offered.iter().find(|challenge| challenge["type"] == kind);
            let challenge = found.with_context(|| format!("no {kind} in {authorization}"))?;
            let token = text(&challenge["token"])?.to_owned();
            challenges.push(Challenge {
                url: text(&challenge["url"])?.to_owned(),
                name: text(&authorization["identifier"]["value"])?.to_owned(),
                key_authorization: format!("{token}.{}", self.key.thumbprint()),
                token,
            });
        }
        Ok(challenges)
    }

    /// Says that a challenge can be looked at now.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn respond(&self, challenge: &Challenge) -> Result<Value> {
        body(&self.post(&challenge.url, "{}")?, 200)
    }

    /// finalize with this CSR (DER).
    ///
    /// # Errors
    /// If the server refuses; the order is as it was then.
    pub fn finalize(&self, order: &Order, csr: &[u8]) -> Result<Value> {
        let payload = json!({ "csr": base64url(csr) });
        body(&self.post(text(&order.body["finalize"])?, &payload.to_string())?, 200)
    }

    /// Reads the order until it is in one of these states.
    ///
    /// # Errors
    /// If it becomes invalid, or that takes too long.
    pub fn settled(&self, order: &Order, states: &[&str]) -> Result<Order> {
        let settled = eventually(&format!("{} to be {states:?}", order.url), DECIDED_WITHIN, || {
            let body = self.read(&order.url)?;
            let status = text(&body["status"])?;
            Ok((status == "invalid" || states.contains(&status)).then_some(body))
        })?;
        if settled["status"] == "invalid" && !states.contains(&"invalid") {
            bail!("the order became invalid: {settled}");
        }
        Ok(Order { url: order.url.clone(), body: settled })
    }

    /// The certificate of a valid order with its chain, DER, the end-entity certificate first.
    ///
    /// # Errors
    /// If it can't be downloaded.
    pub fn download(&self, order: &Order) -> Result<Vec<Vec<u8>>> {
        let response = self.post(text(&order.body["certificate"])?, "")?;
        if response.status != 200 {
            bail!("download answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
        }
        pem::decode(std::str::from_utf8(&response.body)?, "CERTIFICATE")
    }

    /// revokeCert by the account's key.
    ///
    /// # Errors
    /// If the server refuses.
    pub fn revoke(&self, certificate: &[u8], reason: u8) -> Result<()> {
        let payload = json!({ "certificate": base64url(certificate), "reason": reason });
        let response = self.post(&self.resource("revokeCert")?, &payload.to_string())?;
        if response.status != 200 {
            bail!("revokeCert answered {}: {}", response.status, String::from_utf8_lossy(&response.body));
        }
        Ok(())
    }

    /// POST-as-GET of an object.
    ///
    /// # Errors
    /// If the answer has another status than 200.
    pub fn read(&self, url: &str) -> Result<Value> {
        body(&self.post(url, "")?, 200)
    }

    /// Posts a payload, signed by the account's key: an empty one is POST-as-GET. A nonce that was refused is replaced
    /// once, as after a restart of the server.
    ///
    /// # Errors
    /// If there is no answer; any status code is a response.
    pub fn post(&self, url: &str, payload: &str) -> Result<Response> {
        let mut tries = 0;
        loop {
            let protected = self.protected(url)?;
            let jws = self.key.sign(&protected, payload)?.to_string();
            let response = self.post_raw(url, JOSE, jws.as_bytes())?;
            tries += 1;
            if tries > 2 || kind(&response) != Some("badNonce".to_owned()) {
                return Ok(response);
            }
        }
    }

    /// The protected header that a right request to this URL has, with a fresh nonce.
    ///
    /// # Errors
    /// If there is no nonce to be had.
    pub fn protected(&self, url: &str) -> Result<Value> {
        let kept = self.nonce.lock().unwrap_or_else(PoisonError::into_inner).take();
        let nonce = match kept {
            Some(nonce) => nonce,
            None => {
                let response = self.https.request("HEAD", &self.resource("newNonce")?, &[], &[])?;
                response.header("replay-nonce").context("no Replay-Nonce")?.to_owned()
            }
        };
        // newAccount is signed by the key itself, RFC 8555 §6.2; so is everything while there is no account.
        let by_account = self.directory["newAccount"] != *url;
        Ok(match self.account().filter(|_| by_account) {
            Some(account) => json!({ "alg": "ES256", "kid": account, "nonce": nonce, "url": url }),
            None => json!({ "alg": "ES256", "jwk": self.key.jwk(), "nonce": nonce, "url": url }),
        })
    }

    /// Posts any bytes; keeps the nonce that comes back.
    ///
    /// # Errors
    /// If there is no answer; any status code is a response.
    pub fn post_raw(&self, url: &str, content_type: &str, bytes: &[u8]) -> Result<Response> {
        let response = self.https.request("POST", url, &[("Content-Type", content_type)], bytes)?;
        if let Some(nonce) = response.header("replay-nonce") {
            *self.nonce.lock().unwrap_or_else(PoisonError::into_inner) = Some(nonce.to_owned());
        }
        Ok(response)
    }

    /// A URL of the directory.
    ///
    /// # Errors
    /// If it has none of that name.
    pub fn resource(&self, name: &str) -> Result<String> {
        Ok(text(&self.directory[name]).with_context(|| format!("the directory has no {name}"))?.to_owned())
    }
}

/// The ACME error type of a problem document, without its prefix; `None` for anything else.
#[must_use]
pub fn kind(response: &Response) -> Option<String> {
    if response.header("content-type") != Some("application/problem+json") {
        return None;
    }
    let problem: Value = serde_json::from_slice(&response.body).ok()?;
    Some(problem["type"].as_str()?.strip_prefix("urn:ietf:params:acme:error:")?.to_owned())
}

/// The JSON of a response that must have this status.
///
/// # Errors
/// If it has another one; the error quotes the body.
pub fn body(response: &Response, status: u16) -> Result<Value> {
    let shown = String::from_utf8_lossy(&response.body);
    if response.status != status {
        bail!("status {} instead of {status}: {shown}", response.status);
    }
    serde_json::from_slice(&response.body).with_context(|| format!("not JSON: {shown}"))
}

/// A CSR (DER) for these names or addresses, with a new P-256 key; the key in PEM.
///
/// # Errors
/// If a name can't stand in one.
pub fn csr(names: &[&str]) -> Result<(Vec<u8>, String)> {
    let key = rcgen::KeyPair::generate()?;
    let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut parameters = rcgen::CertificateParams::new(names)?;
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    Ok((parameters.serialize_request(&key)?.der().to_vec(), key.serialize_pem()))
}

/// RFC 7515's base64url, without padding.
#[must_use]
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn text(value: &Value) -> Result<&str> {
    value.as_str().with_context(|| format!("text expected, found {value}"))
}
