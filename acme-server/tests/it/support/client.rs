//! A small ACME client over the router: it signs what a test wants signed, right or wrong.

use std::fmt;
use std::sync::Mutex;

use axum::Router;
use axum::body::Body;
use http::{HeaderMap, Method, Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::PUBLIC_URL;
use super::key::{Key, base64url};

/// A response.
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    /// The body, if it is JSON.
    pub json: Value,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, String::from_utf8_lossy(&self.body))
    }
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}")).to_str().unwrap()
    }

    pub fn location(&self) -> &str {
        self.header("location")
    }

    /// The URLs of Links with a relation.
    pub fn links(&self, relation: &str) -> Vec<String> {
        let suffix = format!(">;rel=\"{relation}\"");
        let links = self.headers.get_all("link").iter().map(|value| value.to_str().unwrap());
        links.filter_map(|link| Some(link.strip_prefix('<')?.strip_suffix(&suffix)?.to_owned())).collect()
    }

    /// A member that is a list of strings.
    pub fn list(&self, member: &str) -> Vec<String> {
        self.json[member].as_array().unwrap().iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    pub fn text(&self, member: &str) -> &str {
        self.json[member].as_str().unwrap_or_else(|| panic!("no {member} in {self:?}"))
    }

    /// Asserts that this is a problem document of a type, with everything that every one of them has.
    #[track_caller]
    pub fn assert_problem(&self, status: u16, kind: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        assert_eq!(self.json["type"], format!("urn:ietf:params:acme:error:{kind}"), "{self:?}");
        assert_eq!(self.json["status"], status);
        assert!(!self.text("detail").is_empty());
    }

    /// An authorization's challenge of a kind.
    #[track_caller]
    pub fn challenge(&self, kind: &str) -> Value {
        let challenges = self.json["challenges"].as_array().unwrap();
        let found = challenges.iter().find(|challenge| challenge["type"] == kind).cloned();
        found.unwrap_or_else(|| panic!("no {kind} in {self:?}"))
    }
}

/// One client, with or without an account.
pub struct Client {
    router: Router,
    pub key: Key,
    /// The account's URL.
    pub kid: Option<String>,
    pub directory: Value,
    nonces: Mutex<Vec<String>>,
}

/// Sends a request through the router. `url` is absolute.
pub async fn send(router: &Router, method: Method, url: &str, content_type: &str, body: Vec<u8>) -> Answer {
    let path = url.strip_prefix(PUBLIC_URL).unwrap_or(url);
    let mut request = Request::builder().method(method).uri(path).header("host", "elsewhere.test");
    if !content_type.is_empty() {
        request = request.header("content-type", content_type);
    }
    let request = request.header("content-length", body.len()).body(Body::from(body)).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    let json = serde_json::from_slice(&body).unwrap_or_default();
    Answer { status: parts.status.as_u16(), headers: parts.headers, body, json }
}

impl Client {
    pub async fn new(router: Router, key: Key, directory: &str) -> Self {
        let url = format!("{PUBLIC_URL}/acme/{directory}/directory");
        let directory = send(&router, Method::GET, &url, "", Vec::new()).await.json;
        Self { router, key, kid: None, directory, nonces: Mutex::default() }
    }

    /// The same account, seen by a service on another router.
    pub fn on(self, router: Router) -> Self {
        Self { router, nonces: Mutex::default(), ..self }
    }

    pub fn resource(&self, name: &str) -> String {
        self.directory[name].as_str().unwrap().to_owned()
    }

    pub async fn send(&self, method: Method, url: &str, content_type: &str, body: Vec<u8>) -> Answer {
        send(&self.router, method, url, content_type, body).await
    }

    pub async fn get(&self, url: &str) -> Answer {
        self.send(Method::GET, url, "", Vec::new()).await
    }

    /// A fresh nonce: of the response before, or of newNonce.
    pub async fn nonce(&self) -> String {
        let kept = self.nonces.lock().unwrap().pop();
        match kept {
            Some(nonce) => nonce,
            None => {
                let answer = self.send(Method::HEAD, &self.resource("newNonce"), "", Vec::new()).await;
                answer.header("replay-nonce").to_owned()
            }
        }
    }

    /// The protected header that a good client sends.
    pub async fn header(&self, url: &str) -> Value {
        let mut header = json!({"alg": self.key.alg, "nonce": self.nonce().await, "url": url});
        match &self.kid {
            Some(kid) => header["kid"] = json!(kid),
            None => header["jwk"] = self.key.jwk(),
        }
        header
    }

    /// Sends a body as a JWS, whatever it is.
    pub async fn send_jws(&self, url: &str, body: Vec<u8>) -> Answer {
        let answer = self.send(Method::POST, url, "application/jose+json", body).await;
        if let Some(nonce) = answer.headers.get("replay-nonce") {
            self.nonces.lock().unwrap().push(nonce.to_str().unwrap().to_owned());
        }
        answer
    }

    /// Signs with this header and sends.
    pub async fn post_with(&self, url: &str, header: &Value, payload: &[u8]) -> Answer {
        self.send_jws(url, self.key.jws(header, payload).to_string().into_bytes()).await
    }

    pub async fn post(&self, url: &str, payload: &Value) -> Answer {
        self.post_with(url, &self.header(url).await, payload.to_string().as_bytes()).await
    }

    /// POST-as-GET.
    pub async fn read(&self, url: &str) -> Answer {
        self.post_with(url, &self.header(url).await, b"").await
    }

    pub async fn register(&mut self) -> Answer {
        let url = self.resource("newAccount");
        let answer = self.post(&url, &json!({"termsOfServiceAgreed": true})).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        self.kid = Some(answer.location().to_owned());
        answer
    }

    pub async fn new_order(&self, names: &[&str]) -> Answer {
        self.post(&self.resource("newOrder"), &json!({"identifiers": identifiers(names)})).await
    }

    pub async fn finalize(&self, order: &Answer, csr: &[u8]) -> Answer {
        self.post(order.text("finalize"), &json!({"csr": base64url(csr)})).await
    }

    pub async fn revoke(&self, certificate: &[u8], reason: Option<i64>) -> Answer {
        let mut payload = json!({"certificate": base64url(certificate)});
        if let Some(reason) = reason {
            payload["reason"] = json!(reason);
        }
        self.post(&self.resource("revokeCert"), &payload).await
    }
}

/// ACME identifiers of names and addresses.
pub fn identifiers(names: &[&str]) -> Value {
    let identifier = |name: &&str| {
        let kind = if name.parse::<std::net::IpAddr>().is_ok() { "ip" } else { "dns" };
        json!({"type": kind, "value": name})
    };
    names.iter().map(identifier).collect()
}

/// The certificates of a PEM chain in DER.
pub fn from_pem(text: &[u8]) -> Vec<Vec<u8>> {
    let text = std::str::from_utf8(text).unwrap();
    let blocks = text.split_inclusive("-----END CERTIFICATE-----\n");
    blocks.map(|block| der::pem::decode_vec(block.as_bytes()).unwrap().1).collect()
}
