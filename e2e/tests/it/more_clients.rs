//! The other ACME clients that people use: each gets a certificate with an EC and with an RSA key, renews, and revokes in the
//! way that it has. docs/CLIENTS.md says which of these tests shows what.

mod extensions;

use std::net::IpAddr;
use std::time::Duration;

use e2e::chancery::Keys;
use e2e::clients::{
    AcmeTiny, Apache, Caddy, Challenge, Dehydrated, Issued, KeyType, Library, Order, Site, Uacme, served,
};
use e2e::deployment::Layout;
use e2e::eventually;
use e2e::http01::Http01;
use e2e::judges::{self, Status};
use e2e::pem;

use crate::scene::{Scene, at_once};
use crate::verdicts::{expect_good, expect_revoked};

tests_with!(
    one_process(e2e::deployment::Layout::OneProcess, e2e::chancery::Keys::Software),
    dehydrated_gets_renews_and_revokes,
    uacme_gets_renews_and_revokes_names_and_addresses,
    acme_tiny_gets_and_renews,
    the_acme_library_gets_renews_and_revokes_names_and_addresses,
    acme_client_gets_renews_and_revokes_names_and_addresses,
    caddy_serves_renews_and_replaces_what_was_revoked,
    apache_serves_and_renews_also_two_keys_for_a_name
);

tests_with!(
    roles_apart(e2e::deployment::Layout::RolesApart, e2e::chancery::Keys::SoftHsm),
    caddy_serves_renews_and_replaces_what_was_revoked,
    apache_serves_and_renews_also_two_keys_for_a_name
);

/// How soon a server shows a certificate that it has.
const SERVED_WITHIN: Duration = Duration::from_secs(10);

/// What every judge says of a certificate just issued, for each of these names, and that its key is of that type.
fn expect_issued(scene: &Scene, issued: &Issued, names: &[&str], key: KeyType) {
    let text = judges::certificate_text(&issued.certificate).unwrap();
    assert!(text.contains(&format!("Public Key Algorithm: {}", key.algorithm())), "{text}");
    for name in names {
        let prefix = if name.parse::<IpAddr>().is_ok() { "IP Address" } else { "DNS" };
        assert!(text.contains(&format!("{prefix}:{name}")), "{name} in {text}");
    }
    expect_good(&scene.case(issued), issued, names.iter().copied().find(|name| !name.starts_with("*.")));
}

/// That these are two certificates.
fn expect_another(scene: &Scene, first: &Issued, second: &Issued) {
    assert_ne!(scene.case(first).serial().unwrap(), scene.case(second).serial().unwrap());
}

fn dehydrated_gets_renews_and_revokes(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let cases = [
        (["www.example.test", "alias.example.test"], KeyType::Ec256),
        (["*.example.test", "example.test"], KeyType::Rsa2048),
    ];
    at_once(cases, |(names, key)| {
        let client =
            Dehydrated::new(&scene.ca.acme_directory, &scene.ca.roots_pem, http01.directory()).unwrap();
        client.register().unwrap();
        let get = || match key {
            KeyType::Rsa2048 => client.dns01(&names, key, &scene.dns).unwrap(),
            KeyType::Ec256 | KeyType::Ec384 => client.http01(&names, key).unwrap(),
        };
        let issued = get();
        expect_issued(&scene, &issued, &names, key);
        let renewed = get();
        expect_another(&scene, &issued, &renewed);
        client.revoke(&issued).unwrap();
        expect_revoked(&scene.case(&issued), None);
        expect_good(&scene.case(&renewed), &renewed, None);
        client.deactivate().unwrap();
        client.revoke(&renewed).unwrap_err();
    });
}

