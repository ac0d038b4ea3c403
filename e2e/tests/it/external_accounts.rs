//! External account binding with real clients, RFC 8555 §7.3.4: bound, narrowed, trusted, and revoked.

use e2e::chancery::{Chancery, Keys, Settings};
use e2e::clients::{Certbot, Eab, KeyType, Lego, LegoChallenge};
use e2e::judges::Case;
use e2e::roles::Roles;
use serde_json::Value;

/// Makes an external account by the command line.
fn create(cli: impl Fn(&[&str]) -> anyhow::Result<Value>, arguments: &[&str]) -> Eab {
    let made = cli(&[&["eab", "create", "--owner", "somebody"], arguments].concat()).unwrap();
    let text =
        |field: &str| made[field].as_str().unwrap_or_else(|| panic!("no {field} in {made}")).to_owned();
    Eab { kid: text("id"), hmac_key: text("hmac_key") }
}

fn strict() -> Chancery {
    let settings = Settings::with(Keys::Software).set("CHANCERY__ACME__EXTERNAL_ACCOUNT_REQUIRED", "true");
    Chancery::start(&settings).unwrap()
}

fn certbot(ca: &Chancery) -> Certbot {
    let ready = ca.ready().unwrap();
    Certbot::new(&ready.acme_directory, &ready.roots_pem).unwrap()
}

fn lego(ca: &Chancery) -> Lego {
    let ready = ca.ready().unwrap();
    Lego::new(&ready.acme_directory, &ready.roots_pem).unwrap()
}

#[test]
fn certbot_and_lego_bind_their_accounts_and_get_what_was_granted() {
    let ca = strict();
    let eab = create(|arguments| ca.cli(arguments), &["--name", ".localhost", "--max-days", "7"]);
    let names = ["first.localhost"];

    let refused = certbot(&ca).http01(&names, KeyType::Ec256, ca.http01()).unwrap_err();
    let said = format!("{refused:?}");
    assert!(said.contains("external account") || said.contains("externalAccountRequired"), "{said}");
    let wrong = Eab { hmac_key: "AAAA".to_owned(), ..eab.clone() };
    lego(&ca).bound(&wrong).run(&names, KeyType::Ec256, LegoChallenge::Http(ca.http01())).unwrap_err();

    let certbot = certbot(&ca).bound(&eab);
    let issued = certbot.http01(&names, KeyType::Ec256, ca.http01()).unwrap();
    let case = Case::new(&ca.ready().unwrap().roots_pem, &issued).unwrap();
    case.openssl_verify(&case.fetch_crls().unwrap()).unwrap();
    certbot.renew(names[0]).unwrap();
    let refused = certbot.http01(&["other.test"], KeyType::Ec256, ca.http01()).unwrap_err();
    assert!(format!("{refused:?}").contains("does not grant"), "{refused:?}");

    let lego = lego(&ca).bound(&eab);
    let (names, challenge) = (["second.localhost"], LegoChallenge::Http(ca.http01()));
    lego.run(&names, KeyType::Ec256, challenge).unwrap();
    lego.renew(&names, KeyType::Ec256, challenge).unwrap();

    let shown = ca.cli(&["eab", "show", &eab.kid]).unwrap();
    assert_eq!(shown["accounts"].as_array().map(Vec::len), Some(2), "{shown}");
    assert!(!shown.to_string().contains(&eab.hmac_key));
    assert!(!ca.log().contains(&eab.hmac_key));
    for certificate in ca.cli(&["certificate", "list"]).unwrap().as_array().unwrap() {
        if certificate["account"].is_string() {
            let day = |field: &str| certificate[field].as_str().unwrap()[..10].to_owned();
            assert_ne!(day("not_before"), day("not_after"));
            let month = |field: &str| certificate[field].as_str().unwrap()[..7].to_owned();
            // Seven days, not the profile's ninety: at most the next month.
            assert!(month("not_after") <= next_month(&month("not_before")), "{certificate}");
        }
    }
}

