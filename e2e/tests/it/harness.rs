//! The harness itself: its DNS server, its judges on a CA that OpenSSL made, tokens, sockets and ports.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::time::Duration;

use e2e::chancery::with_sockets;
use e2e::clients::Issued;
use e2e::dns::{Data, Dns, Failure};
use e2e::judges::{self, Case, CertIdHash, Status};
use e2e::pkilint::{Document, pkilint};
use e2e::port::ReservedPort;
use e2e::program::{command, run, succeed, system_tool};
use e2e::softhsm::Token;
use e2e::{http, pem};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tempfile::TempDir;

fn question(name: &str, record_type: RecordType) -> Vec<u8> {
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_str(name).unwrap(), record_type));
    message.to_vec().unwrap()
}

fn ask_udp(dns: &Dns, name: &str, record_type: RecordType) -> Option<Message> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send_to(&question(name, record_type), dns.address()).unwrap();
    let mut buffer = [0; 4096];
    let length = socket.recv(&mut buffer).ok()?;
    Some(Message::from_vec(&buffer[..length]).unwrap())
}

fn ask_tcp(dns: &Dns, name: &str, record_type: RecordType) -> Message {
    let mut stream = TcpStream::connect(dns.address()).unwrap();
    let question = question(name, record_type);
    stream.write_all(&u16::try_from(question.len()).unwrap().to_be_bytes()).unwrap();
    stream.write_all(&question).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|record| record.data.to_string()).collect()
}

#[test]
fn dns_tells_data_from_nodata_from_nxdomain() {
    let dns = Dns::start().unwrap();
    dns.add("www.a.test", Data::A(Ipv4Addr::LOCALHOST));
    dns.add("WWW.A.test.", Data::Aaaa(Ipv6Addr::LOCALHOST));
    dns.add("a.test", Data::Caa(true, "issue".into(), "ca.example; accounturi=x".into()));
    dns.add("alias.test", Data::Cname("www.a.test".into()));

    let found = ask_udp(&dns, "www.A.test.", RecordType::A).unwrap();
    assert_eq!(
        (found.metadata.response_code, data(&found)),
        (ResponseCode::NoError, vec!["127.0.0.1".to_owned()])
    );
    assert_eq!(data(&ask_udp(&dns, "www.a.test.", RecordType::AAAA).unwrap()), ["::1"]);
    assert_eq!(
        data(&ask_udp(&dns, "a.test.", RecordType::CAA).unwrap()),
        ["128 issue \"ca.example; accounturi=x\""]
    );
    assert_eq!(data(&ask_udp(&dns, "alias.test.", RecordType::A).unwrap()), ["www.a.test.", "127.0.0.1"]);

    for (name, code) in [
        ("www.a.test.", ResponseCode::NoError),
        // Exists only because a name below it does.
        ("test.", ResponseCode::NoError),
        ("b.test.", ResponseCode::NXDomain),
        // Ends like a known name, at no label boundary.
        ("xa.test.", ResponseCode::NXDomain),
    ] {
        let none = ask_udp(&dns, name, RecordType::TXT).unwrap();
        assert_eq!((none.metadata.response_code, data(&none)), (code, vec![]), "{name}");
        assert_eq!(none.authorities[0].record_type(), RecordType::SOA, "{name}");
    }
    dns.clear("www.a.test");
    assert_eq!(
        ask_udp(&dns, "www.a.test.", RecordType::A).unwrap().metadata.response_code,
        ResponseCode::NXDomain
    );

    let first = &dns.queries()[0];
    assert_eq!((first.name.as_str(), first.record_type.as_str(), first.tcp), ("www.a.test", "A", false));
}

#[test]
fn dns_answers_that_do_not_fit_a_datagram_come_over_tcp() {
    let dns = Dns::start().unwrap();
    dns.add("long.test", Data::Txt("x".repeat(700)));
    let short = ask_udp(&dns, "long.test.", RecordType::TXT).unwrap();
    assert!(short.metadata.truncation && short.answers.is_empty());
    let whole = ask_tcp(&dns, "long.test.", RecordType::TXT);
    assert_eq!(data(&whole).concat().matches('x').count(), 700);
    assert!(dns.queries()[1].tcp);
}

#[test]
fn dns_fails_as_it_is_told() {
    let dns = Dns::start().unwrap();
    dns.add("a.test", Data::A(Ipv4Addr::LOCALHOST));
    dns.fail("a.test", Some(Failure::ServFail));
    assert_eq!(
        ask_udp(&dns, "a.test.", RecordType::A).unwrap().metadata.response_code,
        ResponseCode::ServFail
    );
    dns.fail("a.test", Some(Failure::Silence));
    assert!(ask_udp(&dns, "a.test.", RecordType::A).is_none());
    dns.fail("a.test", None);
    assert_eq!(data(&ask_udp(&dns, "a.test.", RecordType::A).unwrap()), ["127.0.0.1"]);
}

