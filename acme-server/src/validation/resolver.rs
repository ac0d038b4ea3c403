//! DNS look-ups for validation, through the operator's resolvers, with answers told from failures. RFC 1035, RFC 2308,
//! RFC 6761.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ca_core::acme::caa::CaaRecord;
use ca_core::acme::challenge::{Answer, FailureKind, ValidationFailure};
use ca_core::pkix::identifier::DnsName;
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use tokio::time::{Instant, timeout, timeout_at};

/// So many TXT values are looked at.
const MAX_TXT_VALUES: usize = 100;
/// A name has at most so many aliases; the resolver follows fewer.
const MAX_ALIASES: usize = 16;
/// So long the addresses of one family wait for those of the other, RFC 8305 §3.
const FAMILY_GRACE: Duration = Duration::from_millis(1000);

/// Asks the configured resolvers. Nothing is remembered between look-ups, so that a retry sees fresh data.
pub(super) struct Resolver {
    /// `None` if the system names no resolver.
    inner: Option<TokioResolver>,
    /// A look-up takes at most this long.
    limit: Duration,
}

/// The addresses of a name.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// IPv6 and IPv4 by turns, IPv6 first.
    pub found: Vec<IpAddr>,
    /// What went wrong in one family, if the other gave addresses.
    pub problem: Option<String>,
}

impl Resolver {
    /// A resolver that asks `servers`, or those of the system if there are none.
    ///
    /// A system that names no resolver is no error: names below `localhost` need none.
    ///
    /// # Errors
    /// If the resolver can't be set up.
    pub fn new(servers: &[SocketAddr], limit: Duration) -> Result<Self, NetError> {
        let servers = if servers.is_empty() {
            match hickory_resolver::system_conf::read_system_conf() {
                // Search domains and options are for people at a prompt; only the servers are taken.
                Ok((config, _)) => config.into_parts().2,
                Err(error) => {
                    tracing::warn!(%error, "the system names no DNS resolver, and acme.dns_servers is not set");
                    Vec::new()
                }
            }
        } else {
            servers.iter().map(|server| name_server(*server)).collect()
        };
        if servers.is_empty() {
            return Ok(Self { inner: None, limit });
        }
        let config = ResolverConfig::from_name_servers(servers);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options(limit);
        Ok(Self { inner: Some(builder.build()?), limit })
    }