/// The month after one that is written as `2026-11`.
fn next_month(month: &str) -> String {
    let (year, number) = (month[..4].parse::<u32>().unwrap(), month[5..].parse::<u32>().unwrap());
    if number == 12 { format!("{}-01", year + 1) } else { format!("{year}-{:02}", number + 1) }
}

#[test]
fn a_trusted_account_gets_certificates_without_answering_a_challenge() {
    let ca = strict();
    let eab = create(|arguments| ca.cli(arguments), &["--name", ".mesh.test", "--wildcards", "--trusted"]);
    // Names that no challenge could reach: they do not resolve.
    let certbot = certbot(&ca).bound(&eab);
    let issued = certbot.http01(&["a.mesh.test", "*.mesh.test"], KeyType::Ec256, ca.http01()).unwrap();
    let case = Case::new(&ca.ready().unwrap().roots_pem, &issued).unwrap();
    case.openssl_verify(&case.fetch_crls().unwrap()).unwrap();
    certbot.renew("a.mesh.test").unwrap();
    let lego = lego(&ca).bound(&eab);
    let challenge = LegoChallenge::Http(ca.http01());
    lego.run(&["b.mesh.test", "c.mesh.test"], KeyType::Ec256, challenge).unwrap();
    lego.renew(&["b.mesh.test", "c.mesh.test"], KeyType::Ec256, challenge).unwrap();
    // Beyond its names it gets nothing, trusted or not.
    lego.run(&["first.localhost"], KeyType::Ec256, challenge).unwrap_err();

    let revoked = ca.cli(&["eab", "revoke", &eab.kid, "--accounts"]).unwrap();
    assert_eq!(revoked["accounts_deactivated"], 2, "{revoked}");
    assert!(revoked["authorizations_revoked"].as_u64().unwrap() >= 6, "{revoked}");
    certbot.renew("a.mesh.test").unwrap_err();
    lego.run(&["d.mesh.test"], KeyType::Ec256, challenge).unwrap_err();
    for account in ca.cli(&["account", "list"]).unwrap().as_array().unwrap() {
        assert_eq!(account["status"], "revoked", "{account}");
        assert_eq!(account["external_account"], eab.kid.as_str());
    }
}

#[test]
fn a_revoked_external_account_ends_what_its_accounts_may_order_and_leaves_them() {
    let ca = strict();
    let eab = create(|arguments| ca.cli(arguments), &["--name", ".localhost"]);
    let certbot = certbot(&ca).bound(&eab);
    certbot.http01(&["first.localhost"], KeyType::Ec256, ca.http01()).unwrap();
    let revoked = ca.cli(&["eab", "revoke", &eab.kid]).unwrap();
    assert_eq!((&revoked["status"], &revoked["accounts_deactivated"]), (&"revoked".into(), &0.into()));
    let refused = certbot.renew("first.localhost").unwrap_err();
    assert!(format!("{refused:?}").contains("was revoked"), "{refused:?}");
    assert_eq!(ca.cli(&["account", "list"]).unwrap()[0]["status"], "valid");
}

#[test]
fn with_roles_apart_only_role_acme_opens_what_ca_has_sealed() {
    let settings = Settings::with(Keys::Software).set("CHANCERY__ACME__EXTERNAL_ACCOUNT_REQUIRED", "true");
    let mut roles = Roles::new(&settings).unwrap();
    roles.start_all().unwrap();
    let eab =
        create(|arguments| roles.cli(arguments), &["--name", ".example.test", "--trusted", "--single-use"]);
    let new = || Lego::new(&roles.acme_directory().unwrap(), &roles.roots_pem()).unwrap().bound(&eab);
    let (lego, challenge) = (new(), LegoChallenge::Http(roles.http01()));
    lego.run(&["a.example.test"], KeyType::Ec256, challenge).unwrap();
    let second = new().run(&["b.example.test"], KeyType::Ec256, challenge).unwrap_err();
    assert!(format!("{second:?}").contains("has been used"), "{second:?}");
    lego.renew(&["a.example.test"], KeyType::Ec256, challenge).unwrap();
}