fn uacme_gets_renews_and_revokes_names_and_addresses(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let cases = [
        (["www.example.test", "127.0.0.1"], KeyType::Ec384),
        (["*.example.test", "example.test"], KeyType::Rsa2048),
    ];
    at_once(cases, |(names, key)| {
        let client = Uacme::new(&scene.ca.acme_directory, &scene.ca.roots_pem, http01.directory()).unwrap();
        client.register().unwrap();
        let get = || match key {
            KeyType::Rsa2048 => client.dns01(&names, key, &scene.dns).unwrap(),
            KeyType::Ec256 | KeyType::Ec384 => client.http01(&names, key).unwrap(),
        };
        let issued = get();
        expect_issued(&scene, &issued, &names, key);
        client.change_key().unwrap();
        let renewed = get();
        expect_another(&scene, &issued, &renewed);
        client.revoke(&issued, 4).unwrap();
        expect_revoked(&scene.case(&issued), "superseded");
        client.deactivate().unwrap();
        client.revoke(&renewed, 4).unwrap_err();
    });
}

fn acme_tiny_gets_and_renews(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let client = AcmeTiny::new(&scene.ca.acme_directory, &scene.ca.roots_pem, http01.directory()).unwrap();
    let cases = [
        (["www.example.test", "alias.example.test"], KeyType::Ec256),
        (["example.test", "first.localhost"], KeyType::Rsa2048),
    ];
    at_once(cases, |(names, key)| {
        let issued = client.run(&names, key).unwrap();
        expect_issued(&scene, &issued, &names, key);
        expect_another(&scene, &issued, &client.run(&names, key).unwrap());
    });
}

fn the_acme_library_gets_renews_and_revokes_names_and_addresses(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let cases = [
        (["www.example.test", "127.0.0.1"], KeyType::Ec256),
        (["example.test", "alias.example.test"], KeyType::Rsa2048),
    ];
    at_once(cases, |(names, key)| {
        let (url, roots) = (&scene.ca.acme_directory, &scene.ca.roots_pem);
        let client = Library::acme(url, roots, http01.directory(), key).unwrap();
        let order = Order { names: &names, key, profile: None };
        let issued = client.obtain(&order).unwrap();
        expect_issued(&scene, &issued, &names, key);
        let renewed = client.obtain(&order).unwrap();
        expect_another(&scene, &issued, &renewed);
        client.revoke(&issued, 5).unwrap();
        expect_revoked(&scene.case(&issued), "cessationOfOperation");
        client.deactivate().unwrap();
        client.revoke(&renewed, 5).unwrap_err();
    });
}

fn acme_client_gets_renews_and_revokes_names_and_addresses(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let cases = [
        (["www.example.test", "127.0.0.1"], KeyType::Ec384),
        (["example.test", "alias.example.test"], KeyType::Rsa2048),
    ];
    at_once(cases, |(names, key)| {
        let (url, roots) = (&scene.ca.acme_directory, &scene.ca.roots_pem);
        let client = Library::acme_client(url, roots, http01.directory(), key).unwrap();
        let order = Order { names: &names, key, profile: None };
        let issued = client.obtain(&order).unwrap();
        expect_issued(&scene, &issued, &names, key);
        client.change_key().unwrap();
        let renewed = client.obtain(&order).unwrap();
        expect_another(&scene, &issued, &renewed);
        client.revoke(&issued, 1).unwrap();
        expect_revoked(&scene.case(&issued), "keyCompromise");
        client.deactivate().unwrap();
        client.revoke(&renewed, 1).unwrap_err();
    });
}

