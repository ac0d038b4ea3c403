//! What every backend must do, run on each through `battery!`.

use std::collections::HashSet;
use std::sync::Arc;

use ca_core::pkix::public_key::PublicKeyAlgorithm;
use ca_core::signing::{
    KeyAlgorithm, KeyBackend, KeyError, KeyLabel, Signature, SignatureAlgorithm, SigningKey,
};

use crate::openssl;

/// Opens the same backend each time.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn KeyBackend>;

/// Runs each check on one backend; `$on` gets the name of the test and the check.
#[macro_export]
macro_rules! battery {
    ($on:path) => {
        $crate::battery!($on:
            p256_keys_sign, p384_keys_sign, ed25519_keys_sign, rsa_2048_keys_sign, rsa_3072_keys_sign,
            rsa_4096_keys_sign, a_label_is_never_overwritten, an_unknown_label_is_not_found,
            an_algorithm_that_does_not_fit_is_refused, keys_are_listed_by_label, many_sign_at_once,
            keys_survive_a_reopen
        );
    };
    ($on:path: $($name:ident),*) => {
        $(
            #[test]
            fn $name() {
                $on(concat!(module_path!(), "::", stringify!($name)), $crate::battery::$name);
            }
        )*
    };
}

pub fn label(text: &str) -> KeyLabel {
    KeyLabel::try_from(text.to_owned()).unwrap()
}

/// A runtime of one thread: what blocked it would block every task of a test.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Makes a key and signs with each of its algorithms; ours and `openssl` verify.
fn signs(open: Open<'_>, algorithm: KeyAlgorithm) {
    block_on(async {
        let backend = open();
        let label = label("issuer-1");
        let made = backend.generate(&label, algorithm).await.unwrap();
        assert_eq!(made.algorithm(), PublicKeyAlgorithm::from(algorithm));
        let all = [
            SignatureAlgorithm::EcdsaSha256,
            SignatureAlgorithm::EcdsaSha384,
            SignatureAlgorithm::Ed25519,
            SignatureAlgorithm::RsaPkcs1Sha256,
            SignatureAlgorithm::RsaPssSha256,
        ];
        let mut tried = 0;
        for signing in all.into_iter().filter(|signing| signing.fits(algorithm)) {
            let key = backend.open(&label, signing).await.unwrap();
            assert_eq!((key.label(), key.algorithm(), key.public_key()), (&label, signing, &made));
            for message in [&b"to be signed"[..], b"", &[0x30; 70_000]] {
                let signature = key.sign(message).await.unwrap();
                assert!(made.verify(signing, message, &signature));
                assert!(!made.verify(signing, b"something else", &signature));
                // OpenSSL 3.0 does not verify Ed25519 over an empty file.
                if !message.is_empty() {
                    assert!(openssl::verifies(&made, signing, message, &signature), "{signing:?}");
                }
            }
            let signature = key.sign(b"to be signed").await.unwrap();
            assert!(!openssl::verifies(&made, signing, b"something else", &signature), "{signing:?}");
            tried += 1;
        }
        let is_rsa = matches!(made.algorithm(), PublicKeyAlgorithm::Rsa(_));
        assert_eq!(tried, if is_rsa { 2 } else { 1 });
    });
}

pub fn p256_keys_sign(open: Open<'_>) {
    signs(open, KeyAlgorithm::EcP256);
}

pub fn p384_keys_sign(open: Open<'_>) {
    signs(open, KeyAlgorithm::EcP384);
}

pub fn ed25519_keys_sign(open: Open<'_>) {
    signs(open, KeyAlgorithm::Ed25519);
}

pub fn rsa_2048_keys_sign(open: Open<'_>) {
    signs(open, KeyAlgorithm::Rsa2048);
}

pub fn rsa_3072_keys_sign(open: Open<'_>) {
    signs(open, KeyAlgorithm::Rsa3072);
}

pub fn rsa_4096_keys_sign(open: Open<'_>) {
    signs(open, KeyAlgorithm::Rsa4096);
}

