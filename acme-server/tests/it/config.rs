//! The section `[acme]` as it is written.

use acme_server::Config;

#[test]
fn unknown_keys_are_errors_that_name_the_key() {
    for (text, key) in [
        ("publik_url = \"https://ca.test\"", "publik_url"),
        ("[validation]\nallow = []", "allow"),
        ("[directories.lab]\npublic_url = \"https://ca.test\"", "public_url"),
    ] {
        let error = toml::from_str::<Config>(text).unwrap_err().to_string();
        assert!(error.contains(key), "{error}");
    }
}

#[test]
fn a_section_is_read_and_written() {
    let text = r#"
        public_url = "https://ca.example:8443"
        allowed_names = [".example", "10.0.0.0/8"]
        dns_servers = ["127.0.0.1:8053"]
        http01_port = 5002
        [validation]
        allow_networks = ["10.0.0.0/8"]
        [directories.default]
        [directories.lab]
        wildcards = true
    "#;
    let config: Config = toml::from_str(text).unwrap();
    let directories = config.directories().unwrap();
    let names: Vec<_> = directories.iter().map(|d| d.policy.directory.as_str()).collect();
    assert_eq!(names, ["default", "lab"]);
    assert_eq!(directories[1].prober.dns_servers, ["127.0.0.1:8053".parse().unwrap()]);
    assert!(directories[1].policy.wildcards && !directories[0].policy.wildcards);
    assert_eq!(toml::from_str::<Config>(&toml::to_string(&config).unwrap()).unwrap(), config);
}
