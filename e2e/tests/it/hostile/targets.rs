//! Names that point where validation must not connect to: refused before anything is sent, however they are written.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use e2e::chancery::{Keys, Settings};
use e2e::dns::Data;
use e2e::far_side::FarSide;
use serde_json::json;

use super::Scene;

/// What no validation in these tests may reach, whatever is allowed: all but 127.0.0.1, so that no packet leaves.
const DENIED: [&str; 13] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.2/32",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.51.100.0/24",
    "::1/128",
    "fd00::/8",
    "fe80::/10",
    "2001:db8::/32",
];

/// Where the attacker wants us to go: metadata services, link-local, private, documentation and loopback addresses, and
/// IPv6 forms of them (IPv4-mapped, IPv4-compatible, NAT64, 6to4).
const TARGETS: [&str; 26] = [
    "169.254.169.254",
    "169.254.0.1",
    "100.100.100.200",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "192.0.2.1",
    "0.0.0.0",
    "127.0.0.2",
    "::",
    "::1",
    "fe80::1",
    "fd00:ec2::254",
    "2001:db8::1",
    "::ffff:169.254.169.254",
    "::ffff:127.0.0.2",
    "::ffff:10.0.0.1",
    "::a9fe:a9fe",
    "::7f00:2",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:2",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2002:7f00:2::1",
    "2001:0:a9fe:a9fe::1",
    "ff02::1",
];