#[test]
fn certbot_hooks_add_and_remove_their_record() {
    let dns = Dns::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (add, remove) = dns.certbot_hooks(directory.path()).unwrap();
    let hook = |script: &Path, value: &str| {
        succeed(command(script).env("CERTBOT_DOMAIN", "a.test").env("CERTBOT_VALIDATION", value)).unwrap();
    };
    hook(&add, "one");
    hook(&add, "two");
    assert_eq!(data(&ask_udp(&dns, "_acme-challenge.a.test.", RecordType::TXT).unwrap()), ["one", "two"]);
    hook(&remove, "one");
    assert_eq!(data(&ask_udp(&dns, "_acme-challenge.a.test.", RecordType::TXT).unwrap()), ["two"]);
    hook(&remove, "two");
    let none = ask_udp(&dns, "_acme-challenge.a.test.", RecordType::TXT).unwrap();
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
}

/// A CA made by OpenSSL, so that the judges are known to be called rightly before they judge ours.
struct MiniCa {
    directory: TempDir,
}

impl MiniCa {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/mini_ca.sh");
        succeed(command("/bin/bash").arg(script).current_dir(directory.path())).unwrap();
        Self { directory }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn case(&self) -> Case {
        let issued = Issued {
            certificate: self.file("leaf.pem"),
            chain: self.file("int.pem"),
            key: self.file("leaf.key"),
            output: String::new(),
        };
        Case::new(&self.file("root.pem"), &issued).unwrap()
    }

    fn crl(&self, name: &str) -> Vec<u8> {
        pem::decode(&fs::read_to_string(self.file(name)).unwrap(), "X509 CRL").unwrap().remove(0)
    }

