//! Keys in a token: the battery on SoftHSM, fitness of keys, PINs, and tokens that vanish.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ca_core::signing::{
    KeyAlgorithm, KeyBackend, KeyDescription, KeyError, Signature, SignatureAlgorithm, SigningError,
    SigningKey,
};
use ca_core::time::Stopwatch;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::{Session, UserType};
use hsm::pkcs11::Pkcs11Keys;
use hsm::{BackendKind, KeysConfig, Metrics};
use prometheus_client::registry::Registry;

use crate::battery::{Open, block_on, label};
use crate::softhsm::{MODULE, PIN, SoftHsm};

fn on_softhsm(name: &str, check: fn(Open<'_>)) {
    SoftHsm::run(name, |softhsm| {
        softhsm.create("chancery");
        check(&|| softhsm.open("chancery"));
    });
}

crate::battery!(on_softhsm);

/// A test in a process of its own.
macro_rules! softhsm_test {
    ($name:ident, $body:expr) => {
        #[test]
        fn $name() {
            SoftHsm::run(concat!(module_path!(), "::", stringify!($name)), $body);
        }
    };
}

/// Works on a token without the crate under test, which must have no token open.
fn raw(token: &str, pin: &str, work: impl FnOnce(&Session)) {
    let context = Pkcs11::new(MODULE).unwrap();
    context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slots = context.get_slots_with_token().unwrap();
    let slot = slots.into_iter().find(|s| context.get_token_info(*s).unwrap().label() == token).unwrap();
    let session = context.open_rw_session(slot).unwrap();
    session.login(UserType::User, Some(&pin.into())).unwrap();
    work(&session);
    session.close().unwrap();
    context.finalize().unwrap();
}

/// A P-256 key pair with attributes of choice.
fn raw_key(session: &Session, name: &str, id: u8, attributes: &[Attribute]) {
    let p256 = vec![6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    let common = [
        Attribute::Token(true),
        Attribute::Label(name.into()),
        Attribute::Id(vec![id]),
        Attribute::EcParams(p256),
    ];
    let mut private = vec![Attribute::Private(true), Attribute::Sign(true)];
    private.extend_from_slice(&common[..3]);
    private.extend_from_slice(attributes);
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &common, &private).unwrap();
}

fn open_key(backend: &Pkcs11Keys, name: &str) -> Result<Arc<dyn SigningKey>, KeyError> {
    block_on(backend.open(&label(name), SignatureAlgorithm::EcdsaSha256))
}

softhsm_test!(keys_that_could_leave_the_token_are_refused, |softhsm| {
    softhsm.create("chancery");
    raw("chancery", PIN, |session| {
        let (sensitive, extractable) = (Attribute::Sensitive(true), Attribute::Extractable(true));
        raw_key(session, "extractable", 1, &[sensitive.clone(), extractable]);
        raw_key(session, "plain", 2, &[Attribute::Sensitive(false), Attribute::Extractable(false)]);
        raw_key(session, "once-plain", 3, &[Attribute::Sensitive(false), Attribute::Extractable(false)]);
        let once_plain = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Label(b"once-plain".into())];
        let handle = session.find_objects(&once_plain).unwrap()[0];
        session.update_attributes(handle, std::slice::from_ref(&sensitive)).unwrap();
        raw_key(session, "good", 4, &[sensitive, Attribute::Extractable(false)]);
    });
    let backend = softhsm.open("chancery");
    for (name, attribute) in [
        ("extractable", "CKA_EXTRACTABLE is true"),
        ("plain", "CKA_SENSITIVE is false"),
        ("once-plain", "CKA_ALWAYS_SENSITIVE is false"),
    ] {
        let error = open_key(&backend, name).err().unwrap();
        assert!(
            matches!(&error, KeyError::Unsuitable { reason, .. } if reason.contains(attribute)),
            "{error}"
        );
    }
    open_key(&backend, "good").unwrap();
    let listed = block_on(backend.list()).unwrap();
    let shown: Vec<_> = listed.iter().map(|k| (k.label.as_str(), k.sensitive, k.extractable)).collect();
    assert_eq!(
        shown,
        [
            ("extractable", true, true),
            ("good", true, false),
            ("once-plain", true, false),
            ("plain", false, false)
        ]
    );
});

