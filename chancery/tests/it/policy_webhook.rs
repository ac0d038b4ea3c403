//! The policy webhook against real HTTPS servers on loopback, honest and otherwise, and as the program wires it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::hmac;
use ca_core::id::{AccountId, OrderId, to_hex};
use ca_core::pkix::identifier::Identifier;
use ca_core::policy_hook::{HookFailure, OnFailure, OrderFacts, PolicyHook, RefusalKind, Verdict};
use ca_core::profile::ValidityPeriod;
use ca_core::random::SystemRandom;
use ca_core::time::{Clock, SystemClock, Timestamp};
use chancery::config::Config;
use chancery::policy_hook::{PolicyMetrics, Webhook, WebhookConfig};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use rcgen::{CertificateParams, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Site, binary, field, text};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

/// A question as it arrived.
struct Question {
    head: String,
    body: Vec<u8>,
    /// The MAC in its Chancery-Signature.
    mac: String,
}

/// What a service does with a question.
enum Reply {
    /// Answers as the documentation asks.
    Signed(Value),
    /// Sends these octets.
    Raw(Vec<u8>),
    /// Never answers.
    Nothing,
}

type Behaviour = dyn Fn(&Question) -> Reply + Send + Sync;

/// What a forger sends in answer to a question.
type Forgery = Box<dyn Fn(&Question) -> Vec<u8> + Send + Sync>;

/// A policy service on loopback.
struct Service {
    address: SocketAddr,
    directory: TempDir,
    tls: bool,
    _task: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self._task.abort();
    }
}

fn mac(input: &[u8]) -> String {
    to_hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes()), input).as_ref())
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn signed_at(question: &Question, body: &[u8], seconds: i64) -> Vec<u8> {
    let input = [format!("response\n{seconds}\n{}\n", question.mac).as_bytes(), body].concat();
    answer("200 OK", &format!("chancery-signature: t={seconds},v1={}\r\n", mac(&input)), body)
}

fn signed(question: &Question, body: &[u8]) -> Vec<u8> {
    signed_at(question, body, SystemClock.now().as_millis() / 1000)
}

async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin, behaviour: &Behaviour) -> Option<()> {
    let mut received = Vec::new();
    let end = loop {
        if let Some(end) = received.windows(4).position(|octets| octets == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut received).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(received[..end].to_vec()).unwrap().to_ascii_lowercase();
    let field = |name: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {name} in {head}")).to_owned()
    };
    let length: usize = field("content-length").parse().unwrap();
    while received.len() < end + length {
        stream.read_buf(&mut received).await.ok()?;
    }
    let body = received[end..].to_vec();
    let signature = field("chancery-signature");
    let (seconds, claimed) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
    assert_eq!(claimed, mac(&[format!("request\n{seconds}\n").as_bytes(), &body].concat()));
    let question = Question { mac: claimed.to_owned(), head, body };
    match behaviour(&question) {
        Reply::Signed(value) => {
            stream.write_all(&signed(&question, value.to_string().as_bytes())).await.ok()?
        }
        Reply::Raw(octets) => stream.write_all(&octets).await.ok()?,
        Reply::Nothing => {
            // Until the other side gives up.
            let _ = stream.read_buf(&mut Vec::new()).await;
        }
    }
    stream.shutdown().await.ok()
}

impl Service {
    async fn start(tls: bool, behaviour: impl Fn(&Question) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        fs::write(directory.path().join("roots.pem"), certificate.pem()).unwrap();
        write_secret(&directory.path().join("secret"), SECRET);
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            )
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let behaviour: Arc<Behaviour> = Arc::new(behaviour);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, behaviour) = (acceptor.clone(), Arc::clone(&behaviour));
                tokio::spawn(async move {
                    if !tls {
                        return serve(stream, &*behaviour).await;
                    }
                    serve(acceptor.accept(stream).await.ok()?, &*behaviour).await
                });
            }
        });
        Self { address, directory, tls, _task: task }
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}/judge?site=1", self.address)
    }

    fn config(&self, more: &str) -> WebhookConfig {
        let text = format!(
            "[policy.webhook]\nurl = '{}'\nsecret_file = 'secret'\nroots_file = 'roots.pem'\n{more}",
            self.url()
        );
        Config::parse("chancery.toml", &text, []).unwrap().policy.webhook.unwrap()
    }

    fn hook(&self, more: &str) -> (Webhook, PolicyMetrics) {
        let metrics = PolicyMetrics::default();
        let config = self.config(more);
        let hook = Webhook::open(&config, self.directory.path(), Arc::new(SystemClock), metrics.clone());
        (hook.unwrap(), metrics)
    }
}

