//! What the tests of clients start from: a CA in one of its layouts, and a DNS zone for its validation.

use std::net::{Ipv4Addr, Ipv6Addr};

use e2e::chancery::{Keys, Settings};
use e2e::clients::{Certbot, Issued, Lego};
use e2e::deployment::{Deployment, Layout};
use e2e::dns::{Data, Dns};
use e2e::judges::Case;

/// A running CA and the zone.
pub struct Scene {
    pub ca: Deployment,
    pub dns: Dns,
}

impl Scene {
    pub fn new(layout: Layout, keys: Keys) -> Self {
        let dns = Dns::start().unwrap();
        dns.add("example.test", Data::A(Ipv4Addr::LOCALHOST));
        dns.add("www.example.test", Data::A(Ipv4Addr::LOCALHOST));
        // Nobody listens on ::1: one family that answers is enough.
        dns.add("www.example.test", Data::Aaaa(Ipv6Addr::LOCALHOST));
        dns.add("alias.example.test", Data::Cname("www.example.test".into()));
        // Says nothing about who may issue (RFC 8659 §4.1).
        dns.add(
            "www.example.test",
            Data::Caa(false, "contactemail".into(), "hostmaster@example.test".into()),
        );
        let ca = Deployment::start(layout, &Settings::with(keys).dns(dns.address())).unwrap();
        Self { ca, dns }
    }

    /// A certbot without an account.
    pub fn certbot(&self) -> Certbot {
        Certbot::new(&self.ca.acme_directory, &self.ca.roots_pem).unwrap()
    }

    /// A lego without an account.
    pub fn lego(&self) -> Lego {
        Lego::new(&self.ca.acme_directory, &self.ca.roots_pem).unwrap()
    }

    /// For the judges.
    pub fn case(&self, issued: &Issued) -> Case {
        Case::new(&self.ca.roots_pem, issued).unwrap()
    }
}

/// Does this for all of them at once, since clients spend most of their time waiting, and returns what came of it in the
/// same order.
pub fn at_once<T: Send, R: Send, const N: usize>(all: [T; N], act: impl Fn(T) -> R + Sync) -> [R; N] {
    std::thread::scope(|scope| {
        let act = &act;
        let threads = all.map(|one| scope.spawn(move || act(one)));
        threads.map(|thread| thread.join().unwrap())
    })
}
