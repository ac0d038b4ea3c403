//! Roles as processes of their own under users of their own: together they are one CA, apart each can do only its own.

use std::collections::HashSet;
use std::path::Path;
use std::time::Duration;

use e2e::acme::{self, Client, csr};
use e2e::chancery::{Keys, Settings};
use e2e::clients::{Certbot, KeyType};
use e2e::dns::{Data, Dns};
use e2e::judges::{Case, CertIdHash, Status};
use e2e::program::system_tool;
use e2e::roles::{Role, Roles};
use e2e::softhsm::Token;

use crate::verdicts::{Kept, expect_good};

on_both_key_backends! {
    front_ends_wait_for_the_ca_and_can_only_read_its_store,
    what_needs_no_signature_goes_on_while_the_ca_is_away,
}

fn front_ends_wait_for_the_ca_and_can_only_read_its_store(keys: Keys) {
    let mut roles = Roles::new(&Settings::with(keys)).unwrap();
    // The CA last: the others wait for it, say so, and go on by themselves.
    for role in [Role::Crl, Role::Ocsp, Role::Acme] {
        roles.start(role).unwrap();
    }
    let (status, report) = e2e::eventually("acme to say what is missing", Duration::from_secs(20), || {
        roles.readiness(Role::Acme).map(Some)
    })
    .unwrap();
    assert_eq!((status, &report["roles"]["acme"]["ready"]), (503, &false.into()), "{report}");
    roles.start(Role::Ca).unwrap();
    for role in Role::ALL {
        roles.ready(role).unwrap();
    }

    if roles.are_separate() {
        expect_users_of_their_own(&roles);
        expect_least_privilege(&roles);
    } else {
        eprintln!(
            "not root: the roles ran as separate processes of one user; what they can't open was not looked at"
        );
    }
    for role in Role::ALL {
        roles.stop(role).unwrap();
    }
}

/// Each process has its user and no way back to another.
fn expect_users_of_their_own(roles: &Roles) {
    let mut users = HashSet::new();
    for role in Role::ALL {
        let ids = roles.user_ids(role).unwrap();
        assert!(ids.iter().all(|id| *id == ids[0] && *id != 0), "{}: {ids:?}", role.name());
        assert!(users.insert(ids[0]), "{} shares its user", role.name());
    }
}

/// Front ends can read the store, and that is all: they can't write it, nor have the keys, nor command the CA.
fn expect_least_privilege(roles: &Roles) {
    let shell = system_tool("sh").unwrap();
    let data = roles.data();
    // `<>` opens with O_RDWR.
    let opens = |role, how: &str, path: &Path| {
        let script = format!("exec 3{how}\"$1\"");
        let arguments = ["-c", &script, "sh", path.to_str().unwrap()];
        let finished = roles.run_as(role, &shell, &arguments).unwrap();
        assert!(finished.status.success() || finished.stderr.contains("Permission denied"), "{finished}");
        finished.status.success()
    };
    let lists = |role, path: &Path| {
        let finished = roles.run_as(role, &system_tool("ls").unwrap(), &[path.to_str().unwrap()]).unwrap();
        assert!(finished.status.success() || finished.stderr.contains("Permission denied"), "{finished}");
        finished.status.success()
    };
    let store = ["store.db", "store.db-wal", "store.db-shm"].map(|name| data.join(name));
    assert!(store.iter().all(|file| opens(Role::Ca, "<>", file)), "the CA's user writes the store");
    for role in [Role::Acme, Role::Ocsp, Role::Crl] {
        for file in &store {
            assert!(opens(role, "<", file), "{} must read {}", role.name(), file.display());
            assert!(!opens(role, "<>", file), "{} must not write {}", role.name(), file.display());
        }
        assert!(!opens(role, ">", &data.join("anything")), "{} must not write beside the store", role.name());
        assert!(!opens(role, "<>", &data.join("ca.lock")), "{} must not take the CA's lock", role.name());
        for other in [Role::Acme, Role::Ocsp, Role::Crl] {
            assert_eq!(
                lists(role, &data.join(other.name())),
                role == other,
                "{} in {}",
                role.name(),
                other.name()
            );
        }
        let finished = roles
            .run_as(
                role,
                Path::new("/usr/bin/python3"),
                &[
                    "-c",
                    "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.connect(sys.argv[1])",
                    data.join("run/admin.sock").to_str().unwrap(),
                ],
            )
            .unwrap();
        assert!(finished.stderr.contains("PermissionError"), "{finished}");
        match roles.token() {
            None => {
                assert!(!opens(role, "<", &data.join("passphrase")));
                assert!(!lists(role, &data.join("keys")));
            }
            Some(token) => {
                assert!(!opens(role, "<", &token.pin_file()));
                assert!(!lists(role, &token.tokens()));
                assert!(!sees_token(roles, role));
            }
        }
    }
    assert!(roles.token().is_none() || sees_token(roles, Role::Ca), "the CA's user opens the token");
}

