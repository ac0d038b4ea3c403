//! The same documents as files under `DATA/crl/`: `ISSUER/SHARD.crl`, `ISSUER/issuer.cer`, `roots.pem`. A web server may
//! serve them, and we do at start while the store can't be read.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use ca_core::id::IssuerId;
use ca_core::time::Timestamp;
use const_oid::db::rfc5280::ID_CE_CRL_NUMBER;
use der::Decode;
use x509_cert::crl::CertificateList;

use crate::document::{Crl, Document, Snapshot, roots_from_pem};

const CERTIFICATE: &str = "issuer.cer";
const ROOTS: &str = "roots.pem";

/// Writes each document whose octets differ from those of its file, each whole or not at all.
pub(crate) fn write(directory: &Path, snapshot: &Snapshot) -> io::Result<()> {
    make_directory(directory)?;
    if let Some(roots) = &snapshot.roots {
        replace(directory, ROOTS, &roots.body)?;
    }
    for (issuer, certificate) in &snapshot.certificates {
        let place = directory.join(issuer.as_str());
        make_directory(&place)?;
        replace(&place, CERTIFICATE, &certificate.body)?;
    }
    for (issuer, shards) in &snapshot.crls {
        let place = directory.join(issuer.as_str());
        make_directory(&place)?;
        for (shard, crl) in shards {
            replace(&place, &format!("{shard}.crl"), &crl.document.body)?;
        }
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn replace(directory: &Path, name: &str, content: &[u8]) -> io::Result<()> {
    let path = directory.join(name);
    if fs::read(&path).is_ok_and(|present| present == content) {
        return Ok(());
    }
    let partial = directory.join(format!("{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&partial, &path)?;
    File::open(directory)?.sync_all()
}

/// Reads what [`write`] wrote; what can't be understood is left out.
pub(crate) fn read(directory: &Path) -> io::Result<Snapshot> {
    let mut snapshot = Snapshot {
        roots: fs::read(directory.join(ROOTS)).ok().and_then(|pem| roots_from_pem(&pem)),
        ..Snapshot::default()
    };
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(snapshot),
        Err(why) => return Err(why),
    };
    for entry in entries.filter_map(Result::ok) {
        let Some(issuer) = entry.file_name().to_str().and_then(|name| name.parse::<IssuerId>().ok()) else {
            continue;
        };
        let place = entry.path();
        if let Ok(der) = fs::read(place.join(CERTIFICATE)) {
            snapshot.certificates.insert(issuer.clone(), Document::certificate(der));
        }
        for file in fs::read_dir(&place).into_iter().flatten().filter_map(Result::ok) {
            let name = file.file_name();
            let shard = name.to_str().and_then(|name| name.strip_suffix(".crl")?.parse::<u32>().ok());
            let crl = fs::read(file.path()).ok().and_then(crl_from_der);
            if let Some((shard, crl)) = shard.zip(crl) {
                snapshot.crls.entry(issuer.clone()).or_default().insert(shard, Arc::new(crl));
            }
        }
    }
    Ok(snapshot)
}

fn crl_from_der(der: Vec<u8>) -> Option<Crl> {
    let list = <CertificateList>::from_der(&der).ok()?.tbs_cert_list;
    let number = list.crl_extensions?.into_iter().find(|extension| extension.extn_id == ID_CE_CRL_NUMBER)?;
    let number = u64::from_der(number.extn_value.as_bytes()).ok()?;
    let (this_update, next_update) = (list.this_update, list.next_update?);
    Some(Crl::new(number, Timestamp::from_x509(this_update), Timestamp::from_x509(next_update), der))
}