softhsm_test!(two_keys_of_one_label_are_refused, |softhsm| {
    softhsm.create("chancery");
    raw("chancery", PIN, |session| {
        let fine = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        raw_key(session, "issuer", 1, &fine);
        raw_key(session, "issuer", 2, &fine);
    });
    let error = open_key(&softhsm.open("chancery"), "issuer").err().unwrap();
    assert!(error.to_string().contains("2 private keys of this label"), "{error}");
});

softhsm_test!(a_public_key_of_another_key_is_noticed, |softhsm| {
    softhsm.create("chancery");
    raw("chancery", PIN, |session| {
        let fine = [Attribute::Sensitive(true), Attribute::Extractable(false)];
        raw_key(session, "issuer", 1, &fine);
        raw_key(session, "other", 2, &fine);
        let object = |class, name: &str| {
            let found = session.find_objects(&[Attribute::Class(class), Attribute::Label(name.into())]);
            found.unwrap()[0]
        };
        session.destroy_object(object(ObjectClass::PUBLIC_KEY, "issuer")).unwrap();
        let other = object(ObjectClass::PUBLIC_KEY, "other");
        session.update_attributes(other, &[Attribute::Id(vec![1])]).unwrap();
    });
    let error = open_key(&softhsm.open("chancery"), "issuer").err().unwrap();
    assert!(error.to_string().contains("do not belong together"), "{error}");
});

softhsm_test!(a_wrong_pin_is_named_and_the_right_one_works_after, |softhsm| {
    softhsm.create("chancery");
    let mut config = softhsm.config("chancery");
    config.pin = "8631".into();
    let error = Pkcs11Keys::open(config, &Metrics::default()).err().unwrap();
    assert!(matches!(&error, KeyError::WrongPin(_)), "{error}");
    let text = format!("{error} {error:?}");
    for part in ["C_Login", "CKR_PIN_INCORRECT", "'chancery'", "keys.pin_file"] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
    assert!(!text.contains("8631"));
    block_on(softhsm.open("chancery").list()).unwrap();
});

/// The same token with another PIN, put aside.
fn another_pin(softhsm: &SoftHsm) -> PathBuf {
    let set_pin = |old: &str, new: &str| {
        raw("chancery", old, |session| session.set_pin(&old.into(), &new.into()).unwrap());
    };
    set_pin(PIN, "1357");
    let changed = softhsm.elsewhere().join("changed");
    for token in std::fs::read_dir(softhsm.tokens()).unwrap().map(Result::unwrap) {
        let copy = changed.join(token.file_name());
        std::fs::create_dir_all(&copy).unwrap();
        for file in std::fs::read_dir(token.path()).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
        }
    }
    set_pin("1357", PIN);
    changed
}

softhsm_test!(a_refused_pin_is_not_tried_again, |softhsm| {
    softhsm.create("chancery");
    let name = label("issuer");
    block_on(softhsm.open("chancery").generate(&name, KeyAlgorithm::EcP256)).unwrap();
    let changed = another_pin(softhsm);
    let mut config = softhsm.config("chancery");
    (config.first_retry, config.longest_retry) = (Duration::from_millis(5), Duration::from_millis(10));
    let backend = Pkcs11Keys::open(config, &Metrics::default()).unwrap();
    block_on(async {
        let key = backend.open(&name, SignatureAlgorithm::EcdsaSha256).await.unwrap();
        key.sign(b"x").await.unwrap();
        let original = softhsm.elsewhere().join("original");
        std::fs::rename(softhsm.tokens(), &original).unwrap();
        until(&key, Result::is_err).await.unwrap_err();
        std::fs::rename(&changed, softhsm.tokens()).unwrap();
        // Nothing that waits for a signature is given up, and the message says what to mend.
        let says_pin = |error: &SigningError| matches!(error, SigningError::Unavailable { detail, .. } if detail.contains("CKR_PIN_INCORRECT"));
        until(&key, |outcome| outcome.as_ref().is_err_and(says_pin)).await.unwrap_err();
        // Were the token asked again, the PIN would be right.
        std::fs::rename(softhsm.tokens(), &changed).unwrap();
        std::fs::rename(&original, softhsm.tokens()).unwrap();
        // Long enough for many retries.
        let clock = Stopwatch::start();
        while clock.elapsed() < Duration::from_millis(500) {
            let error = key.sign(b"x").await.unwrap_err();
            assert!(says_pin(&error), "{error}");
            tokio::task::yield_now().await;
        }
        let error = backend.list().await.unwrap_err();
        assert!(matches!(error, KeyError::WrongPin(_)), "{error}");
        drop(key);
    });
    // An operator restarts.
    drop(backend);
    assert_eq!(block_on(softhsm.open("chancery").list()).unwrap().len(), 1);
});

