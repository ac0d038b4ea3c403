//! The fuzz body for attestation objects under proptest: any octets, and attestations with some octets changed.

use std::sync::LazyLock;

use ca_core::fuzz;
use proptest::collection::vec;
use proptest::prelude::*;

use super::devices::tpm::{Kind, permanent};
use super::devices::{Android, Apple, Manufacturer, TpmDevice, YubiKey};
use super::{KEY_AUTHORIZATION, TOKEN};

/// One attestation of each format.
static GOOD: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let maker = Manufacturer::new("Maker");
    let device = TpmDevice::start();
    let (attestation_key, key) = (device.attestation_key(Kind::Rsa2048), device.key(Kind::P256));
    let path = attestation_key.certified(&maker, permanent("PC-0815"));
    vec![
        Apple::new("X").attest(&maker, TOKEN),
        YubiKey::new(7).attest(&maker, KEY_AUTHORIZATION),
        Android::new("X").attest(&maker, KEY_AUTHORIZATION),
        attestation_key.attest(&key, path, KEY_AUTHORIZATION).encode(),
    ]
});

#[test]
fn an_attestation_of_each_format_is_read() {
    for object in GOOD.iter() {
        fuzz::attestation(object);
    }
}

proptest! {
    #[test]
    fn any_octets_are_read_as_an_attestation_without_a_panic(data in vec(any::<u8>(), 0..400)) {
        fuzz::attestation(&data);
    }

    #[test]
    fn an_attestation_with_changed_octets_is_read_without_a_panic(
        which in 0..4_usize,
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        let mut data = GOOD[which].clone();
        for (index, value) in changes {
            let index = index.index(data.len());
            data[index] = value;
        }
        if cut {
            data.truncate(end.index(data.len()));
        }
        fuzz::attestation(&data);
    }
}
