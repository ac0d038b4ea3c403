//! What goes beyond a certificate for a name, in each client that can: accounts bound to external ones, profiles, renewal
//! information (RFC 9773), addresses (RFC 8738).

use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use e2e::acme::csr;
use e2e::chancery::{Keys, Settings};
use e2e::clients::{
    Apache, Caddy, Dehydrated, Eab, Issued, KeyType, LegoChallenge, Library, Order, Site, Uacme,
};
use e2e::deployment::{Deployment, Layout};
use e2e::dns::Dns;
use e2e::eventually;
use e2e::http01::Http01;
use e2e::judges;
use e2e::pem;
use e2e::port::ReservedPort;
use instant_acme::{Account, ExternalAccountKey, Identifier, NewAccount, NewOrder, OrderStatus, RetryPolicy};

use super::{expect_another, expect_issued};
use crate::scene::Scene;
use crate::verdicts::{Kept, expect_good};

tests_with!(
    one_process(e2e::deployment::Layout::OneProcess, e2e::chancery::Keys::Software),
    every_client_binds_its_account_and_copes_with_orders_that_are_born_ready,
    clients_that_ask_for_a_profile_get_it,
    renewal_that_is_pulled_forward_reaches_apache_and_the_acme_library,
    certbot_gets_addresses_with_names_and_alone_and_others_are_told_how
);

/// How soon clients are told of what an administrator does.
const TOLD_WITHIN: Duration = Duration::from_secs(15);

type Get<'a> = Box<dyn Fn(&[&str]) -> Issued + Send + Sync + 'a>;