    /// `openssl ocsp` as a responder on a port of the kernel's choice; killed with the value that it returns.
    fn responder(&self, index: &str, signer: &str) -> Responder {
        let mut process = command(system_tool("openssl").unwrap())
            .args(["ocsp", "-port", "0", "-ndays", "1", "-CA", "int.pem", "-index", index])
            .args(["-rsigner", &format!("{signer}.pem"), "-rkey", &format!("{signer}.key")])
            .current_dir(self.directory.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let port = line.split(' ').nth(1).and_then(|address| address.rsplit(':').next()).unwrap();
        Responder { url: format!("http://127.0.0.1:{port}/ocsp"), process }
    }
}

struct Responder {
    url: String,
    process: Child,
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

#[test]
fn chain_judges_accept_a_good_chain_and_refuse_a_revoked_one() {
    let ca = MiniCa::new();
    let case = ca.case();
    let good = [ca.crl("int.crl"), ca.crl("root.crl")];
    case.openssl_verify(&good).unwrap();
    case.gnutls_verify(&good, Some("leaf.test")).unwrap();

    let error = case.openssl_verify(&good[..1]).unwrap_err().to_string();
    assert!(error.contains("unable to get certificate CRL"), "{error}");
    let revoked = [ca.crl("revoked.crl"), ca.crl("root.crl")];
    let error = case.openssl_verify(&revoked).unwrap_err().to_string();
    assert!(error.contains("certificate revoked"), "{error}");
    let error = case.gnutls_verify(&revoked, None).unwrap_err().to_string();
    assert!(error.contains("revoked"), "{error}");
    let error = case.gnutls_verify(&good, Some("other.test")).unwrap_err().to_string();
    assert!(error.contains("does not match"), "{error}");

    assert_eq!(judges::revoked_serials(&revoked[0]).unwrap(), [case.serial().unwrap()]);
    assert!(judges::revoked_serials(&good[0]).unwrap().is_empty());
    assert!(case.ocsp_url().is_err() && case.fetch_crls().is_err(), "the certificate names no URL");
}

#[test]
fn ocsp_judges_read_good_and_revoked_and_refuse_an_unauthorised_responder() {
    let ca = MiniCa::new();
    let case = ca.case();
    for (index, status) in [("good.txt", Status::Good), ("int/index.txt", Status::Revoked)] {
        let responder = ca.responder(index, "responder");
        for hash in [CertIdHash::Sha1, CertIdHash::Sha256] {
            for nonce in [false, true] {
                assert_eq!(case.openssl_ocsp(&responder.url, hash, nonce).unwrap().status, status);
            }
        }
        for nonce in [false, true] {
            let answer = case.gnutls_ocsp(&responder.url, nonce).unwrap();
            assert_eq!(answer.status, status);
            let response = fs::read(&answer.response).unwrap();
            assert_eq!(pkilint(&[(Document::OcspResponse, response)]).unwrap(), Vec::<String>::new());
        }
    }
    let responder = ca.responder("good.txt", "leaf");
    let error = case.openssl_ocsp(&responder.url, CertIdHash::Sha1, false).unwrap_err().to_string();
    assert!(error.contains("missing ocspsigning usage"), "{error}");
    assert!(case.gnutls_ocsp(&responder.url, false).is_err());
}

#[test]
fn pkilint_passes_what_is_right_and_names_what_is_wrong() {
    let ca = MiniCa::new();
    let certificate = |name| (Document::Certificate, fs::read(ca.file(name)).unwrap());
    let mut documents: Vec<_> =
        ["root.pem", "int.pem", "leaf.pem", "responder.pem"].into_iter().map(certificate).collect();
    documents.push((Document::Crl, ca.crl("int.crl")));
    documents.push((Document::AuthorityCrl, ca.crl("root.crl")));
    assert_eq!(pkilint(&documents).unwrap(), Vec::<String>::new());
    // One that is wrong among others.
    documents.insert(2, (Document::Crl, ca.crl("bad.crl")));
    let findings = pkilint(&documents).unwrap();
    assert!(findings.iter().any(|finding| finding.contains("pkix.crl_number_missing")), "{findings:?}");
    assert!(findings.iter().all(|finding| finding.starts_with("Crl: ")), "{findings:?}");
    // A file that is no CRL at all is an error of the judge, not a clean bill.
    documents[2].1 = fs::read(ca.file("ca.cnf")).unwrap();
    assert!(pkilint(&documents).is_err());
}

#[test]
fn a_token_is_made_and_goes_away() {
    let token = Token::new().unwrap();
    let slots = succeed(
        command(system_tool("softhsm2-util").unwrap())
            .arg("--show-slots")
            .env("SOFTHSM2_CONF", token.configuration()),
    )
    .unwrap();
    assert!(slots.stdout.contains(Token::LABEL), "{}", slots.stdout);
    assert!(token.module().is_file());
    let tokens = token.tokens();
    drop(token);
    assert!(!tokens.exists());
}

#[test]
fn sockets_reach_the_child_by_the_activation_protocol() {
    let listeners = [
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
    ];
    let script = "import os, socket\n\
        assert int(os.environ['LISTEN_PID']) == os.getpid()\n\
        assert os.environ['LISTEN_FDNAMES'].split(':') == ['acme', 'pki'] and os.environ['LISTEN_FDS'] == '2'\n\
        for fd in 3, 4:\n    print(socket.socket(fileno=fd).getsockname()[1])\n";
    let named = [("acme", &listeners[0]), ("pki", &listeners[1])];
    let mut child = with_sockets(Path::new("/usr/bin/python3"), &named).unwrap();
    let finished = succeed(child.args(["-c", script])).unwrap();
    let ports: Vec<_> =
        listeners.iter().map(|listener| listener.local_addr().unwrap().port().to_string()).collect();
    assert_eq!(finished.stdout.split_whitespace().collect::<Vec<_>>(), ports);
}

#[test]
fn reserved_ports_differ_and_can_be_bound() {
    let ports: Vec<_> = (0..8).map(|_| ReservedPort::new().unwrap()).collect();
    let numbers: HashSet<_> = ports.iter().map(ReservedPort::number).collect();
    assert_eq!(numbers.len(), ports.len());
    for port in &ports {
        TcpListener::bind(port.address()).unwrap();
    }
}

#[test]
fn a_program_that_hangs_is_killed_and_one_that_fails_is_quoted() {
    let error =
        run(command("/bin/sh").args(["-c", "echo started; exec sleep 60"]), Duration::from_millis(300))
            .unwrap_err();
    assert!(error.to_string().contains("took longer") && error.to_string().contains("started"), "{error}");
    let error =
        succeed(command("/bin/sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap_err().to_string();
    assert!(error.contains("out") && error.contains("err") && error.contains('3'), "{error}");
    let error = system_tool("no-such-tool").unwrap_err().to_string();
    assert!(error.contains("no-such-tool") && error.contains("cargo xtask tools"), "{error}");
}

#[test]
fn http_reads_status_header_and_body() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/a?b=c", listener.local_addr().unwrap());
    let server = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            reader.read_line(&mut head).unwrap();
        }
        let mut body = [0; 4];
        reader.read_exact(&mut body).unwrap();
        reader
            .get_mut()
            .write_all(b"HTTP/1.1 418 Teapot\r\nETag: \"x\"\r\nContent-Length: 3\r\n\r\nabc")
            .unwrap();
        (head, body)
    });
    let response = http::post(&url, "text/plain", b"body").unwrap();
    let (head, body) = server.join().unwrap();
    assert!(
        head.starts_with("POST /a?b=c HTTP/1.0\r\n") && head.contains("Content-Type: text/plain\r\n"),
        "{head}"
    );
    assert_eq!(&body, b"body");
    assert_eq!(
        (response.status, response.header("etag"), response.body.as_slice()),
        (418, Some("\"x\""), &b"abc"[..])
    );
}