softhsm_test!(a_missing_token_is_named_with_those_that_are_there, |softhsm| {
    let open = |name: &str| Pkcs11Keys::open(softhsm.config(name), &Metrics::default());
    let error = open("chancery").err().unwrap();
    assert!(matches!(&error, KeyError::Unavailable(text) if text.contains("none at all")), "{error}");
    softhsm.create("one");
    softhsm.create("two");
    let error = open("chancery").err().unwrap().to_string();
    for part in ["'chancery'", "'one'", "'two'", MODULE.rsplit('/').next().unwrap()] {
        assert!(error.contains(part), "{part} is not in: {error}");
    }
    let mut labels: Vec<_> =
        hsm::pkcs11::tokens(Path::new(MODULE)).unwrap().into_iter().map(|t| t.label).collect();
    labels.sort();
    assert_eq!(labels, ["one", "two"]);
    assert!(open("one").unwrap().place().contains("token 'one' (SoftHSM"));
    softhsm.create("one");
    let error = open("one").err().unwrap().to_string();
    assert!(error.contains("several tokens labelled 'one'"), "{error}");
    let none = hsm::pkcs11::tokens(Path::new("/nowhere/module.so")).unwrap_err().to_string();
    assert!(none.contains("/nowhere/module.so") && none.contains("keys.module"), "{none}");
    let text = tempfile::NamedTempFile::new().unwrap();
    let wrong = hsm::pkcs11::tokens(text.path()).unwrap_err().to_string();
    assert!(wrong.contains("can't be loaded"), "{wrong}");
});

softhsm_test!(the_section_opens_a_token, |softhsm| {
    softhsm.create("chancery");
    let data = tempfile::tempdir().unwrap();
    hsm::create_passphrase_file(&data.path().join("pin")).unwrap();
    std::fs::write(data.path().join("pin"), format!("{PIN}\n")).unwrap();
    let config = KeysConfig {
        backend: BackendKind::Pkcs11,
        module: Some(MODULE.into()),
        token: Some("chancery".to_owned()),
        pin_file: Some("pin".into()),
        ..KeysConfig::default()
    };
    let backend = hsm::open(&config, data.path(), &Metrics::default()).unwrap();
    assert_eq!(block_on(backend.list()).unwrap(), []);
});

/// Signs until an outcome is as wanted, at most 20 s.
async fn until(
    key: &Arc<dyn SigningKey>,
    wanted: impl Fn(&Result<Signature, SigningError>) -> bool,
) -> Result<Signature, SigningError> {
    let clock = Stopwatch::start();
    loop {
        let outcome = key.sign(b"until").await;
        if wanted(&outcome) {
            return outcome;
        }
        assert!(clock.elapsed() < Duration::from_secs(20), "{outcome:?}");
        tokio::task::yield_now().await;
    }
}

/// What an operator reads of the token 'chancery'; it is always told.
fn token_is_up(metrics: &Metrics) -> bool {
    let mut registry = Registry::default();
    metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let [up, down] = [1, 0].map(|n| text.contains(&format!("hsm_token_up{{token=\"chancery\"}} {n}\n")));
    assert!(up ^ down, "{text}");
    up
}

