//! A small authoritative DNS server over UDP and TCP (RFC 1035) whose zone the test writes while it runs.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CAA, CNAME, SOA, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

/// The data of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// An IPv4 address.
    A(Ipv4Addr),
    /// An IPv6 address.
    Aaaa(Ipv6Addr),
    /// A text, cut into strings of at most 255 octets.
    Txt(String),
    /// RFC 8659: whether the property is critical, its tag and its value.
    Caa(bool, String, String),
    /// Another name, which is followed as far as this server knows it.
    Cname(String),
}

/// What goes wrong with every query for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The answer is SERVFAIL.
    ServFail,
    /// The answer is REFUSED.
    Refused,
    /// There is no answer.
    Silence,
}

/// One query that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    /// The name in lower case, without the final dot.
    pub name: String,
    /// The type, such as `CAA`.
    pub record_type: String,
    /// Whether it came over TCP.
    pub tcp: bool,
}

/// The server. It stops when it is dropped.
#[derive(Debug)]
pub struct Dns {
    address: SocketAddr,
    control: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    zone: Mutex<Zone>,
    stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Zone {
    records: HashMap<String, Vec<Data>>,
    failures: HashMap<String, Failure>,
    rebound: HashMap<String, Data>,
    queries: Vec<Query>,
}

impl Dns {
    /// Starts a server on a free port of 127.0.0.1, the same for UDP and TCP, with an empty zone.
    ///
    /// # Errors
    /// If no port can be had.
    pub fn start() -> Result<Self> {
        let (udp, tcp) = both_sockets()?;
        let control = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let shared = Arc::new(Shared::default());
        let address = udp.local_addr()?;
        let control_address = control.local_addr()?;
        let threads = vec![
            spawn(&shared, move |shared| serve_udp(&udp, shared)),
            spawn(&shared, move |shared| serve_tcp(&tcp, shared, answer_tcp)),
            spawn(&shared, move |shared| serve_tcp(&control, shared, obey)),
        ];
        Ok(Self { address, control: control_address, shared, threads })
    }

    /// Where it answers, over UDP and TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a record.
    pub fn add(&self, name: &str, data: Data) {
        self.shared.zone().add(name, data);
    }

    /// Puts this in the place of the name's records once they have been answered with: DNS rebinding.
    pub fn rebind(&self, name: &str, data: Data) {
        self.shared.zone().rebound.insert(key(name), data);
    }

    /// Removes one record; the name stays if it has others.
    pub fn remove(&self, name: &str, data: &Data) {
        self.shared.zone().remove(name, data);
    }

    /// Removes a name with all its records.
    pub fn clear(&self, name: &str) {
        self.shared.zone().records.remove(&key(name));
    }

    /// Makes every query for this name fail in that way; `None` ends it.
    pub fn fail(&self, name: &str, failure: Option<Failure>) {
        let mut zone = self.shared.zone();
        match failure {
            Some(failure) => zone.failures.insert(key(name), failure),
            None => zone.failures.remove(&key(name)),
        };
    }

    /// Every query so far, oldest first.
    #[must_use]
    pub fn queries(&self) -> Vec<Query> {
        self.shared.zone().queries.clone()
    }

