//! A DNS server whose answers a test writes in code, over UDP and TCP.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use hickory_proto::op::{Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

/// What a query gets.
pub enum Reply {
    /// NOERROR with these records, of the owners named.
    Records(Vec<(String, RData)>),
    /// NOERROR without an answer, and this record of the owner named as the authority.
    Referral(String, RData),
    /// An empty answer with this code.
    Code(ResponseCode),
    /// Nothing.
    Silence,
}

/// One query that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub name: String,
    pub kind: RecordType,
    pub tcp: bool,
}

type Script = Arc<dyn Fn(&Query, usize) -> Reply + Send + Sync>;

/// Queries are answered by a script that sees them and how often the same was asked before. It stops when dropped.
pub struct DnsServer {
    pub address: SocketAddr,
    state: Arc<State>,
    _tasks: JoinSet<()>,
}

struct State {
    script: Script,
    queries: Mutex<Vec<Query>>,
}

impl DnsServer {
    pub async fn start(script: impl Fn(&Query, usize) -> Reply + Send + Sync + 'static) -> Self {
        let (udp, tcp) = sockets().await;
        let address = udp.local_addr().unwrap();
        let state = Arc::new(State { script: Arc::new(script), queries: Mutex::default() });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_udp(udp, Arc::clone(&state)));
        tasks.spawn(serve_tcp(tcp, Arc::clone(&state)));
        Self { address, state, _tasks: tasks }
    }

    /// Always the same answers; NXDOMAIN for every other name.
    pub async fn fixed(records: Vec<(&str, RData)>) -> Self {
        let mut zone: HashMap<String, Vec<RData>> = HashMap::new();
        for (name, data) in records {
            zone.entry(name.to_owned()).or_default().push(data);
        }
        Self::start(move |query, _| match zone.get(&query.name) {
            Some(records) => {
                let fits = |data: &&RData| {
                    data.record_type() == query.kind || data.record_type() == RecordType::CNAME
                };
                Reply::Records(
                    records.iter().filter(fits).map(|data| (query.name.clone(), data.clone())).collect(),
                )
            }
            None => Reply::Code(ResponseCode::NXDomain),
        })
        .await
    }

    pub fn queries(&self) -> Vec<Query> {
        self.state.queries.lock().unwrap().clone()
    }

    pub fn count(&self, kind: RecordType) -> usize {
        self.queries().iter().filter(|query| query.kind == kind).count()
    }
}

pub fn a(address: [u8; 4]) -> RData {
    RData::A(A(Ipv4Addr::from(address)))
}

pub fn aaaa(address: &str) -> RData {
    RData::AAAA(AAAA(address.parse::<Ipv6Addr>().unwrap()))
}

pub fn cname(target: &str) -> RData {
    RData::CNAME(CNAME(name(target)))
}

pub fn txt(strings: &[&str]) -> RData {
    RData::TXT(TXT::from_bytes(strings.iter().map(|s| s.as_bytes()).collect()))
}

fn name(text: &str) -> Name {
    Name::from_ascii(format!("{text}.")).unwrap()
}

async fn sockets() -> (UdpSocket, TcpListener) {
    for _ in 0..64 {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, tcp);
        }
    }
    panic!("no port is free for both UDP and TCP");
}

impl State {
    fn answer(&self, request: &[u8], tcp: bool) -> Option<Vec<u8>> {
        let request = Message::from_vec(request).unwrap();
        let question = request.queries.first().unwrap();
        let text = question.name.to_ascii().trim_end_matches('.').to_ascii_lowercase();
        let query = Query { name: text, kind: question.query_type, tcp };
        let before = {
            let mut queries = self.queries.lock().unwrap();
            let same = queries.iter().filter(|other| other.name == query.name && other.kind == query.kind);
            let before = same.count();
            queries.push(query.clone());
            before
        };
        let mut response = Message::response(request.metadata.id, OpCode::Query);
        response.metadata.recursion_available = true;
        response.add_queries(request.queries.iter().cloned());
        match (self.script)(&query, before) {
            Reply::Silence => return None,
            Reply::Referral(owner, data) => {
                response.add_authority(Record::from_rdata(name(&owner), 3600, data));
            }
            Reply::Code(code) => response.metadata.response_code = code,
            Reply::Records(records) => {
                for (owner, data) in records {
                    // A long life, which nobody may make use of.
                    response.add_answer(Record::from_rdata(name(&owner), 3600, data));
                }
            }
        }
        let bytes = response.to_vec().unwrap();
        if !tcp && bytes.len() > usize::from(request.max_payload()) {
            return Some(response.truncate().to_vec().unwrap());
        }
        Some(bytes)
    }
}

async fn serve_udp(socket: UdpSocket, state: Arc<State>) {
    let mut buffer = vec![0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        if let Some(bytes) = state.answer(&buffer[..length], false) {
            socket.send_to(&bytes, client).await.unwrap();
        }
    }
}

async fn serve_tcp(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(serve_connection(stream, Arc::clone(&state)));
    }
}

async fn serve_connection(mut stream: TcpStream, state: Arc<State>) {
    while let Ok(length) = stream.read_u16().await {
        let mut request = vec![0; usize::from(length)];
        stream.read_exact(&mut request).await.unwrap();
        let Some(bytes) = state.answer(&request, true) else { return };
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
}
