//! What the responder must find again after a restart: which key and certificate it uses for each issuer, and which it
//! has asked for. One small JSON file, written whole.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use ca_core::id::{CredentialId, IssuerId, serde_base64url};
use ca_core::signing::KeyLabel;
use serde::{Deserialize, Serialize};

const FILE: &str = "responder.json";

/// The file's content. Changing it needs a reader for the form before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    pub issuers: BTreeMap<IssuerId, Held>,
}

/// What is held for one issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Held {
    pub current: Option<Current>,
    pub pending: Option<Pending>,
}

/// The key and certificate in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Current {
    pub key_label: KeyLabel,
    #[serde(with = "serde_base64url")]
    pub certificate: Vec<u8>,
}

/// A key whose certificate was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pending {
    pub key_label: KeyLabel,
    pub credential: CredentialId,
}

/// Reads the file; no file is an empty state, and so is one that can't be understood, since everything in it can be
/// asked for again.
pub(crate) fn read(directory: &Path) -> io::Result<State> {
    let path = directory.join(FILE);
    match fs::read(&path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).unwrap_or_else(|why| {
            tracing::warn!(path = %path.display(), %why, "the responder's state can't be read; starting without it");
            State::default()
        })),
        Err(why) if why.kind() == ErrorKind::NotFound => Ok(State::default()),
        Err(why) => Err(why),
    }
}

/// Replaces the file, readable by one user only, so that after a crash the old one or the new one is there.
pub(crate) fn write(directory: &Path, state: &State) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    let (path, partial) = (directory.join(FILE), directory.join("responder.json.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(&serde_json::to_vec_pretty(state)?)?;
    file.sync_all()?;
    fs::rename(&partial, &path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn state_is_found_again_and_a_damaged_file_is_no_obstacle() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("ocsp");
        assert_eq!(read(&place).unwrap(), State::default());
        let mut state = State::default();
        let current =
            Current { key_label: "ocsp-a-1".to_owned().try_into().unwrap(), certificate: vec![1, 2, 3] };
        let held = Held { current: Some(current), pending: None };
        state.issuers.insert("a".parse().unwrap(), held);
        write(&place, &state).unwrap();
        assert_eq!(read(&place).unwrap(), state);
        let mode = fs::metadata(place.join(FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(place.join(FILE), b"{").unwrap();
        assert_eq!(read(&place).unwrap(), State::default());
    }
}