fn scene() -> Scene {
    let settings = Settings::with(Keys::Software)
        .set("CHANCERY__ACME__VALIDATION__ALLOW_NETWORKS", r#"["127.0.0.1/32"]"#)
        .set("CHANCERY__ACME__VALIDATION__DENY_NETWORKS", &json!(DENIED).to_string());
    Scene::new(settings)
}

fn record(address: &str) -> Data {
    match address.parse().unwrap() {
        IpAddr::V4(address) => Data::A(address),
        IpAddr::V6(address) => Data::Aaaa(address),
    }
}

/// A host as it stands in a URL.
fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Listeners at the loopback addresses that are denied, on every port that a validation may ask.
fn traps(scene: &Scene) -> Vec<FarSide> {
    let mut traps = Vec::new();
    for port in [scene.chancery.http01(), scene.chancery.tls_alpn01()] {
        traps.push(FarSide::trap(Ipv4Addr::new(127, 0, 0, 2).into(), port).unwrap());
        traps.push(FarSide::trap(Ipv6Addr::LOCALHOST.into(), port).unwrap());
    }
    traps
}

fn redirect(mut stream: std::net::TcpStream, location: &str) {
    let head = format!(
        "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    // Whoever asked may have gone.
    let _ = stream.write_all(head.as_bytes());
}

#[test]
fn denied_addresses_are_refused_before_a_connection_in_every_form_and_by_every_way() {
    let scene = scene();
    let traps = traps(&scene);
    // http://N.redirect.example.test/ leads to TARGETS[N], as an address or by a name.
    let _far = FarSide::start(scene.chancery.http01(), |host, _, stream| {
        let number: usize = host.split('.').next().and_then(|label| label[1..].parse().ok()).unwrap_or(0);
        let host =
            if host.starts_with('n') { format!("a{number}.target.test") } else { bracketed(TARGETS[number]) };
        redirect(stream, &format!("http://{host}/latest/meta-data/"));
    })
    .unwrap();
    let mut names = Vec::new();
    for (number, target) in TARGETS.into_iter().enumerate() {
        let direct = format!("a{number}.target.test");
        scene.dns.add(&direct, record(target));
        scene.dns.add(&format!("c{number}.alias.test"), Data::Cname(direct.clone()));
        for redirecting in [format!("r{number}.redirect.test"), format!("n{number}.redirect.test")] {
            scene.dns.add(&redirecting, Data::A(Ipv4Addr::LOCALHOST));
            names.push(("http-01", redirecting));
        }
        names.push(("tls-alpn-01", format!("c{number}.alias.test")));
        names.push(("http-01", format!("c{number}.alias.test")));
        names.push((if number % 2 == 0 { "http-01" } else { "tls-alpn-01" }, direct));
    }
    for kind in ["http-01", "tls-alpn-01"] {
        let names: Vec<_> = names.iter().filter(|name| name.0 == kind).map(|name| name.1.as_str()).collect();
        refused(&scene, kind, "dns", &names);
    }
    // The addresses themselves as identifiers.
    refused(&scene, "http-01", "ip", &TARGETS);
    refused(&scene, "tls-alpn-01", "ip", &TARGETS);
    for trap in traps {
        assert_eq!(trap.asked(), 0, "a connection to a denied address");
    }
    scene.expect_unharmed();
}

/// Orders all of them at once, by four accounts, and expects each challenge to fail as one whose target is denied.
fn refused(scene: &Scene, challenge: &str, kind: &str, values: &[&str]) {
    std::thread::scope(|scope| {
        for values in values.chunks(values.len().div_ceil(4)) {
            scope.spawn(move || {
                let client = scene.another();
                let identifiers: Vec<_> = values.iter().map(|value| (kind, *value)).collect();
                let order = client.order(&identifiers).unwrap();
                let challenges = client.challenges(&order, challenge).unwrap();
                assert_eq!(challenges.len(), values.len());
                for challenge in &challenges {
                    client.respond(challenge).unwrap();
                    let (kind, detail) = scene.failure(&client, &order, challenge);
                    let what = format!("{}: {detail}", challenge.name);
                    assert_eq!(kind, "rejectedIdentifier", "{what}");
                    assert!(detail.contains("may be connected to"), "{what}");
                    assert!(
                        detail.contains("is in acme.validation.deny_networks")
                            || detail.contains("is not a global address"),
                        "{what}"
                    );
                }
            });
        }
    });
}

#[test]
fn other_spellings_of_an_address_in_a_redirect_lead_nowhere() {
    const SPELLINGS: [&str; 14] = [
        "http://2130706434/",
        "http://0x7f000002/",
        "http://0177.0.0.2/",
        "http://127.2/",
        "http://127.0.0.2./",
        "http://0/",
        "http://[::1%25lo]/",
        "http://[fe80::1%25eth0]/",
        "http://[::ffff:7f00:2]/",
        "http://allowed@127.0.0.2/",
        "http://127.0.0.1\\@127.0.0.2/",
        "//127.0.0.2/",
        "gopher://127.0.0.2/",
        "file:///etc/passwd",
    ];
    let scene = scene();
    let traps = traps(&scene);
    let far = FarSide::start(scene.chancery.http01(), |host, _, stream| {
        redirect(stream, SPELLINGS[host[1..].split('.').next().unwrap().parse::<usize>().unwrap()]);
    })
    .unwrap();
    let names: Vec<_> = (0..SPELLINGS.len()).map(|number| format!("s{number}.redirect.test")).collect();
    for name in &names {
        scene.dns.add(name, Data::A(Ipv4Addr::LOCALHOST));
    }
    // A name by the rules of the DNS, and an address to some resolvers.
    scene.dns.add("0x7f000002", Data::A(Ipv4Addr::new(127, 0, 0, 2)));
    let identifiers: Vec<_> = names.iter().map(|name| ("dns", name.as_str())).collect();
    let order = scene.client.order(&identifiers).unwrap();
    let challenges = scene.client.challenges(&order, "http-01").unwrap();
    for challenge in &challenges {
        scene.client.respond(challenge).unwrap();
    }
    for challenge in challenges {
        let (kind, detail) = scene.failure(&scene.client, &order, &challenge);
        // As an address it is denied, and else it is no URL that is followed.
        let fine = ["rejectedIdentifier", "incorrectResponse"].contains(&kind.as_str());
        assert!(fine, "{}: {kind} {detail}", challenge.name);
    }
    assert!(far.asked() >= SPELLINGS.len());
    for trap in traps {
        assert_eq!(trap.asked(), 0, "a connection to a denied address");
    }
    scene.expect_unharmed();
}

#[test]
fn a_name_that_is_rebound_between_check_and_connection_gains_nothing() {
    let scene = scene();
    let traps = traps(&scene);
    let denied = Ipv4Addr::new(127, 0, 0, 2);
    let (name, twice) = ("once.rebind.test", "twice.rebind.test");
    for name in [name, twice] {
        scene.dns.add(name, Data::A(Ipv4Addr::LOCALHOST));
        scene.dns.rebind(name, Data::A(denied));
    }
    let far = FarSide::start(scene.chancery.http01(), |host, target, mut stream| {
        if host.starts_with("twice") {
            // Back to the same name, which means another address by now.
            return redirect(stream, &format!("{target}?again"));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno");
    })
    .unwrap();
    // The address that was looked at is the one that was connected to: the answer comes from there.
    let (order, challenge) = scene.attempt(&scene.client, ("dns", name), "http-01");
    let (kind, detail) = scene.failure(&scene.client, &order, &challenge);
    assert_eq!(kind, "unauthorized", "{detail}");
    let asked = SocketAddr::from((Ipv4Addr::LOCALHOST, scene.chancery.http01().port()));
    assert!(detail.contains(&asked.to_string()), "{detail}");
    // With the redirect the name is looked up, and its address looked at, again.
    let (order, challenge) = scene.attempt(&scene.client, ("dns", twice), "http-01");
    let (kind, detail) = scene.failure(&scene.client, &order, &challenge);
    assert_eq!(kind, "rejectedIdentifier", "{detail}");
    assert!(detail.contains("127.0.0.2 is in acme.validation.deny_networks"), "{detail}");
    // And now the first name leads nowhere either.
    let (order, challenge) = scene.attempt(&scene.client, ("dns", name), "http-01");
    assert_eq!(scene.failure(&scene.client, &order, &challenge).0, "rejectedIdentifier");
    assert_eq!(far.asked(), 2);
    for trap in traps {
        assert_eq!(trap.asked(), 0, "a connection to a denied address");
    }
    scene.expect_unharmed();
}