    /// Writes two scripts for certbot's `--manual-auth-hook` and `--manual-cleanup-hook` into `directory`. They
    /// add and remove the TXT record of a dns-01 challenge (RFC 8555 §8.4), and need bash and nothing else.
    ///
    /// # Errors
    /// If the files can't be written.
    pub fn certbot_hooks(&self, directory: &Path) -> Result<(PathBuf, PathBuf)> {
        let write = |verb: &str| -> Result<PathBuf> {
            let file = directory.join(format!("dns-{verb}.sh"));
            let script = format!(
                "#!/bin/bash\nset -eu\nexec 3<>/dev/tcp/{}/{}\n\
                 printf '{verb} _acme-challenge.%s %s\\n' \"$CERTBOT_DOMAIN\" \"$CERTBOT_VALIDATION\" >&3\n\
                 read -r answer <&3\n[ \"$answer\" = ok ]\n",
                self.control.ip(),
                self.control.port()
            );
            std::fs::write(&file, script).with_context(|| format!("cannot write {}", file.display()))?;
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700))?;
            Ok(file)
        };
        Ok((write("add")?, write("remove")?))
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Each thread waits for a message or a connection: give it one. If that fails, the thread is gone already.
        let _ =
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.send_to(&[], self.address));
        let _ = TcpStream::connect(self.address);
        let _ = TcpStream::connect(self.control);
        for thread in self.threads.drain(..) {
            // A panic in a server thread has been printed; it must not hide the test's own failure.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn zone(&self) -> MutexGuard<'_, Zone> {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

impl Zone {
    fn add(&mut self, name: &str, data: Data) {
        self.records.entry(key(name)).or_default().push(data);
    }

    fn remove(&mut self, name: &str, data: &Data) {
        let name = key(name);
        if let Some(records) = self.records.get_mut(&name) {
            records.retain(|record| record != data);
            if records.is_empty() {
                self.records.remove(&name);
            }
        }
    }

    /// Whether the name has records, or a name below it has: an empty non-terminal exists (RFC 8020).
    fn exists(&self, name: &str) -> bool {
        self.records
            .keys()
            .any(|known| known == name || known.strip_suffix(name).is_some_and(|rest| rest.ends_with('.')))
    }

    /// The answer to `request`, or `None` for silence.
    fn answer(&mut self, request: &Message, tcp: bool) -> Result<Option<Message>> {
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.metadata.recursion_desired = request.metadata.recursion_desired;
        // Resolvers that ask for recursion take it amiss when they are told there is none.
        response.metadata.recursion_available = true;
        response.metadata.authoritative = true;
        response.add_queries(request.queries.iter().cloned());
        if let Some(edns) = &request.edns {
            response.set_edns(edns.clone());
        }
        let [question] = request.queries.as_slice() else {
            response.metadata.response_code = ResponseCode::FormErr;
            return Ok(Some(response));
        };
        if request.metadata.op_code != OpCode::Query {
            response.metadata.response_code = ResponseCode::NotImp;
            return Ok(Some(response));
        }
        let name = key(&question.name.to_ascii());
        let record_type = question.query_type;
        self.queries.push(Query { name: name.clone(), record_type: record_type.to_string(), tcp });
        match self.failures.get(&name) {
            Some(Failure::Silence) => return Ok(None),
            Some(Failure::ServFail) => response.metadata.response_code = ResponseCode::ServFail,
            Some(Failure::Refused) => response.metadata.response_code = ResponseCode::Refused,
            None => {
                self.fill(&mut response, name.clone(), question.name.clone(), record_type)?;
                if !response.answers.is_empty()
                    && let Some(data) = self.rebound.remove(&name)
                {
                    self.records.insert(name, vec![data]);
                }
            }
        }
        Ok(Some(response))
    }

    fn fill(
        &self,
        response: &mut Message,
        mut name: String,
        mut owner: Name,
        wanted: RecordType,
    ) -> Result<()> {
        let mut followed = HashSet::new();
        // A CNAME stands in for every type but its own; one that leads back ends the chain.
        while let Some(target) = self.alias(&name).filter(|_| wanted != RecordType::CNAME) {
            let target_name = fqdn(target)?;
            response.add_answer(Record::from_rdata(owner, 0, RData::CNAME(CNAME(target_name.clone()))));
            (name, owner) = (key(target), target_name);
            if !followed.insert(name.clone()) {
                return Ok(());
            }
        }
        let mut found = false;
        for data in self.records.get(&name).into_iter().flatten() {
            let data = data.to_rdata()?;
            if data.record_type() == wanted {
                found = true;
                response.add_answer(Record::from_rdata(owner.clone(), 0, data));
            }
        }
        if !found {
            // RFC 2308: NODATA and NXDOMAIN both carry the zone's SOA.
            if !self.exists(&name) {
                response.metadata.response_code = ResponseCode::NXDomain;
            }
            let apex = owner.trim_to(1);
            let mail = fqdn("hostmaster.invalid")?;
            let soa = SOA::new(apex.clone(), mail, 1, 3600, 600, 86_400, 0);
            response.add_authority(Record::from_rdata(apex, 0, RData::SOA(soa)));
        }
        Ok(())
    }

    fn alias(&self, name: &str) -> Option<&str> {
        self.records.get(name)?.iter().find_map(|data| match data {
            Data::Cname(target) => Some(target.as_str()),
            _ => None,
        })
    }
}

impl Data {
    fn to_rdata(&self) -> Result<RData> {
        Ok(match self {
            Self::A(address) => RData::A(A(*address)),
            Self::Aaaa(address) => RData::AAAA(AAAA(*address)),
            Self::Txt(text) => RData::TXT(TXT::from_bytes(text.as_bytes().chunks(255).collect())),
            Self::Caa(critical, tag, value) => {
                let mut caa = CAA::new_issue(*critical, None, Vec::new());
                caa.tag.clone_from(tag);
                caa.value = value.clone().into_bytes();
                RData::CAA(caa)
            }
            Self::Cname(target) => RData::CNAME(CNAME(fqdn(target)?)),
        })
    }
}

/// One port number that is free for UDP and TCP.
fn both_sockets() -> Result<(UdpSocket, TcpListener)> {
    for _ in 0..64 {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        if let Ok(tcp) = TcpListener::bind(udp.local_addr()?) {
            return Ok((udp, tcp));
        }
    }
    bail!("no port is free for both UDP and TCP")
}

fn spawn(shared: &Arc<Shared>, serve: impl FnOnce(&Arc<Shared>) + Send + 'static) -> JoinHandle<()> {
    let shared = Arc::clone(shared);
    thread::spawn(move || serve(&shared))
}

fn serve_udp(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if shared.stopping() {
            return;
        }
        let outcome = answer(&buffer[..length], shared, false);
        if let Ok(Some(bytes)) = report(outcome) {
            // The client may have gone.
            let _ = socket.send_to(&bytes, client);
        }
    }
}

