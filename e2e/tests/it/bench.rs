//! The load generator that the program ships, on the program itself.

use e2e::chancery::{Chancery, Keys, Settings};

#[test]
fn the_load_generator_orders_and_tells_what_it_saw() {
    let chancery = Chancery::start(&Settings::with(Keys::Software)).unwrap();
    let directory = &chancery.ready().unwrap().acme_directory;
    let http01 = chancery.http01().to_string();
    let metrics = format!("{}/metrics", chancery.metrics_url().unwrap());
    let server = chancery.process_id().unwrap().to_string();
    let arguments = ["bench", "acme", "--directory", directory, "--http01", &http01, "--orders", "24"];
    let measured = ["--clients", "8", "--warm-up", "1", "--metrics", &metrics, "--server-pid", &server];
    for sharing in [&[][..], &["--one-account"]] {
        let report = chancery.cli(&[&arguments[..], &measured, sharing].concat()).unwrap();
        let number = |pointer: &str| {
            report.pointer(pointer).unwrap_or_else(|| panic!("{pointer}: {report}")).as_f64().unwrap()
        };
        assert_eq!((number("/orders"), number("/failed")), (24.0, 0.0), "{report}");
        assert!((4.9..5.5).contains(&number("/store/commits")), "{report}");
        assert!(number("/steps/order/p99_ms") >= number("/steps/challenge/p99_ms"), "{report}");
        assert!(number("/server/cpu_per_order_ms") > 0.0, "{report}");
    }
    let elsewhere = ["bench", "acme", "--directory", "http://192.0.2.1/directory"];
    let refused = chancery.cli_finished(&elsewhere).unwrap();
    assert!(!refused.status.success());
    assert!(refused.stderr.contains("--allow-remote"), "{}", refused.stderr);
}