/// Lists keys until an outcome is as wanted, at most 20 s.
async fn until_listed(
    backend: &Pkcs11Keys,
    wanted: impl Fn(&Result<Vec<KeyDescription>, KeyError>) -> bool,
) -> Result<Vec<KeyDescription>, KeyError> {
    let clock = Stopwatch::start();
    loop {
        let outcome = backend.list().await;
        if wanted(&outcome) {
            return outcome;
        }
        assert!(clock.elapsed() < Duration::from_secs(20), "{outcome:?}");
        tokio::task::yield_now().await;
    }
}

softhsm_test!(a_token_that_comes_after_the_start_is_used_then, |softhsm| {
    softhsm.create("chancery");
    let name = label("issuer");
    block_on(softhsm.open("chancery").generate(&name, KeyAlgorithm::EcP256)).unwrap();
    let token = std::fs::read_dir(softhsm.tokens()).unwrap().next().unwrap().unwrap().path();
    // All of SoftHSM's store, without which the module does not even start, and the token within it.
    for away in [softhsm.tokens(), token] {
        std::fs::rename(&away, softhsm.elsewhere()).unwrap();
        let metrics = Metrics::default();
        let (config, patience) = (softhsm.config("chancery"), Duration::from_secs(20));
        let backend = Pkcs11Keys::open_or_wait(config, &metrics, patience).unwrap();
        assert_eq!(backend.place(), "token 'chancery'");
        assert!(!token_is_up(&metrics));
        block_on(async {
            for error in [
                backend.list().await.unwrap_err(),
                backend.generate(&label("other"), KeyAlgorithm::EcP256).await.unwrap_err(),
                backend.open(&name, SignatureAlgorithm::EcdsaSha256).await.err().unwrap(),
            ] {
                assert!(
                    matches!(&error, KeyError::Unavailable(text) if text.contains("token directory")),
                    "{error}"
                );
            }
            std::fs::rename(softhsm.elsewhere(), &away).unwrap();
            until_listed(&backend, Result::is_ok).await.unwrap();
            let key = backend.open(&name, SignatureAlgorithm::EcdsaSha256).await.unwrap();
            key.sign(b"x").await.unwrap();
        });
        assert!(token_is_up(&metrics));
        assert!(backend.place().contains("token 'chancery' (SoftHSM"));
    }
});

softhsm_test!(a_pin_that_the_token_refuses_when_it_comes_is_not_tried_again, |softhsm| {
    softhsm.create("chancery");
    let changed = another_pin(softhsm);
    let original = softhsm.elsewhere().join("original");
    std::fs::rename(softhsm.tokens(), &original).unwrap();
    let mut config = softhsm.config("chancery");
    (config.first_retry, config.longest_retry) = (Duration::from_millis(5), Duration::from_millis(10));
    let open = || Pkcs11Keys::open_or_wait(config.clone(), &Metrics::default(), Duration::from_secs(20));
    let backend = open().unwrap();
    block_on(async {
        std::fs::rename(&changed, softhsm.tokens()).unwrap();
        let wrong_pin = |error: &KeyError| matches!(error, KeyError::WrongPin(text) if text.contains("CKR_PIN_INCORRECT"));
        until_listed(&backend, |outcome| outcome.as_ref().is_err_and(wrong_pin)).await.unwrap_err();
        // Were the token asked again, the PIN would be right.
        std::fs::rename(softhsm.tokens(), &changed).unwrap();
        std::fs::rename(&original, softhsm.tokens()).unwrap();
        let clock = Stopwatch::start();
        while clock.elapsed() < Duration::from_millis(500) {
            let error = backend.list().await.unwrap_err();
            assert!(wrong_pin(&error), "{error}");
        }
    });
    drop(backend);
    // And at the start it is told at once.
    std::fs::rename(softhsm.tokens(), &original).unwrap();
    std::fs::rename(&changed, softhsm.tokens()).unwrap();
    let error = open().err().unwrap();
    assert!(matches!(error, KeyError::WrongPin(_)), "{error}");
});