fn every_client_binds_its_account_and_copes_with_orders_that_are_born_ready(layout: Layout, keys: Keys) {
    let dns = Dns::start().unwrap();
    let settings =
        Settings::with(keys).dns(dns.address()).set("CHANCERY__ACME__EXTERNAL_ACCOUNT_REQUIRED", "true");
    let scene = Scene { ca: Deployment::start(layout, &settings).unwrap(), dns };
    let made =
        scene.ca.cli(&["eab", "create", "--owner", "mesh", "--name", ".mesh.test", "--trusted"]).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let eab = Eab { kid: text("id"), hmac_key: text("hmac_key") };
    let (url, roots) = (&scene.ca.acme_directory, &scene.ca.roots_pem);
    // Nobody answers a challenge: this is a directory where nothing is served.
    let nowhere = tempfile::tempdir().unwrap();
    let nowhere = nowhere.path();
    let ports: [_; 4] = std::array::from_fn(|_| ReservedPort::new().unwrap());
    let [http, https, apache_http, apache_https] = ports.each_ref().map(ReservedPort::address);

    Dehydrated::new(url, roots, nowhere).unwrap().register().unwrap_err();
    Uacme::new(url, roots, nowhere).unwrap().register().unwrap_err();

    let dehydrated = Dehydrated::new(url, roots, nowhere).unwrap().bound(&eab).unwrap();
    dehydrated.register().unwrap();
    let uacme = Uacme::new(url, roots, nowhere).unwrap().bound(&eab);
    uacme.register().unwrap();
    let acme = Library::acme(url, roots, nowhere, KeyType::Ec256).unwrap().bound(&eab);
    let acme_client = Library::acme_client(url, roots, nowhere, KeyType::Ec256).unwrap().bound(&eab);
    let mut caddy = Caddy::new(url, roots, http, https).unwrap().bound(&eab);
    let key = KeyType::Ec256;
    caddy.start(&[Site { host: "caddy.mesh.test", key, challenge: None }]).unwrap();
    let mut apache = Apache::new(url, roots, apache_http, apache_https).unwrap().bound(&eab);
    apache.add(&["apache.mesh.test"], &[key], "http-01");
    apache.start().unwrap();
    let library =
        |library: &Library, names: &[&str]| library.obtain(&Order { names, key, profile: None }).unwrap();

    // Its files go away with it.
    let kept = OnceLock::new();
    let all: [(&str, Get<'_>); 7] = [
        ("dehydrated", Box::new(|names| dehydrated.http01(names, key).unwrap())),
        ("uacme", Box::new(|names| uacme.http01(names, key).unwrap())),
        ("acme", Box::new(|names| library(&acme, names))),
        ("acme-client", Box::new(|names| library(&acme_client, names))),
        ("caddy", Box::new(|names| caddy.certificate(names[0], |_| Ok(true)).unwrap())),
        (
            "apache",
            Box::new(|names| {
                apache.wait_for(&format!("renewed {}", names[0]), 1).unwrap();
                apache.reload().unwrap();
                apache.wait_for(&format!("installed {}", names[0]), 1).unwrap();
                apache.certificate(names[0], key).unwrap()
            }),
        ),
        (
            "instant-acme",
            Box::new(|names| kept.get_or_init(|| instant_acme(&scene, &eab, names)).issued.clone()),
        ),
    ];
    let all = all.map(|(client, get)| (format!("{client}.mesh.test"), get));
    crate::scene::at_once(all, |(name, get)| {
        let issued = get(&[&name]);
        let case = scene.case(&issued);
        case.openssl_verify(&case.fetch_crls().unwrap()).unwrap();
        assert!(judges::certificate_text(&issued.certificate).unwrap().contains(&format!("DNS:{name}")));
    });

    assert_eq!(scene.dns.queries(), []);
    let accounts = scene.ca.cli(&["account", "list"]).unwrap();
    let accounts = accounts.as_array().unwrap();
    assert_eq!(accounts.len(), 7);
    assert!(accounts.iter().all(|account| account["external_account"] == eab.kid.as_str()), "{accounts:?}");
}

/// Binds an account and gets a certificate without looking at any challenge.
fn instant_acme(scene: &Scene, eab: &Eab, names: &[&str]) -> Kept {
    let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    let bound = ExternalAccountKey::new(eab.kid.clone(), &URL_SAFE_NO_PAD.decode(&eab.hmac_key).unwrap());
    runtime().block_on(async {
        let builder = Account::builder_with_root(&scene.ca.roots_pem).unwrap();
        let (account, _) = builder.create(&new, scene.ca.acme_directory.clone(), Some(&bound)).await.unwrap();
        let identifiers: Vec<_> = names.iter().map(|name| Identifier::Dns((*name).to_owned())).collect();
        let mut order = account.new_order(&NewOrder::new(&identifiers)).await.unwrap();
        assert_eq!(order.state().status, OrderStatus::Ready);
        let (csr, key) = csr(names).unwrap();
        order.finalize_csr(&csr).await.unwrap();
        let chain = order.poll_certificate(&RetryPolicy::default()).await.unwrap();
        Kept::new(&scene.ca.roots_pem, &pem::decode(&chain, "CERTIFICATE").unwrap(), &key)
    })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn clients_that_ask_for_a_profile_get_it(layout: Layout, keys: Keys) {
    const PROFILE: &str = "tls-client";
    let scene = Scene::new(layout, keys);
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let (url, roots) = (&scene.ca.acme_directory, &scene.ca.roots_pem);
    let key = KeyType::Ec256;
    let certbot = scene.certbot().profile(PROFILE);
    let acme = Library::acme(url, roots, http01.directory(), key).unwrap();
    let acme_client = Library::acme_client(url, roots, http01.directory(), key).unwrap();
    let other = ReservedPort::new().unwrap();
    let apache = Apache::new(url, roots, other.address(), scene.ca.tls_alpn01).unwrap();
    let mut apache = apache.with(&format!("MDProfile {PROFILE}")).with("MDProfileMandatory on");
    apache.add(&["first.localhost"], &[key], "tls-alpn-01");
    apache.start().unwrap();
    let library = |library: &Library, names: &[&str]| {
        library.obtain(&Order { names, key, profile: Some(PROFILE) }).unwrap()
    };

    let all: [(&str, Get<'_>); 4] = [
        ("www.example.test", Box::new(|names| library(&acme, names))),
        ("www.example.test", Box::new(|names| library(&acme_client, names))),
        ("example.test", Box::new(|names| certbot.dns01(names, key, &scene.dns).unwrap())),
        (
            "first.localhost",
            Box::new(|names| {
                apache.wait_for(&format!("renewed {}", names[0]), 1).unwrap();
                apache.reload().unwrap();
                apache.wait_for(&format!("installed {}", names[0]), 1).unwrap();
                apache.certificate(names[0], key).unwrap()
            }),
        ),
    ];
    crate::scene::at_once(all, |(name, get)| {
        let issued = get(&[name]);
        let text = judges::certificate_text(&issued.certificate).unwrap();
        let usage = "X509v3 Extended Key Usage: ";
        let (_, usage) = text.split_once(usage).unwrap_or_else(|| panic!("no {usage} in {text}"));
        assert_eq!(usage.lines().nth(1).map(str::trim), Some("TLS Web Client Authentication"));
    });
    assert_eq!(ordered_by_instant_acme(&scene, PROFILE).as_deref(), Some(PROFILE));
    let wrong = Order { names: &["www.example.test"], key, profile: Some("nonesuch") };
    for client in [&acme, &acme_client] {
        let error = format!("{:?}", client.obtain(&wrong).unwrap_err());
        assert!(error.contains("the profile 'nonesuch' is not offered here"), "{error}");
    }
}

/// The profile that an order says it has, which instant-acme placed after it had seen that it is offered.
fn ordered_by_instant_acme(scene: &Scene, profile: &str) -> Option<String> {
    let new = NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
    runtime().block_on(async {
        let builder = Account::builder_with_root(&scene.ca.roots_pem).unwrap();
        let (account, _) = builder.create(&new, scene.ca.acme_directory.clone(), None).await.unwrap();
        let names = [Identifier::Dns("www.example.test".to_owned())];
        let mut order = account.new_order(&NewOrder::new(&names).profile(profile)).await.unwrap();
        order.state().profile.clone()
    })
}

fn renewal_that_is_pulled_forward_reaches_apache_and_the_acme_library(layout: Layout, keys: Keys) {
    const HOST: &str = "www.example.test";
    let scene = Scene::new(layout, keys);
    let (url, roots) = (&scene.ca.acme_directory, &scene.ca.roots_pem);
    let mut apache = Apache::new(url, roots, scene.ca.http01, scene.ca.tls_alpn01).unwrap();
    apache.add(&[HOST], &[KeyType::Ec256], "http-01");
    apache.start().unwrap();
    apache.wait_for(&format!("renewed {HOST}"), 1).unwrap();
    apache.reload().unwrap();
    apache.wait_for(&format!("installed {HOST}"), 1).unwrap();
    let first = apache.certificate(HOST, KeyType::Ec256).unwrap();

    let library = Library::acme(url, roots, scene.ca.roots_pem.parent().unwrap(), KeyType::Ec256).unwrap();
    let due = || library.renewal_info(&first).unwrap().when.unwrap();
    let far = due();
    // Ninety days, of which the last third is for renewal.
    assert!(far > now() + 30.0 * 86_400.0, "{far}");
    let serial = scene.case(&first).serial().unwrap();
    let listed = scene.ca.cli(&["certificate", "list", "--name", HOST]).unwrap();
    let id = listed[0]["id"].as_str().unwrap();
    assert!(id.to_ascii_uppercase().ends_with(&serial), "{listed}");
    scene
        .ca
        .cli(&[
            "renewal",
            "pull",
            "--certificate",
            id,
            "--start",
            "2026-01-01T00:00:00Z",
            "--end",
            "2026-01-02T00:00:00Z",
        ])
        .unwrap();
    eventually("the library to be told of the earlier window", TOLD_WITHIN, || {
        Ok((due() < now()).then_some(()))
    })
    .unwrap();

    // It would ask again by itself within half a day.
    apache.reload().unwrap();
    apache.wait_for(&format!("renewed {HOST}"), 2).unwrap();
    apache.reload().unwrap();
    apache.wait_for(&format!("installed {HOST}"), 2).unwrap();
    let second = apache.certificate(HOST, KeyType::Ec256).unwrap();
    expect_another(&scene, &first, &second);
    expect_good(&scene.case(&second), &second, Some(HOST));
    let orders = scene.ca.cli(&["order", "list"]).unwrap();
    let replacing: Vec<_> =
        orders.as_array().unwrap().iter().filter(|order| order["replaces"] == id).collect();
    assert_eq!(replacing.len(), 1, "{orders}");
}

#[allow(clippy::disallowed_methods, reason = "the tests' one clock; they judge the program from outside")]
fn now() -> f64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap().as_secs_f64()
}

fn certbot_gets_addresses_with_names_and_alone_and_others_are_told_how(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let names = ["www.example.test", "127.0.0.1"];
    let certbot = scene.certbot();
    for (names, key) in [(&names[..], KeyType::Rsa2048), (&names[1..], KeyType::Ec256)] {
        let issued = certbot.http01(names, key, scene.ca.http01).unwrap();
        expect_issued(&scene, &issued, names, key);
        expect_another(&scene, &issued, &certbot.renew(names[0]).unwrap());
    }

    // These order an address as if it were a DNS name.
    let (names, key) = (&names[1..], KeyType::Ec256);
    let nowhere = tempfile::tempdir().unwrap();
    let dehydrated = Dehydrated::new(&scene.ca.acme_directory, &scene.ca.roots_pem, nowhere.path()).unwrap();
    dehydrated.register().unwrap();
    for error in [
        scene.lego().run(names, key, LegoChallenge::Http(scene.ca.http01)).unwrap_err(),
        dehydrated.http01(names, key).unwrap_err(),
    ] {
        let error = format!("{error:?}");
        assert!(error.contains("the name reads as an IP address; use an identifier of type ip"), "{error}");
    }
}
