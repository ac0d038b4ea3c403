//! SoftHSM for one test: its own configuration and tokens, in a process of its own.
//!
//! SoftHSM finds its configuration through the environment and is initialised once per process, so each test runs
//! itself again as a child process; that holds for `cargo test`, which runs tests as threads, as for nextest.

use std::path::{Path, PathBuf};
use std::process::Command;

use hsm::Metrics;
use hsm::pkcs11::{Pkcs11Config, Pkcs11Keys};

pub const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
pub const PIN: &str = "2468";
/// Tells the child where its tokens are.
const DIRECTORY: &str = "CHANCERY_TEST_SOFTHSM";

/// The tokens of one test.
pub struct SoftHsm {
    directory: PathBuf,
}

impl SoftHsm {
    /// Runs `body` in a child process; `name` is the path of the calling test.
    pub fn run(name: &str, body: impl FnOnce(&Self)) {
        if let Some(directory) = std::env::var_os(DIRECTORY) {
            return body(&Self { directory: directory.into() });
        }
        assert!(Path::new(MODULE).exists(), "{MODULE} is needed: apt-get install softhsm2");
        let directory = tempfile::tempdir().unwrap();
        let (tokens, conf) = (directory.path().join("tokens"), directory.path().join("softhsm2.conf"));
        std::fs::create_dir(&tokens).unwrap();
        let text = format!(
            "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\n",
            tokens.display()
        );
        std::fs::write(&conf, text).unwrap();
        let (_, test) = name.split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args([test, "--exact", "--nocapture"])
            .env("SOFTHSM2_CONF", &conf)
            .env(DIRECTORY, directory.path())
            .output()
            .unwrap();
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{}\n{stdout}\n{stderr}", output.status);
        assert!(stdout.contains("1 passed"), "the test '{test}' did not run: {stdout}");
    }

    /// Makes a token.
    pub fn create(&self, label: &str) {
        let output = Command::new("softhsm2-util")
            .args(["--init-token", "--free", "--label", label, "--so-pin", "97531", "--pin", PIN])
            .output()
            .expect("softhsm2-util is needed: apt-get install softhsm2");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// The directory of all tokens.
    pub fn tokens(&self) -> PathBuf {
        self.directory.join("tokens")
    }

    /// Where tokens can be put away.
    pub fn elsewhere(&self) -> PathBuf {
        self.directory.join("away")
    }

    pub fn config(&self, label: &str) -> Pkcs11Config {
        Pkcs11Config::new(MODULE.into(), label.to_owned(), PIN.into())
    }

    pub fn open(&self, label: &str) -> std::sync::Arc<Pkcs11Keys> {
        Pkcs11Keys::open(self.config(label), &Metrics::default()).unwrap()
    }
}