fn caddy_serves_renews_and_replaces_what_was_revoked(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let sites = [
        Site { host: "www.example.test", key: KeyType::Ec256, challenge: Some(Challenge::TlsAlpn01) },
        Site { host: "127.0.0.1", key: KeyType::Rsa2048, challenge: Some(Challenge::Http01) },
    ];
    let (http, https) = (scene.ca.http01, scene.ca.tls_alpn01);
    let mut caddy = Caddy::new(&scene.ca.acme_directory, &scene.ca.roots_pem, http, https).unwrap();
    caddy.start(&sites).unwrap();
    let issued = at_once(sites, |site| {
        let issued = caddy.certificate(site.host, |_| Ok(true)).unwrap();
        expect_issued(&scene, &issued, &[site.host], site.key);
        expect_served(&scene, &issued, site.host, site.key);
        issued
    });

    // Caddy has no command for it; what the administrator revokes it notices by OCSP.
    caddy.stop().unwrap();
    let serial = scene.case(&issued[0]).serial().unwrap();
    scene.ca.cli(&["certificate", "revoke", &serial, "--reason", "superseded"]).unwrap();
    caddy.start(&sites).unwrap();
    let other_than = |old: &Issued, host: &str| {
        let old = scene.case(old).serial().unwrap();
        caddy.certificate(host, |new| Ok(scene.case(new).serial()? != old)).unwrap()
    };
    let replaced = other_than(&issued[0], sites[0].host);
    expect_good(&scene.case(&replaced), &replaced, Some(sites[0].host));
    expect_served(&scene, &replaced, sites[0].host, sites[0].key);

    caddy.stop().unwrap();
    assert!(!caddy.log().contains("\"level\":\"error\""), "{}", caddy.log());
    caddy.start_with_everything_due(&sites).unwrap();
    at_once([(&replaced, sites[0]), (&issued[1], sites[1])], |(old, site)| {
        let old = scene.case(old).serial().unwrap();
        caddy.certificate(site.host, |new| Ok(scene.case(new).serial()? != old)).unwrap();
    });
}

fn apache_serves_and_renews_also_two_keys_for_a_name(layout: Layout, keys: Keys) {
    const EC_AND_RSA: [KeyType; 2] = [KeyType::Ec256, KeyType::Rsa2048];
    const HOSTS: [&str; 2] = ["www.example.test", "first.localhost"];
    let scene = Scene::new(layout, keys);
    let (http, https) = (scene.ca.http01, scene.ca.tls_alpn01);
    let mut apache = Apache::new(&scene.ca.acme_directory, &scene.ca.roots_pem, http, https).unwrap();
    apache.add(&[HOSTS[0], "alias.example.test"], &EC_AND_RSA, "http-01");
    // mod_md answers tls-alpn-01 for one type of key only: with two, a validator that can use the other type is shown a
    // certificate without the answer.
    apache.add(&[HOSTS[1]], &[KeyType::Rsa2048], "tls-alpn-01");
    apache.start().unwrap();
    let told = |event: &str, times: [usize; 2]| {
        for (host, times) in HOSTS.into_iter().zip(times) {
            apache.wait_for(&format!("{event} {host}"), times).unwrap();
        }
    };
    // What mod_md got is taken into use when Apache reloads.
    told("renewed", [1, 1]);
    apache.reload().unwrap();
    // A response for each key.
    told("ocsp-renewed", [2, 1]);
    let all = [(HOSTS[0], KeyType::Ec256), (HOSTS[0], KeyType::Rsa2048), (HOSTS[1], KeyType::Rsa2048)];
    let issued = at_once(all, |(host, key)| {
        let issued = apache.certificate(host, key).unwrap();
        expect_issued(&scene, &issued, &[host], key);
        expect_served(&scene, &issued, host, key);
        issued
    });

    apache.reload_with("MDRenewWindow 2400h").unwrap();
    told("renewed", [2, 2]);
    apache.reload_with("").unwrap();
    told("installed", [2, 2]);
    for ((host, key), old) in all.into_iter().zip(&issued) {
        expect_another(&scene, old, &apache.certificate(host, key).unwrap());
    }
    apache.stop().unwrap();
}

/// That a server comes to show this certificate, to those who can use its type of key only, with a response that says `good`:
/// what is on its disk is not in use at the same moment.
fn expect_served(scene: &Scene, issued: &Issued, host: &str, key: KeyType) {
    let text = std::fs::read_to_string(&issued.certificate).unwrap();
    let own = &pem::decode(&text, "CERTIFICATE").unwrap()[0];
    eventually("the certificate to be served with a stapled response", SERVED_WITHIN, || {
        let served = served(scene.ca.tls_alpn01, &scene.ca.roots_pem, host, key)?;
        Ok((served.certificate == *own && served.staple == Some(Status::Good)).then_some(()))
    })
    .unwrap();
}