    /// The IPv4 and IPv6 addresses of `name`, which is called `label` in sentences.
    ///
    /// # Errors
    /// A sentence on why there is none, of kind `dns`.
    pub async fn addresses(
        &self,
        name: &DnsName,
        label: &str,
        deadline: Instant,
    ) -> Result<Addresses, ValidationFailure> {
        if is_localhost(name.as_str()) {
            let found = vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()];
            return Ok(Addresses { found, problem: None });
        }
        let mut v6 = Box::pin(self.lookup(name.as_str(), RecordType::AAAA, deadline));
        let mut v4 = Box::pin(self.lookup(name.as_str(), RecordType::A, deadline));
        // A resolver that drops AAAA queries must not use up the time of an attempt that can do without.
        let (v6, v4) = tokio::select! {
            first = &mut v6 => {
                let second = second(&first, v4, RecordType::A).await;
                (first, second)
            }
            first = &mut v4 => {
                let second = second(&first, v6, RecordType::AAAA).await;
                (second, first)
            }
        };
        merge(label, v6, v4)
    }

    /// The TXT records at `name`, each with its strings joined; none for NODATA and NXDOMAIN.
    ///
    /// # Errors
    /// A sentence on what went wrong, of kind `dns`.
    pub async fn texts(&self, name: &str, deadline: Instant) -> Result<Vec<Vec<u8>>, ValidationFailure> {
        // RFC 6761 §6.3: queries for localhost names are not sent.
        if is_localhost(name) {
            return Ok(Vec::new());
        }
        match self.lookup(name, RecordType::TXT, deadline).await {
            Ok(records) => Ok(records.iter().filter_map(text).take(MAX_TXT_VALUES).collect()),
            Err(Failed::Empty(_)) => Ok(Vec::new()),
            Err(Failed::Broken(why)) => Err(ValidationFailure::new(
                FailureKind::Dns,
                format!("the look-up of TXT records at {name} failed: {why}"),
            )),
        }
    }

    /// The CAA records of `name` or, if it is an alias, of the name that it stands for; none for NODATA and NXDOMAIN.
    ///
    /// None are left out: records that can't be read, an answer that does not fit, and aliases without an end are
    /// failures, since a record that forbids to issue must not be overlooked.
    ///
    /// # Errors
    /// A sentence on what went wrong, of kind `dns`.
    pub async fn caa(&self, name: &str, deadline: Instant) -> Result<Vec<CaaRecord>, ValidationFailure> {
        // RFC 6761 §6.3: queries for localhost names are not sent.
        if is_localhost(name) {
            return Ok(Vec::new());
        }
        let why = match self.lookup(name, RecordType::CAA, deadline).await {
            Ok(records) => return Ok(records.iter().filter_map(caa).collect()),
            Err(Failed::Broken(why)) => why,
            Err(Failed::Empty(none)) => match self.doubt(name, none, deadline).await {
                None => return Ok(Vec::new()),
                Some(why) => why,
            },
        };
        let detail = format!("the look-up of CAA records at {name} failed: {why}");
        Err(ValidationFailure::new(FailureKind::Dns, detail))
    }

    /// Why an answer without records does not mean that there are none, if it does not.
    async fn doubt(&self, name: &str, none: Option<Box<NoRecords>>, deadline: Instant) -> Option<String> {
        let Some(none) = none else { return Some("the resolver's answer does not fit the question".into()) };
        if !matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
            return Some(answered(none.response_code));
        }
        if none.ns.is_some() && none.soa.is_none() {
            return Some("the resolver refers to other servers and does not ask them itself".into());
        }
        let last = none.query.name().to_ascii();
        let last = last.trim_end_matches('.');
        if last.eq_ignore_ascii_case(name) {
            return None;
        }
        // What is not there belongs to an alias. Too long a chain of aliases ends in the same way as one whose end has
        // no records, and only this tells them apart.
        match self.lookup(last, RecordType::CNAME, deadline).await {
            Ok(_) => {
                Some(format!("it is an alias, and {last} is one still, further than aliases are followed"))
            }
            Err(Failed::Empty(_)) => None,
            Err(Failed::Broken(why)) => Some(why),
        }
    }

    async fn lookup(&self, name: &str, kind: RecordType, deadline: Instant) -> Result<Vec<RData>, Failed> {
        let Some(resolver) = &self.inner else {
            return Err(Failed::Broken("no resolver is configured (acme.dns_servers)".into()));
        };
        // The final dot keeps the resolver from trying anything but this name.
        let query = Name::from_ascii(format!("{name}."))
            .map_err(|_| Failed::Broken("the name is too long".into()))?;
        let limit = deadline.min(Instant::now() + self.limit);
        match timeout_at(limit, resolver.lookup(query.clone(), kind)).await {
            Ok(Ok(lookup)) => match owned_by(&query, lookup.answers(), kind) {
                data if data.is_empty() => Err(Failed::Empty(None)),
                data => Ok(data),
            },
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => {
                Err(Failed::Empty(Some(Box::new(none))))
            }
            Ok(Err(error)) => Err(Failed::Broken(describe(&error))),
            Err(_) => Err(Failed::Broken("no resolver answered in time".into())),
        }
    }
}

/// Why a look-up gave no records.
#[derive(Debug)]
enum Failed {
    /// The answer is that there are none; which answer, if the resolver said so itself.
    Empty(Option<Box<NoRecords>>),
    /// There is no answer.
    Broken(String),
}

type Looked = Result<Vec<RData>, Failed>;

async fn second(first: &Looked, other: impl Future<Output = Looked>, kind: RecordType) -> Looked {
    if first.is_err() {
        return other.await;
    }
    timeout(FAMILY_GRACE, other)
        .await
        .unwrap_or_else(|_| Err(Failed::Broken(format!("no resolver answered the query for {kind} in time"))))
}

fn merge(name: &str, v6: Looked, v4: Looked) -> Result<Addresses, ValidationFailure> {
    let fail = |detail: String| Err(ValidationFailure::new(FailureKind::Dns, detail));
    let (v6, v4, problem) = match (v6, v4) {
        (Ok(v6), Ok(v4)) => (v6, v4, None),
        (Ok(v6), Err(failed)) => (v6, Vec::new(), failed.problem("A")),
        (Err(failed), Ok(v4)) => (Vec::new(), v4, failed.problem("AAAA")),
        (Err(Failed::Empty(v6)), Err(Failed::Empty(v4))) => {
            let mut codes = [v6, v4].into_iter().flatten().map(|none| none.response_code);
            return fail(if codes.any(|code| code == ResponseCode::NXDomain) {
                format!("{name} does not exist in the DNS (NXDOMAIN)")
            } else {
                format!("{name} has neither an A nor an AAAA record")
            });
        }
        (Err(v6), Err(v4)) => {
            let problems: Vec<_> = [v6.problem("AAAA"), v4.problem("A")].into_iter().flatten().collect();
            return fail(format!("no address of {name} was found: {}", problems.join("; ")));
        }
    };
    let (mut v6, mut v4): (VecDeque<_>, VecDeque<_>) =
        (v6.iter().filter_map(address).collect(), v4.iter().filter_map(address).collect());
    let mut found = Vec::with_capacity(v6.len() + v4.len());
    while !(v6.is_empty() && v4.is_empty()) {
        found.extend(v6.pop_front());
        found.extend(v4.pop_front());
    }
    Ok(Addresses { found, problem })
}