pub fn a_label_is_never_overwritten(open: Open<'_>) {
    block_on(async {
        let (backend, label) = (open(), label("root"));
        let first = backend.generate(&label, KeyAlgorithm::EcP256).await.unwrap();
        let again = backend.generate(&label, KeyAlgorithm::EcP384).await.unwrap_err();
        assert!(matches!(&again, KeyError::Exists { label, .. } if label == "root"), "{again}");
        let key = backend.open(&label, SignatureAlgorithm::EcdsaSha256).await.unwrap();
        assert_eq!(key.public_key(), &first);
        // Of two at once one wins.
        let twice = self::label("twice");
        let (one, other) = tokio::join!(
            backend.generate(&twice, KeyAlgorithm::EcP256),
            backend.generate(&twice, KeyAlgorithm::EcP256)
        );
        assert!(one.is_ok() != other.is_ok(), "{one:?} {other:?}");
    });
}

pub fn an_unknown_label_is_not_found(open: Open<'_>) {
    block_on(async {
        let backend = open();
        let error = backend.open(&label("none"), SignatureAlgorithm::EcdsaSha256).await.err().unwrap();
        assert!(
            matches!(&error, KeyError::NotFound { label, place } if label == "none" && *place == backend.place())
        );
    });
}

pub fn an_algorithm_that_does_not_fit_is_refused(open: Open<'_>) {
    block_on(async {
        let (backend, label) = (open(), label("issuer"));
        backend.generate(&label, KeyAlgorithm::EcP256).await.unwrap();
        for algorithm in [SignatureAlgorithm::EcdsaSha384, SignatureAlgorithm::RsaPssSha256] {
            let error = backend.open(&label, algorithm).await.err().unwrap();
            assert!(matches!(error, KeyError::Unsuitable { .. }), "{error}");
        }
    });
}

pub fn keys_are_listed_by_label(open: Open<'_>) {
    block_on(async {
        let backend = open();
        assert_eq!(backend.list().await.unwrap(), []);
        let made = [
            ("b", KeyAlgorithm::Ed25519),
            ("c", KeyAlgorithm::Rsa2048),
            ("a", KeyAlgorithm::EcP384),
            ("d", KeyAlgorithm::EcP256),
        ];
        for (name, algorithm) in made {
            backend.generate(&label(name), algorithm).await.unwrap();
        }
        let listed = backend.list().await.unwrap();
        let found: Vec<_> = listed.iter().map(|k| (k.label.as_str(), k.algorithm)).collect();
        assert_eq!(
            found,
            [
                ("a", KeyAlgorithm::EcP384),
                ("b", KeyAlgorithm::Ed25519),
                ("c", KeyAlgorithm::Rsa2048),
                ("d", KeyAlgorithm::EcP256)
            ]
        );
        assert!(listed.iter().all(|key| key.sensitive && !key.extractable));
    });
}

pub fn many_sign_at_once(open: Open<'_>) {
    block_on(async {
        let (backend, label) = (open(), label("issuer"));
        let public = backend.generate(&label, KeyAlgorithm::EcP256).await.unwrap();
        let key = backend.open(&label, SignatureAlgorithm::EcdsaSha256).await.unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        for n in 0..200_u32 {
            let key: Arc<dyn SigningKey> = Arc::clone(&key);
            tasks.spawn(async move { (n, key.sign(&n.to_be_bytes()).await.unwrap()) });
        }
        let signed: Vec<(u32, Signature)> = tasks.join_all().await;
        assert_eq!(signed.iter().map(|(n, _)| n).collect::<HashSet<_>>().len(), 200);
        for (n, signature) in signed {
            assert!(public.verify(SignatureAlgorithm::EcdsaSha256, &n.to_be_bytes(), &signature));
        }
    });
}

pub fn keys_survive_a_reopen(open: Open<'_>) {
    block_on(async {
        let (first, label) = (open(), label("issuer"));
        let made = first.generate(&label, KeyAlgorithm::EcP256).await.unwrap();
        let held = first.open(&label, SignatureAlgorithm::EcdsaSha256).await.unwrap();
        drop(first);
        // A key outlives the backend that opened it.
        assert!(made.verify(SignatureAlgorithm::EcdsaSha256, b"held", &held.sign(b"held").await.unwrap()));
        drop(held);
        let again = open();
        let key = again.open(&label, SignatureAlgorithm::EcdsaSha256).await.unwrap();
        assert_eq!(key.public_key(), &made);
        let signature = key.sign(b"again").await.unwrap();
        assert!(made.verify(SignatureAlgorithm::EcdsaSha256, b"again", &signature));
    });
}