softhsm_test!(a_token_that_does_not_answer_at_the_start_is_waited_for, |softhsm| {
    softhsm.create("chancery");
    let token = std::fs::read_dir(softhsm.tokens()).unwrap().next().unwrap().unwrap().path();
    let (object, kept) = (token.join("token.object"), token.join("kept"));
    std::fs::rename(&object, &kept).unwrap();
    // Whoever reads it waits for a writer: the module hangs within its first call.
    assert!(Command::new("mkfifo").arg(&object).status().unwrap().success());
    let metrics = Metrics::default();
    let config = softhsm.config("chancery");
    let backend = Pkcs11Keys::open_or_wait(config, &metrics, Duration::from_millis(200)).unwrap();
    block_on(async {
        let error = backend.list().await.unwrap_err();
        assert!(matches!(&error, KeyError::Unavailable(text) if text.contains("not answered")), "{error}");
        assert!(!token_is_up(&metrics));
        let pipe = token.join("pipe");
        std::fs::rename(&object, &pipe).unwrap();
        std::fs::rename(&kept, &object).unwrap();
        // It reads nothing, and finds no token at first.
        drop(std::fs::OpenOptions::new().write(true).open(&pipe).unwrap());
        std::fs::remove_file(&pipe).unwrap();
        until_listed(&backend, Result::is_ok).await.unwrap();
    });
    assert!(token_is_up(&metrics));
});

softhsm_test!(a_token_that_vanishes_and_returns_is_used_again, |softhsm| {
    softhsm.create("chancery");
    let metrics = Metrics::default();
    let backend = Pkcs11Keys::open(softhsm.config("chancery"), &metrics).unwrap();
    let up = || token_is_up(&metrics);
    block_on(async {
        let mut keys = Vec::new();
        for (name, kind) in
            [("a", KeyAlgorithm::EcP256), ("b", KeyAlgorithm::EcP384), ("c", KeyAlgorithm::Rsa2048)]
        {
            backend.generate(&label(name), kind).await.unwrap();
            keys.push(backend.open(&label(name), kind.default_signature()).await.unwrap());
        }
        assert!(up());
        let signed = Arc::new(AtomicUsize::new(0));
        let mut load = tokio::task::JoinSet::new();
        for n in 0..12 {
            let (key, signed) = (Arc::clone(&keys[n % 3]), Arc::clone(&signed));
            load.spawn(async move {
                loop {
                    let clock = Stopwatch::start();
                    match key.sign(b"load").await {
                        Ok(signature) => {
                            assert!(key.public_key().verify(key.algorithm(), b"load", &signature));
                            signed.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(SigningError::Unavailable { .. }) => {
                            assert!(clock.elapsed() < Duration::from_secs(2), "an answer came late");
                        }
                        Err(refused) => panic!("{refused}"),
                    }
                    tokio::task::yield_now().await;
                }
            });
        }
        // All of SoftHSM's store, then the token within it.
        let token = std::fs::read_dir(softhsm.tokens()).unwrap().next().unwrap().unwrap().path();
        for away in [softhsm.tokens(), token] {
            for _ in 0..3 {
                until(&keys[0], Result::is_ok).await.unwrap();
                std::fs::rename(&away, softhsm.elsewhere()).unwrap();
                let lost = until(&keys[1], Result::is_err).await.unwrap_err();
                assert!(matches!(lost, SigningError::Unavailable { .. }), "{lost}");
                assert!(!up());
                let listing = backend.list().await.unwrap_err();
                assert!(matches!(listing, KeyError::Unavailable(_)), "{listing}");
                std::fs::rename(softhsm.elsewhere(), &away).unwrap();
                for key in &keys {
                    until(key, Result::is_ok).await.unwrap();
                }
                assert!(up());
            }
        }
        let before = signed.load(Ordering::Relaxed);
        while signed.load(Ordering::Relaxed) < before + 50 {
            until(&keys[2], Result::is_ok).await.unwrap();
        }
        load.abort_all();
        while let Some(ended) = load.join_next().await {
            assert!(ended.unwrap_err().is_cancelled(), "the load failed");
        }
    });
});

softhsm_test!(another_key_under_the_label_is_not_taken_for_the_lost_one, |softhsm| {
    softhsm.create("chancery");
    let backend = softhsm.open("chancery");
    block_on(async {
        let name = label("issuer");
        backend.generate(&name, KeyAlgorithm::EcP256).await.unwrap();
        let key = backend.open(&name, SignatureAlgorithm::EcdsaSha256).await.unwrap();
        std::fs::rename(softhsm.tokens(), softhsm.elsewhere()).unwrap();
        until(&key, Result::is_err).await.unwrap_err();
        std::fs::create_dir(softhsm.tokens()).unwrap();
        softhsm.create("chancery");
        // An empty token first: the key is missing, which may pass.
        let missing = |outcome: &Result<_, SigningError>| matches!(outcome, Err(SigningError::Unavailable { detail, .. }) if detail.contains("no longer"));
        until(&key, missing).await.unwrap_err();
        backend.generate(&name, KeyAlgorithm::EcP256).await.unwrap();
        let error = key.sign(b"x").await.unwrap_err();
        assert!(matches!(&error, SigningError::Refused { .. }), "{error}");
        assert!(error.to_string().contains("another key of this label"), "{error}");
    });
});

softhsm_test!(a_busy_token_answers_in_time, |softhsm| {
    softhsm.create("chancery");
    block_on(softhsm.open("chancery").generate(&label("slow"), KeyAlgorithm::Rsa4096)).unwrap();
    let mut config = softhsm.config("chancery");
    (config.sessions, config.queue) = (1, 1);
    config.generate_timeout = Duration::ZERO;
    let backend = Pkcs11Keys::open(config, &Metrics::default()).unwrap();
    block_on(async {
        let late = backend.generate(&label("late"), KeyAlgorithm::Rsa4096).await.unwrap_err();
        assert!(matches!(&late, KeyError::Unavailable(text) if text.contains("no answer within")), "{late}");
        // Until the one session has taken that request from the queue, there is no room in it.
        let key = loop {
            match backend.open(&label("slow"), SignatureAlgorithm::RsaPssSha256).await {
                Err(KeyError::Unavailable(text)) if text.contains("wait for token") => {
                    tokio::task::yield_now().await;
                }
                other => break other.unwrap(),
            }
        };
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let key = Arc::clone(&key);
            tasks.spawn(async move { key.sign(b"message").await });
        }
        let outcomes = tasks.join_all().await;
        assert!(outcomes.iter().any(Result::is_ok));
        let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(refused.len() >= 10, "{refused:?}");
        for error in refused {
            assert!(
                matches!(&error, SigningError::Unavailable { detail, .. } if detail.contains("keys.sessions")),
                "{error}"
            );
        }
    });
});

