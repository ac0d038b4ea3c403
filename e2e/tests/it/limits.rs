//! Rate limits, pauses and trusted proxies of the whole program, over a restart and through the command line.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};

use e2e::acme::{Client, Https, JOSE, Key};
use e2e::chancery::{Chancery, Keys, Settings};
use e2e::http::{self, Response};
use serde_json::{Value, json};

fn start(settings: &[(&str, &str)]) -> Chancery {
    let base = Settings::with(Keys::Software);
    let set = |all: Settings, (key, value): &(&str, &str)| all.set(&format!("CHANCERY__ACME__{key}"), value);
    Chancery::start(&settings.iter().fold(base, set)).unwrap()
}

fn client(ca: &Chancery) -> Client {
    let ready = ca.ready().unwrap();
    Client::registered(&ready.acme_directory, &ready.roots_pem).unwrap()
}

fn account(client: &Client) -> String {
    client.account().unwrap().rsplit('/').next().unwrap().to_owned()
}

fn new_order(client: &Client, name: &str) -> Response {
    let payload = json!({ "identifiers": [{ "type": "dns", "value": name }] });
    client.post(&client.resource("newOrder").unwrap(), &payload.to_string()).unwrap()
}

/// Asserts that a response is the refusal of a limit, and gives its detail.
fn refused(response: &Response) -> String {
    let problem: Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(response.status, 429, "{problem}");
    assert_eq!(problem["type"], "urn:ietf:params:acme:error:rateLimited");
    let seconds: u64 = response.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!(seconds > 0);
    problem["detail"].as_str().unwrap().to_owned()
}

fn metric(ca: &Chancery, series: &str) -> f64 {
    let text = http::get(&format!("{}/metrics", ca.metrics_url().unwrap())).unwrap().body;
    let text = String::from_utf8(text).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    found.unwrap_or_else(|| panic!("no {series} in {text}"))
}

#[test]
fn a_limit_holds_over_a_restart_until_the_operator_lifts_it() {
    let mut ca = start(&[("LIMITS__NEW_ORDERS_PER_ACCOUNT", "2/1d")]);
    let client = client(&ca);
    for name in ["a.localhost", "b.localhost"] {
        assert_eq!(new_order(&client, name).status, 201);
    }
    let detail = refused(&new_order(&client, "c.localhost"));
    assert!(detail.contains("acme.limits.new_orders_per_account") && detail.contains("2/1d"), "{detail}");
    assert!(metric(&ca, "chancery_acme_limited_total{limit=\"new_orders_per_account\"}") >= 1.0);
    ca.stop().unwrap();
    ca.restart().unwrap();
    refused(&new_order(&client, "c.localhost"));
    // What was acknowledged was counted, also if the process had no time to end.
    ca.kill().unwrap();
    ca.restart().unwrap();
    refused(&new_order(&client, "c.localhost"));

    let id = account(&client);
    let limited = ca.cli(&["account", "limit", &id, "new_orders_per_account", "3/1d"]).unwrap();
    assert_eq!(limited["limits"], json!({ "new_orders_per_account": "3/1d" }));
    for _ in 0..3 {
        assert_eq!(new_order(&client, "c.localhost").status, 201);
    }
    refused(&new_order(&client, "c.localhost"));
    ca.cli(&["account", "limit", &id, "new_orders_per_account", "off"]).unwrap();
    assert_eq!(new_order(&client, "c.localhost").status, 201);
    let shown = ca.cli(&["account", "limit", &id, "new_orders_per_account", "default"]).unwrap();
    assert_eq!(shown["limits"], json!({}));
    refused(&new_order(&client, "c.localhost"));
}

/// Answers everything with 404 from a thread that ends with the test's process.
fn refuse_challenges(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = BufReader::new(stream.try_clone().unwrap()).lines();
            head.map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
            // Whoever asked may have gone.
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
}

#[test]
fn a_name_that_fails_for_ever_is_paused_listed_and_unpaused() {
    let mut ca = start(&[("LIMITS__PAUSE_AFTER_FAILURES", "2")]);
    let client = client(&ca);
    refuse_challenges(ca.http01());
    let fail = || {
        let order = client.order(&[("dns", "a.localhost")]).unwrap();
        for challenge in client.challenges(&order, "http-01").unwrap() {
            client.respond(&challenge).unwrap();
        }
        client.settled(&order, &["invalid"]).unwrap();
    };
    fail();
    assert_eq!(ca.cli(&["account", "paused"]).unwrap(), json!([]));
    fail();
    let detail = refused(&new_order(&client, "a.localhost"));
    let id = account(&client);
    assert!(detail.contains(&format!("chancery account unpause {id} a.localhost")), "{detail}");
    assert_eq!(new_order(&client, "b.localhost").status, 201);
    ca.stop().unwrap();
    ca.restart().unwrap();
    refused(&new_order(&client, "a.localhost"));
    assert!(metric(&ca, "chancery_acme_limited_total{limit=\"pause_after_failures\"}") >= 1.0);

    let listed = ca.cli(&["account", "paused", "--account", &id]).unwrap();
    assert_eq!((&listed[0]["name"], &listed[0]["failures"]), (&json!("a.localhost"), &json!(2)), "{listed}");
    // Without a server too.
    ca.stop().unwrap();
    let lifted = ca.cli(&["account", "unpause", &id, "a.localhost"]).unwrap();
    assert_eq!(lifted["unpaused"], json!(["a.localhost"]));
    ca.restart().unwrap();
    assert_eq!(new_order(&client, "a.localhost").status, 201);
    assert_eq!(ca.cli(&["account", "paused"]).unwrap(), json!([]));
}

#[test]
fn a_trusted_proxy_says_who_the_client_is_and_nobody_else_does() {
    let limit = ("LIMITS__NEW_ACCOUNTS_PER_ADDRESS", "1/1d");
    let register = |ca: &Chancery, forwarded: &str| {
        let ready = ca.ready().unwrap();
        let client = Client::new(&ready.acme_directory, &ready.roots_pem).unwrap();
        let https = Https::new(&ready.acme_directory, &ready.roots_pem).unwrap();
        let (url, key) = (client.resource("newAccount").unwrap(), Key::generate().unwrap());
        let mut protected = client.protected(&url).unwrap();
        protected["jwk"] = key.jwk();
        let jws = key.sign(&protected, "{}").unwrap().to_string();
        let headers = [("Content-Type", JOSE), ("X-Forwarded-For", forwarded)];
        https.request("POST", &url, &headers, jws.as_bytes()).unwrap()
    };
    let ca = start(&[limit, ("TRUSTED_PROXIES", "[\"127.0.0.0/8\"]")]);
    assert_eq!(register(&ca, "192.0.2.1").status, 201);
    assert_eq!(register(&ca, "192.0.2.2").status, 201);
    refused(&register(&ca, "198.51.100.1, 192.0.2.1, 127.0.0.9"));
    let ca = start(&[limit]);
    assert_eq!(register(&ca, "192.0.2.1").status, 201);
    refused(&register(&ca, "192.0.2.2"));
}
