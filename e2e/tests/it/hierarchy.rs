//! Roots and issuing CAs that come beside those which serve: relying parties notice nothing but a new chain.

use std::time::Duration;

use e2e::acme::{Client, csr};
use e2e::chancery::Keys;
use e2e::clients::KeyType;
use e2e::deployment::Layout;
use e2e::eventually;
use e2e::http01::Http01;

use crate::scene::Scene;
use crate::verdicts::{Kept, expect_good, expect_revoked};

/// How soon a new CA's CRLs are where its certificates say.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(1);

in_every_deployment! {
    a_new_issuing_ca_takes_over_and_the_old_one_is_still_asked,
}

fn a_new_issuing_ca_takes_over_and_the_old_one_is_still_asked(layout: Layout, keys: Keys) {
    let scene = Scene::new(layout, keys);
    let certbot = scene.certbot();
    let old = certbot.http01(&["www.example.test"], KeyType::Ec256, scene.ca.http01).unwrap();
    let old_case = scene.case(&old);

    for (arguments, parent) in [
        (["issuer", "create", "--key-algorithm", "rsa-2048"].as_slice(), "root-1"),
        (["root", "create", "--key-algorithm", "ec-p384", "--name", "Second Ltd"].as_slice(), "-"),
        (["issuer", "create"].as_slice(), "root-2"),
    ] {
        let created = scene.ca.cli(arguments).unwrap();
        assert_eq!(created["parent"].as_str().unwrap_or("-"), parent, "{created}");
        if created["kind"] == "root" {
            continue;
        }
        // At once, so that nothing had time to settle.
        let new = issue(&scene);
        // Another process serves them.
        eventually("the first CRLs to be served", TAKEN_UP_WITHIN, || Ok(new.case.fetch_crls().ok()))
            .unwrap();
        expect_good(&new.case, &new.issued, None);
        let listed = scene.ca.cli(&["certificate", "list", "--issuer", created["id"].as_str().unwrap()]);
        let listed = listed.unwrap();
        assert!(listed.as_array().unwrap().iter().any(|row| !row["order"].is_null()), "{listed}");
    }

    expect_good(&old_case, &old, Some("www.example.test"));
    certbot.revoke_by_account(&old, "superseded").unwrap();
    expect_revoked(&old_case, "superseded");
}

/// Gets a certificate as fast as it can be had.
fn issue(scene: &Scene) -> Kept {
    let http01 = Http01::start(scene.ca.http01).unwrap();
    let client = Client::registered(&scene.ca.acme_directory, &scene.ca.roots_pem).unwrap();
    let order = client.order(&[("dns", "www.example.test")]).unwrap();
    for challenge in client.challenges(&order, "http-01").unwrap() {
        http01.add(&challenge.token, &challenge.key_authorization);
        client.respond(&challenge).unwrap();
    }
    let order = client.settled(&order, &["ready"]).unwrap();
    let (csr, key) = csr(&["www.example.test"]).unwrap();
    client.finalize(&order, &csr).unwrap();
    let order = client.settled(&order, &["valid"]).unwrap();
    Kept::new(&scene.ca.roots_pem, &client.download(&order).unwrap(), &key)
}