impl Failed {
    fn problem(self, kind: &str) -> Option<String> {
        match self {
            Self::Empty(_) => None,
            Self::Broken(why) => Some(format!("the look-up of its {kind} records failed: {why}")),
        }
    }
}

fn name_server(server: SocketAddr) -> NameServerConfig {
    let (mut udp, mut tcp) = (ConnectionConfig::udp(), ConnectionConfig::tcp());
    udp.port = server.port();
    tcp.port = server.port();
    NameServerConfig::new(server.ip(), true, vec![udp, tcp])
}

fn options(limit: Duration) -> ResolverOpts {
    let mut options = ResolverOpts::default();
    // One repetition: a look-up takes twice the timeout. A query is sent again within the timeout, too.
    options.timeout = limit / 2;
    options.attempts = 1;
    options.use_hosts_file = ResolveHosts::Never;
    options.cache_size = 0;
    options.positive_max_ttl = Some(Duration::ZERO);
    options.negative_max_ttl = Some(Duration::ZERO);
    // The aliases are needed to see which answers belong to the question.
    options.preserve_intermediates = true;
    // Makes forged answers harder; a server that does not keep the case is asked again over TCP.
    options.case_randomization = true;
    options
}

/// `localhost` and the names below it, RFC 6761 §6.3.
fn is_localhost(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|label| label.eq_ignore_ascii_case("localhost"))
}

/// The records of this kind that belong to `query` or to a name that it is an alias of.
fn owned_by(query: &Name, answers: &[Record], kind: RecordType) -> Vec<RData> {
    let mut owners = vec![query];
    let mut seen = 0;
    while let Some(owner) = owners.get(seen).copied() {
        seen += 1;
        for record in answers.iter().filter(|record| &record.name == owner) {
            if let RData::CNAME(target) = &record.data
                && owners.len() < MAX_ALIASES
                && !owners.contains(&&target.0)
            {
                owners.push(&target.0);
            }
        }
    }
    answers
        .iter()
        .filter(|record| record.record_type() == kind && owners.contains(&&record.name))
        .map(|record| record.data.clone())
        .collect()
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(address.0.into()),
        RData::AAAA(address) => Some(address.0.into()),
        _ => None,
    }
}

fn text(data: &RData) -> Option<Vec<u8>> {
    let RData::TXT(text) = data else { return None };
    Some(text.txt_data.iter().flat_map(|part| part.iter().copied()).take(Answer::MAX_TXT).collect())
}

fn caa(data: &RData) -> Option<CaaRecord> {
    let RData::CAA(caa) = data else { return None };
    Some(CaaRecord { flags: caa.flags(), tag: caa.tag.clone(), value: caa.value.clone() })
}

fn answered(code: ResponseCode) -> String {
    format!("the resolver answered {}", code.to_str().replace('\'', ""))
}

fn describe(error: &NetError) -> String {
    match error {
        NetError::Dns(DnsError::ResponseCode(code)) => answered(*code),
        NetError::Timeout => "no resolver answered in time".into(),
        NetError::Io(_) | NetError::NoConnections => "the resolver can't be reached".into(),
        NetError::Busy => "the resolver is busy".into(),
        _ => "the resolver's answer makes no sense".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc6761_6_3_localhost_is_a_whole_label_at_the_end() {
        for name in ["localhost", "LocalHost", "a.localhost", "_acme-challenge.a.b.localhost"] {
            assert!(is_localhost(name), "{name}");
        }
        for name in ["notlocalhost", "localhost.example", "a.localhost.example", "localhos"] {
            assert!(!is_localhost(name), "{name}");
        }
    }

    #[tokio::test]
    async fn without_any_resolver_localhost_works_and_other_names_say_what_to_set() {
        let resolver = Resolver { inner: None, limit: Duration::from_secs(1) };
        let deadline = Instant::now() + Duration::from_secs(1);
        let name = DnsName::parse("a.localhost").unwrap();
        let found = resolver.addresses(&name, "it", deadline).await.unwrap().found;
        assert_eq!(found, [IpAddr::from(Ipv6Addr::LOCALHOST), Ipv4Addr::LOCALHOST.into()]);
        let name = DnsName::parse("a.example").unwrap();
        let failure = resolver.addresses(&name, "it", deadline).await.unwrap_err();
        assert!(failure.detail.contains("acme.dns_servers"), "{}", failure.detail);
    }
}