/// Whether the PKCS#11 module shows a role's user the token.
fn sees_token(roles: &Roles, role: Role) -> bool {
    let arguments = ["--show-slots"];
    let finished = roles.run_as(role, &system_tool("softhsm2-util").unwrap(), &arguments).unwrap();
    finished.stdout.contains(Token::LABEL)
}

fn what_needs_no_signature_goes_on_while_the_ca_is_away(keys: Keys) {
    let dns = Dns::start().unwrap();
    let mut roles = Roles::new(&Settings::with(keys).dns(dns.address())).unwrap();
    roles.start_all().unwrap();
    let certbot = Certbot::new(&roles.acme_directory().unwrap(), &roles.roots_pem()).unwrap();
    let issue = |name| {
        let issued = certbot.http01(&[name], KeyType::Ec256, roles.http01()).unwrap();
        (Case::new(&roles.roots_pem(), &issued).unwrap(), issued)
    };
    let (good, good_issued) = issue("good.localhost");
    let (revoked, revoked_issued) = issue("revoked.localhost");
    certbot.revoke_by_account(&revoked_issued, "superseded").unwrap();

    // An order that only has to be finalized.
    let client = Client::registered(&roles.acme_directory().unwrap(), &roles.roots_pem()).unwrap();
    let order = client.order(&[("dns", "later.example.test")]).unwrap();
    for challenge in client.challenges(&order, "dns-01").unwrap() {
        dns.add(&format!("_acme-challenge.{}", challenge.name), Data::Txt(challenge.dns_value()));
        client.respond(&challenge).unwrap();
    }
    let order = client.settled(&order, &["ready"]).unwrap();

    roles.stop(Role::Ca).unwrap();
    let answers = || {
        let url = good.ocsp_url().unwrap();
        for (case, status) in [(&good, Status::Good), (&revoked, Status::Revoked)] {
            for nonce in [false, true] {
                assert_eq!(case.openssl_ocsp(&url, CertIdHash::Sha256, nonce).unwrap().status, status);
            }
        }
        good.openssl_verify(&good.fetch_crls().unwrap()).unwrap();
    };
    answers();
    // Also from a cold start.
    for role in [Role::Ocsp, Role::Crl] {
        roles.stop(role).unwrap();
        roles.start(role).unwrap();
    }
    for role in [Role::Ocsp, Role::Crl] {
        roles.ready(role).unwrap();
    }
    answers();

    // ACME comes up too, with the TLS certificate that it kept.
    roles.stop(Role::Acme).unwrap();
    roles.start(Role::Acme).unwrap();
    // It still reads; what it would have to commit is put off, and the client is told when to come again.
    assert_eq!(client.read(&order.url).unwrap()["status"], "ready");
    let (csr, key) = csr(&["later.example.test"]).unwrap();
    let payload = serde_json::json!({ "csr": acme::base64url(&csr) }).to_string();
    let response = client.post(order.body["finalize"].as_str().unwrap(), &payload).unwrap();
    assert_eq!(response.status, 503, "{}", String::from_utf8_lossy(&response.body));
    assert_eq!(acme::kind(&response).as_deref(), Some("serverInternal"));
    let seconds: u32 = response.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(roles.readiness(Role::Acme).unwrap().0, 503);

    roles.start(Role::Ca).unwrap();
    for role in Role::ALL {
        roles.ready(role).unwrap();
    }
    client.finalize(&order, &csr).unwrap();
    let order = client.settled(&order, &["valid"]).unwrap();
    let kept = Kept::new(&roles.roots_pem(), &client.download(&order).unwrap(), &key);
    expect_good(&kept.case, &kept.issued, Some("later.example.test"));
    expect_good(&good, &good_issued, Some("good.localhost"));
}