softhsm_test!(two_tokens_of_one_module_live_side_by_side, |softhsm| {
    softhsm.create("one");
    softhsm.create("two");
    let (one, two) = (softhsm.open("one"), softhsm.open("two"));
    block_on(async {
        let (name, signing) = (label("issuer"), SignatureAlgorithm::EcdsaSha256);
        one.generate(&name, KeyAlgorithm::EcP256).await.unwrap();
        two.generate(&name, KeyAlgorithm::EcP256).await.unwrap();
        let (first, second) =
            (one.open(&name, signing).await.unwrap(), two.open(&name, signing).await.unwrap());
        assert_ne!(first.public_key(), second.public_key());
        // The second goes on while the first is lost, and through each new load of the module.
        let of_first = |path: &Path| {
            let content = std::fs::read(path.join("token.object")).unwrap();
            content.windows(3).any(|w| w == b"one")
        };
        let mut directories = std::fs::read_dir(softhsm.tokens()).unwrap().map(|e| e.unwrap().path());
        let away = directories.find(|path| of_first(path)).unwrap();
        std::fs::rename(&away, softhsm.elsewhere()).unwrap();
        until(&first, Result::is_err).await.unwrap_err();
        let clock = Stopwatch::start();
        while clock.elapsed() < Duration::from_millis(500) {
            let signature = second.sign(b"second").await.unwrap();
            assert!(second.public_key().verify(signing, b"second", &signature));
        }
        first.sign(b"first").await.unwrap_err();
        std::fs::rename(softhsm.elsewhere(), &away).unwrap();
        until(&first, Result::is_ok).await.unwrap();
        drop((one, first));
        second.sign(b"second").await.unwrap();
    });
});