fn write_secret(path: &Path, secret: &str) {
    fs::write(path, secret).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn facts() -> OrderFacts {
    let now = SystemClock.now().whole_seconds();
    OrderFacts {
        order: OrderId::generate(now, &mut SystemRandom),
        account: AccountId::generate(now, &mut SystemRandom),
        external_account: None,
        directory: "default".to_owned().try_into().unwrap(),
        profile: "tls-server".to_owned().try_into().unwrap(),
        issuer: "issuing-1".parse().unwrap(),
        subject: "CN=www.example.org".to_owned(),
        names: ["www.example.org", "192.0.2.1"].map(|name| Identifier::from_text(name).unwrap()).to_vec(),
        key: ca_core::pkix::public_key::KeyHash([7; 32]),
        key_algorithm: "EC P-256".to_owned(),
        validity: ValidityPeriod { not_before: now, not_after: now.plus(Duration::from_secs(86_399)) },
        replaces: None,
    }
}

fn shown(metrics: &PolicyMetrics) -> String {
    let mut registry = Registry::with_prefix("chancery");
    metrics.register(&mut registry);
    let mut text = String::new();
    encode(&mut text, &registry).unwrap();
    text
}

/// What a service that behaves so is taken to say.
async fn judged(
    more: &str,
    behaviour: impl Fn(&Question) -> Reply + Send + Sync + 'static,
) -> Result<Verdict, HookFailure> {
    let service = Service::start(true, behaviour).await;
    let (hook, metrics) = service.hook(more);
    let verdict = hook.judge(&facts()).await;
    let text = shown(&metrics);
    let name = verdict.as_ref().map_or("none", Verdict::name);
    assert!(text.contains(&format!("chancery_policy_calls_total{{verdict=\"{name}\"}} 1\n")), "{text}");
    assert!(text.contains("chancery_policy_call_seconds_count 1\n"), "{text}");
    if let Err(failure) = &verdict {
        let line = format!("chancery_policy_failures_total{{reason=\"{}\"}} 1\n", failure.name());
        assert!(text.contains(&line), "{text}");
    }
    verdict
}

#[tokio::test]
async fn the_question_says_what_is_to_be_signed_and_a_signed_answer_is_followed() {
    let seen: Arc<Mutex<Option<Value>>> = Arc::default();
    let kept = Arc::clone(&seen);
    let service = Service::start(true, move |question| {
        assert!(question.head.starts_with("post /judge?site=1 http/1.1\r\n"), "{}", question.head);
        *kept.lock().unwrap() = Some(serde_json::from_slice(&question.body).unwrap());
        Reply::Signed(json!({
            "verdict": "allow", "owner": "web team", "labels": {"cost-centre": "4711"}, "validity_seconds": 3600,
        }))
    })
    .await;
    let (hook, _) = service.hook("");
    let facts = facts();
    let Ok(Verdict::Allow(enrichment)) = hook.judge(&facts).await else { panic!("not allowed") };
    assert_eq!(enrichment.lifetime, Some(Duration::from_secs(3600)));
    assert_eq!(enrichment.annotations.owner.unwrap().as_str(), "web team");
    assert_eq!(enrichment.annotations.labels.as_map()["cost-centre"], "4711");
    let question = seen.lock().unwrap().take().unwrap();
    assert_eq!(question["id"], facts.order.to_string());
    assert_eq!(
        question["identifiers"],
        json!([{"type": "dns", "value": "www.example.org"}, {"type": "ip", "value": "192.0.2.1"}])
    );
    assert_eq!(question["validity_seconds"], 86_400);
    assert_eq!(question["key_sha256"], json!(facts.key));
    assert_eq!(question["external_account"], Value::Null);
}

#[tokio::test]
async fn a_refusal_is_taken_with_its_words() {
    let refused = judged("", |_| {
        Reply::Signed(json!({"verdict": "refuse", "type": "rejectedIdentifier", "detail": "not yours"}))
    });
    let Ok(Verdict::Refuse { kind, detail }) = refused.await else { panic!("not refused") };
    assert_eq!((kind, detail.as_str()), (RefusalKind::RejectedIdentifier, "not yours"));
}

#[tokio::test]
async fn only_an_answer_to_this_very_question_by_the_holder_of_the_secret_is_believed() {
    const ALLOW: &[u8] = br#"{"verdict":"allow"}"#;
    let other = Question { head: String::new(), body: Vec::new(), mac: mac(b"another question") };
    let forged: [Forgery; 6] = [
        Box::new(|_| answer("200 OK", "", ALLOW)),
        Box::new(|_| answer("200 OK", "chancery-signature: t=1,v1=00\r\n", ALLOW)),
        Box::new(|_| answer("200 OK", &format!("chancery-signature: t=1,v1={}\r\n", mac(ALLOW)), ALLOW)),
        // What was once said of another order, word for word.
        Box::new(move |_| signed(&other, ALLOW)),
        // The question itself, thrown back.
        Box::new(|question| {
            let seconds = question.head.split("t=").nth(1).unwrap().split(',').next().unwrap().to_owned();
            let header = format!("chancery-signature: t={seconds},v1={}\r\n", question.mac);
            answer("200 OK", &header, &question.body)
        }),
        // Two signatures, of which one is right.
        Box::new(|question| {
            let whole = String::from_utf8(signed(question, ALLOW)).unwrap();
            whole.replacen("\r\n\r\n", "\r\nchancery-signature: t=1,v1=00\r\n\r\n", 1).into()
        }),
    ];
    for (index, forgery) in forged.into_iter().enumerate() {
        let verdict = judged("", move |question| Reply::Raw(forgery(question))).await;
        assert!(matches!(verdict, Err(HookFailure::Signature(_))), "{index}: {verdict:?}");
    }
    // The service's clock is its own affair: the question, which is signed too, says when.
    let verdict = judged("", |question| Reply::Raw(signed_at(question, ALLOW, 1))).await;
    assert!(matches!(verdict, Ok(Verdict::Allow(_))), "{verdict:?}");
}

#[tokio::test]
async fn a_slow_service_is_given_up_on() {
    let verdict = judged("timeout_milliseconds = 100", |_| Reply::Nothing).await;
    assert_eq!(verdict, Err(HookFailure::Timeout(Duration::from_millis(100))));
}

#[tokio::test]
async fn redirects_and_errors_are_no_verdicts_even_if_they_are_signed() {
    for status in
        ["301 Moved Permanently", "307 Temporary Redirect", "403 Forbidden", "503 Unavailable", "204 No"]
    {
        let verdict = judged("", move |question| {
            let whole = String::from_utf8(signed(question, br#"{"verdict":"allow"}"#)).unwrap();
            let head = format!("{status}\r\nlocation: https://127.0.0.1:1/");
            Reply::Raw(whole.replacen("200 OK", &head, 1).into())
        });
        let number = status.split(' ').next().unwrap().parse().unwrap();
        assert_eq!(verdict.await, Err(HookFailure::Status(number)));
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_or_never_ends_is_not_read_to_the_end() {
    let verdict = judged("", |question| {
        let body = format!("{{\"verdict\":\"allow\"{}}}", " ".repeat(64 * 1024));
        Reply::Raw(signed(question, body.as_bytes()))
    });
    let verdict = verdict.await;
    assert!(matches!(&verdict, Err(HookFailure::Answer(why)) if why.contains("65536")), "{verdict:?}");
    let chunks = "8000\r\n".to_owned() + &"x".repeat(0x8000) + "\r\n";
    let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned() + &chunks.repeat(64);
    let verdict = judged("", move |_| Reply::Raw(endless.clone().into())).await;
    assert!(matches!(verdict, Err(HookFailure::Answer(_))), "{verdict:?}");
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "x".repeat(64 * 1024));
    let verdict = judged("", move |_| Reply::Raw(head.clone().into())).await;
    assert!(matches!(verdict, Err(HookFailure::Connection(_))), "{verdict:?}");
}

#[tokio::test]
async fn an_answer_that_asks_for_more_than_policy_can_give_is_no_verdict() {
    for bad in [
        json!({"verdict": "allow", "validity_seconds": 86_401}),
        json!({"verdict": "allow", "names": ["other.example"]}),
        json!({"verdict": "perhaps"}),
        json!("allow"),
    ] {
        let verdict = judged("", move |_| Reply::Signed(bad.clone())).await;
        assert!(matches!(verdict, Err(HookFailure::Answer(_))), "{verdict:?}");
    }
}

#[tokio::test]
async fn a_service_that_the_roots_do_not_vouch_for_is_asked_nothing() {
    let service = Service::start(true, |_| panic!("it was asked")).await;
    let other = Service::start(true, |_| Reply::Nothing).await;
    fs::copy(other.directory.path().join("roots.pem"), service.directory.path().join("roots.pem")).unwrap();
    let (hook, metrics) = service.hook("");
    let verdict = hook.judge(&facts()).await;
    assert!(matches!(verdict, Err(HookFailure::Tls(_))), "{verdict:?}");
    assert!(matches!(hook.reach().await, Err(HookFailure::Tls(_))));
    assert!(shown(&metrics).contains("chancery_policy_failures_total{reason=\"tls\"} 1\n"));
}

#[tokio::test]
async fn an_address_that_egress_forbids_is_not_connected_to() {
    let verdict = judged("deny_networks = ['127.0.0.0/8']", |_| panic!("it was asked")).await;
    assert!(matches!(&verdict, Err(HookFailure::Connection(why)) if why.contains("denied")), "{verdict:?}");
    let verdict = judged("allow_networks = []", |_| panic!("it was asked")).await;
    assert!(matches!(&verdict, Err(HookFailure::Connection(why)) if why.contains("global")), "{verdict:?}");
}

#[test]
fn what_can_not_be_meant_is_refused_when_the_configuration_is_read() {
    let parse = |text: &str| {
        let text = format!("[policy.webhook]\nsecret_file = 's'\n{text}");
        Config::parse("chancery.toml", &text, []).map(|config| config.policy.webhook.unwrap())
    };
    let fine = parse("url = 'https://policy.example.org/judge'\nroots_file = 'r.pem'").unwrap();
    assert_eq!(fine.on_failure(), OnFailure::Refuse { after: Duration::from_secs(300) });
    assert_eq!(fine.timeout(), Duration::from_secs(5));
    for (bad, named) in [
        ("url = 'https://policy.example.org/'", "roots_file"),
        ("url = 'http://policy.example.org/'", "no TLS"),
        ("url = 'ftp://127.0.0.1/'", "neither"),
        ("url = 'https://user:pass@policy.example.org/'\nroots_file = 'r'", "user information"),
        ("url = 'http://127.0.0.1:1/'\nallow_networks = ['x']", "allow_networks"),
        ("url = 'http://127.0.0.1:1/'\ntimeout_milliseconds = 60001", "timeout_milliseconds"),
        ("url = 'http://127.0.0.1:1/'\non_failure = 'ignore'", "on_failure"),
    ] {
        let failure = parse(bad).unwrap_err();
        assert!(failure.detail.contains(named), "{bad}: {failure:?}");
    }
}

/// A data directory that `up` made, and a server on it that asks `service`.
fn site(service: &Service) -> Site {
    let mut site = Site::new();
    site.set("CHANCERY__POLICY__WEBHOOK__URL", &service.url());
    let secret = service.directory.path().join("secret");
    site.set("CHANCERY__POLICY__WEBHOOK__SECRET_FILE", secret.to_str().unwrap());
    let roots = service.directory.path().join("roots.pem");
    site.set("CHANCERY__POLICY__WEBHOOK__ROOTS_FILE", roots.to_str().unwrap());
    site.set("CHANCERY__POLICY__WEBHOOK__TIMEOUT_MILLISECONDS", "60000");
    site
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_order_is_judged_by_the_service_and_its_verdicts_show() {
    let refusing = Arc::new(AtomicBool::new(false));
    let refuses = Arc::clone(&refusing);
    let service = Service::start(true, move |_| {
        Reply::Signed(if refuses.load(Ordering::SeqCst) {
            json!({"verdict": "refuse", "detail": "closed on Fridays"})
        } else {
            json!({"verdict": "allow", "owner": "web team", "validity_seconds": 3600})
        })
    })
    .await;
    let mut site = site(&service);
    let http01 = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let http01_address = http01.local_addr().unwrap();
    site.set("CHANCERY__ACME__HTTP01_PORT", &http01_address.port().to_string());
    drop(http01);
    let (_server, ready) = site.up();
    let directory = field(&ready, "acme_directory");
    let http01 = http01_address.to_string();
    let order = ["bench", "acme", "--directory", &directory, "--http01", &http01];
    let order = [&order[..], &["--clients", "1", "--orders", "1", "--warm-up", "0"]].concat();
    site.json(&order);
    let certificates = site.json(&["certificate", "list"]);
    let issued = certificates.as_array().unwrap().iter().find(|row| row["profile"] == "tls-server").unwrap();
    let moment = |name: &str| Timestamp::from_rfc3339(issued[name].as_str().unwrap()).unwrap();
    assert_eq!(moment("not_after").since(moment("not_before")), Duration::from_secs(3599));
    let shown = site.json(&["order", "show", issued["order"].as_str().unwrap()]);
    assert_eq!(shown["owner"], "web team", "{shown}");

    refusing.store(true, Ordering::SeqCst);
    let refused = site.run(&order);
    assert!(!refused.status.success());
    let orders = site.json(&["order", "list"]);
    let failed = orders.as_array().unwrap().iter().find(|row| row["status"] == "invalid").unwrap();
    let said = failed["failure"].as_str().unwrap();
    assert!(said.ends_with("refuses the order: closed on Fridays"), "{said}");

    let metrics = String::from_utf8(site.get("metrics", "/metrics").1).unwrap();
    for line in ["{verdict=\"enrich\"} 1", "{verdict=\"refuse\"} 1"] {
        assert!(metrics.contains(&format!("chancery_policy_calls_total{line}\n")), "{metrics}");
    }
    let policy = doctor(&site);
    assert_eq!((policy["status"].as_str(), policy["fix"].as_str()), (Some("OK"), None), "{policy}");
    drop(service);
}

/// What `doctor` says of the policy service.
fn doctor(site: &Site) -> Value {
    let output = site.run(&["doctor", "--json"]);
    let text = text(&output.stdout);
    let checks: Value = serde_json::from_str(text.lines().next().unwrap_or_default())
        .unwrap_or_else(|error| panic!("{error}: {text}"));
    checks.as_array().unwrap().iter().find(|check| check["id"] == "policy").unwrap().clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn doctor_fails_if_the_service_can_not_be_reached_and_warns_if_orders_go_on_without_it() {
    let service = Service::start(true, |_| Reply::Nothing).await;
    let mut site = site(&service);
    let other = Service::start(true, |_| Reply::Nothing).await;
    fs::copy(other.directory.path().join("roots.pem"), service.directory.path().join("roots.pem")).unwrap();
    drop(site.up());
    let policy = doctor(&site);
    assert_eq!(policy["status"], "FAIL", "{policy}");
    assert!(policy["detail"].as_str().unwrap().contains("TLS"), "{policy}");
    site.set("CHANCERY__POLICY__WEBHOOK__ON_FAILURE", "allow");
    assert_eq!(doctor(&site)["status"], "WARN");
}

#[test]
fn without_tls_only_a_trial_asks() {
    let mut site = Site::new();
    let mut init = binary();
    init.arg("--data").arg(site.data()).args(["init", "--public-url", "https://ca.example.org:8443"]);
    let init = init.output().unwrap();
    assert!(init.status.success(), "{}", text(&init.stderr));
    for listener in ["ACME", "PKI", "METRICS"] {
        site.set(&format!("CHANCERY__LISTEN__{listener}"), "127.0.0.1:0");
    }
    write_secret(&site.data().join("secret"), SECRET);
    site.set("CHANCERY__POLICY__WEBHOOK__URL", "http://127.0.0.1:9/");
    site.set("CHANCERY__POLICY__WEBHOOK__SECRET_FILE", "secret");
    let error = site.error(&["serve"]);
    assert!(error["detail"].as_str().unwrap().contains("not a trial"), "{error}");
    write_secret(&site.data().join("secret"), "short");
    site.set("CHANCERY__POLICY__WEBHOOK__URL", "https://127.0.0.1:9/");
    site.set("CHANCERY__POLICY__WEBHOOK__ROOTS_FILE", "roots.pem");
    let error = site.error(&["serve"]);
    assert!(error["detail"].as_str().unwrap().contains("32 characters"), "{error}");
}