fn serve_tcp(listener: &TcpListener, shared: &Arc<Shared>, serve: fn(TcpStream, &Shared) -> Result<()>) {
    for stream in listener.incoming().flatten() {
        if shared.stopping() {
            return;
        }
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let outcome = stream
                .set_read_timeout(Some(Duration::from_secs(10)))
                .map_err(Into::into)
                .and_then(|()| serve(stream, &shared));
            // Printed by `report`; there is nobody else to tell.
            let _ = report(outcome);
        });
    }
}

/// RFC 1035 §4.2.2: each message has its length in two octets before it.
fn answer_tcp(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut request)?;
        let Some(bytes) = answer(&request, shared, true)? else { return Ok(()) };
        stream.write_all(&u16::try_from(bytes.len())?.to_be_bytes())?;
        stream.write_all(&bytes)?;
    }
    Ok(())
}

/// One line from a hook script: `add NAME TEXT` or `remove NAME TEXT`, answered with `ok`.
fn obey(mut stream: TcpStream, shared: &Shared) -> Result<()> {
    let mut line = String::new();
    BufReader::new(stream.try_clone()?).read_line(&mut line)?;
    match line.split_whitespace().collect::<Vec<_>>().as_slice() {
        ["add", name, text] => shared.zone().add(name, Data::Txt((*text).to_owned())),
        ["remove", name, text] => shared.zone().remove(name, &Data::Txt((*text).to_owned())),
        _ => bail!("a hook script sent {line:?}"),
    }
    stream.write_all(b"ok\n")?;
    Ok(())
}

fn answer(request: &[u8], shared: &Shared, tcp: bool) -> Result<Option<Vec<u8>>> {
    let request = Message::from_vec(request).context("a query that is not DNS")?;
    if request.metadata.message_type != MessageType::Query {
        return Ok(None);
    }
    let Some(response) = shared.zone().answer(&request, tcp)? else { return Ok(None) };
    let bytes = response.to_vec()?;
    if !tcp && bytes.len() > usize::from(request.max_payload()) {
        return Ok(Some(response.truncate().to_vec()?));
    }
    Ok(Some(bytes))
}

/// Shows what went wrong in the failing test's output.
fn report<T>(outcome: Result<T>) -> Result<T> {
    if let Err(error) = &outcome {
        eprintln!("test DNS server: {error:#}");
    }
    outcome
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

fn fqdn(name: &str) -> Result<Name> {
    let mut name = Name::from_str(name).with_context(|| format!("`{name}` is no DNS name"))?;
    name.set_fqdn(true);
    Ok(name)
}
