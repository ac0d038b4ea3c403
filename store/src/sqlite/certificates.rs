//! Certificate rows: what the inventory's columns hold, and the only transitions that a certificate's state can make.

use ca_core::pkix::public_key::{KeyHash, sha256};
use ca_core::pkix::serial::SerialNumber;
use ca_core::revocation::RevocationReason;
use ca_core::store::{
    CertificateDer, CertificateFacts, CertificateId, CertificateRecord, CertificateState, CertificateStatus,
    Origin, Revocation, StoreError,
};
use ca_core::time::Timestamp;
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, Row, params, params_from_iter};

use super::row::{
    Counters, Outcome, check_hash, conflict_on_constraint, corrupt, first, from_json, signed, to_json,
    unsigned, with_hash,
};

const TABLE: &str = "certificates";

/// The columns in the order in which they are hashed.
const COLUMNS: &str = "c.number, c.issuer, c.serial, c.state, c.issued_at, c.ended_at, c.reason, c.profile, \
     c.subject, c.names, c.key, c.not_before, c.not_after, c.shard, c.origin, c.account, c.reserved_at, c.revision, \
     c.tbs_hash, c.fingerprint, c.hash";

/// Where the hash stands in [`COLUMNS`]; the DER columns of a whole record follow it.
const HASH: usize = 20;

/// `SELECT` of status columns; a condition follows.
pub(super) fn select_status(condition: &str) -> String {
    format!("SELECT {COLUMNS} FROM certificates c {condition}")
}

/// `SELECT` of whole records; a condition follows.
pub(super) fn select_records(join: &str, condition: &str) -> String {
    format!(
        "SELECT {COLUMNS}, d.tbs, d.der FROM certificates c LEFT JOIN certificate_der d USING (number) {join} {condition}"
    )
}

/// One name in the index of names.
pub(super) fn name_key(name: &ca_core::acme::Identifier) -> String {
    format!("{}:{name}", name.kind())
}

/// A row as it lies in the table, hash checked, DER left where it is.
pub(super) struct CertificateRow {
    pub(super) number: i64,
    pub(super) id: CertificateId,
    pub(super) state: CertificateState,
    pub(super) not_after: Timestamp,
    pub(super) shard: u32,
    pub(super) revision: u64,
    tbs_hash: [u8; 32],
    values: Vec<Value>,
}

impl CertificateRow {
    /// Reads a row that begins with [`COLUMNS`].
    pub(super) fn read(row: &Row<'_>) -> Outcome<Self> {
        let issuer: String = row.get(1)?;
        let serial = row.get_ref(2)?;
        let name = match serial {
            ValueRef::Blob(octets) => format!("{issuer}-{}", ca_core::id::to_hex(octets)),
            _ => issuer.clone(),
        };
        check_hash(TABLE, row, 0, HASH).map_err(|_| corrupt(TABLE, &name, "does not match its hash"))?;
        let damaged = |what: &str| corrupt(TABLE, &name, what);
        let values = (0..HASH).map(|column| row.get(column)).collect::<rusqlite::Result<Vec<Value>>>()?;
        let time = |column: usize| -> Outcome<Timestamp> { Ok(Timestamp::from_millis(row.get(column)?)) };
        let state = match row.get_ref(3)?.as_str().map_err(|_| damaged("its state is no text"))? {
            "reserved" => CertificateState::Reserved,
            "issued" => CertificateState::Issued { at: time(4)? },
            "revoked" => CertificateState::Revoked {
                issued_at: time(4)?,
                at: time(5)?,
                reason: RevocationReason::from_code(row.get(6)?).ok_or_else(|| damaged("unknown reason"))?,
            },
            "abandoned" => CertificateState::Abandoned { at: time(5)? },
            _ => return Err(damaged("its state is unknown")),
        };
        Ok(Self {
            number: row.get(0)?,
            id: CertificateId {
                issuer: issuer.parse().map_err(|_| damaged("its issuer is no issuer id"))?,
                serial: SerialNumber::from_be_bytes(&row.get::<_, Vec<u8>>(2)?)
                    .map_err(|_| damaged("its serial is none"))?,
            },
            state,
            not_after: time(12)?,
            shard: row.get(13)?,
            revision: unsigned(TABLE, row.get(17)?)?,
            tbs_hash: row.get(18)?,
            values,
        })
    }

    /// What stands in the row besides the DER's hashes.
    pub(super) fn facts(self) -> Outcome<CertificateFacts> {
        let name = self.id.to_string();
        let damaged = |what: &str| corrupt(TABLE, &name, what);
        let text = |column: usize| match &self.values[column] {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(damaged("a column is no text")),
        };
        let time = |column: usize| match self.values[column] {
            Value::Integer(millis) => Ok(Timestamp::from_millis(millis)),
            _ => Err(damaged("a time is no number")),
        };
        let origin: Origin = from_json(TABLE, &name, text(14)?)?;
        Ok(CertificateFacts {
            profile: text(7)?.to_owned().try_into().map_err(|_| damaged("its profile is no profile name"))?,
            names: from_json(TABLE, &name, text(9)?)?,
            not_before: time(11)?,
            not_after: self.not_after,
            account: match origin {
                Origin::Order { account, .. } => Some(account),
                Origin::Credential(_) | Origin::Issuer(_) => None,
            },
            reserved_at: time(16)?,
            state: self.state,
            id: self.id,
        })
    }

    pub(super) const fn status(&self) -> CertificateStatus {
        CertificateStatus { state: self.state, not_after: self.not_after, revision: self.revision }
    }
}

/// Reads a whole record from a row of [`select_records`], with its row number.
pub(super) fn read_record(row: &Row<'_>) -> Outcome<(u64, CertificateRecord)> {
    let status = CertificateRow::read(row)?;
    let name = status.id.to_string();
    let damaged = |what: &str| corrupt("certificate_der", &name, what);
    let tbs: Option<Vec<u8>> = row.get(HASH + 1)?;
    let tbs = tbs
        .filter(|tbs| sha256(tbs) == status.tbs_hash)
        .ok_or_else(|| damaged("the TBS is not the one logged"))?;
    let der = row.get::<_, Option<Vec<u8>>>(HASH + 2)?.map(CertificateDer::new);
    let fingerprint: Option<[u8; 32]> = row.get(19)?;
    if der.as_ref().map(|der| der.fingerprint) != fingerprint {
        return Err(damaged("the certificate does not match its fingerprint"));
    }
    let text = |column: usize| -> Outcome<String> { Ok(row.get(column)?) };
    let record = CertificateRecord {
        state: status.state,
        tbs,
        der,
        profile: text(7)?.try_into().map_err(|_| damaged("its profile is no profile name"))?,
        subject: text(8)?,
        names: from_json(TABLE, &name, &text(9)?)?,
        key: KeyHash(row.get(10)?),
        not_before: Timestamp::from_millis(row.get(11)?),
        not_after: status.not_after,
        shard: status.shard,
        origin: from_json(TABLE, &name, &text(14)?)?,
        reserved_at: Timestamp::from_millis(row.get(16)?),
        revision: status.revision,
        id: status.id,
    };
    Ok((unsigned(TABLE, status.number)?, record))
}

/// A row by its id.
pub(super) fn certificate_row(
    connection: &Connection,
    id: &CertificateId,
) -> Outcome<Option<CertificateRow>> {
    // Built once: the statement cache finds it by its text.
    static SQL: std::sync::LazyLock<String> =
        std::sync::LazyLock::new(|| select_status("WHERE c.serial = ?1 AND c.issuer = ?2"));
    first(connection, &SQL, params![id.serial.as_bytes(), id.issuer.as_str()], CertificateRow::read)
}

/// The counter of changes of certificates.
pub(super) const REVISION: &str = "revision";

fn next_revision(connection: &Connection, counters: &mut Counters) -> Outcome<Value> {
    counters.add(connection, REVISION, 1).map(Value::Integer)
}

/// Inserts a certificate as `reserved`.
pub(super) fn reserve(
    connection: &Connection,
    counters: &mut Counters,
    record: &CertificateRecord,
) -> Outcome<()> {
    if record.state != CertificateState::Reserved || record.der.is_some() {
        return Err(StoreError::Refused(
            "a certificate enters the inventory as reserved, unsigned".to_owned(),
        )
        .into());
    }
    // The number is part of the hashed row, so it is chosen here. Rows are never deleted: it is never given twice.
    let number: i64 = connection
        .prepare_cached("SELECT COALESCE(MAX(number), 0) + 1 FROM certificates")?
        .query_row([], |row| row.get(0))?;
    let account = match record.origin {
        Origin::Order { account, .. } => Value::Blob(account.0.as_bytes().to_vec()),
        Origin::Credential(_) | Origin::Issuer(_) => Value::Null,
    };
    let values = vec![
        Value::Integer(number),
        Value::Text(record.id.issuer.as_str().to_owned()),
        Value::Blob(record.id.serial.as_bytes().to_vec()),
        Value::Text(record.state.name().to_owned()),
        Value::Null,
        Value::Null,
        Value::Null,
        Value::Text(record.profile.as_str().to_owned()),
        Value::Text(record.subject.clone()),
        Value::Text(to_json(&record.names)?),
        Value::Blob(record.key.0.to_vec()),
        Value::Integer(record.not_before.as_millis()),
        Value::Integer(record.not_after.as_millis()),
        Value::Integer(i64::from(record.shard)),
        Value::Text(to_json(&record.origin)?),
        account,
        Value::Integer(record.reserved_at.as_millis()),
        next_revision(connection, counters)?,
        Value::Blob(sha256(&record.tbs).to_vec()),
        Value::Null,
    ];
    conflict_on_constraint(
        connection
            .prepare_cached(
                "INSERT INTO certificates VALUES \
                 (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",
            )?
            .execute(params_from_iter(with_hash(TABLE, values))),
    )?;
    connection
        .prepare_cached("INSERT INTO certificate_der (number, tbs, der) VALUES (?1, ?2, NULL)")?
        .execute(params![number, record.tbs])?;
    for name in &record.names {
        connection
            .prepare_cached("INSERT OR IGNORE INTO certificate_names (name, number) VALUES (?1, ?2)")?
            .execute(params![name_key(name), number])?;
    }
    Ok(())
}

/// What becomes of a certificate.
pub(super) enum Transition<'a> {
    /// `reserved` → `issued`.
    Issue { der: &'a CertificateDer, at: Timestamp },
    /// `reserved` → `abandoned`.
    Abandon { at: Timestamp },
    /// `issued` → `revoked`.
    Revoke(Revocation),
}

/// Changes a certificate's state, gives it the next revision, and counts it in its shard if it counts as revoked now.
pub(super) fn transition(
    connection: &Connection,
    counters: &mut Counters,
    id: &CertificateId,
    transition: Transition<'_>,
) -> Outcome<()> {
    let Some(mut row) = certificate_row(connection, id)? else {
        return Err(StoreError::NotFound(format!("certificate {id}")).into());
    };
    let next = match (row.state, &transition) {
        (CertificateState::Reserved, Transition::Issue { at, .. }) => CertificateState::Issued { at: *at },
        (CertificateState::Reserved, Transition::Abandon { at }) => CertificateState::Abandoned { at: *at },
        (CertificateState::Issued { at: issued_at }, Transition::Revoke(Revocation { at, reason })) => {
            CertificateState::Revoked { issued_at, at: *at, reason: *reason }
        }
        _ => return Err(StoreError::Conflict.into()),
    };
    let (issued_at, ended_at, reason) = match next {
        CertificateState::Reserved => (Value::Null, Value::Null, Value::Null),
        CertificateState::Issued { at } => (Value::Integer(at.as_millis()), Value::Null, Value::Null),
        CertificateState::Abandoned { at } => (Value::Null, Value::Integer(at.as_millis()), Value::Null),
        CertificateState::Revoked { issued_at, at, reason } => (
            Value::Integer(issued_at.as_millis()),
            Value::Integer(at.as_millis()),
            Value::Integer(i64::from(reason.code())),
        ),
    };
    row.values[3] = Value::Text(next.name().to_owned());
    row.values[4] = issued_at;
    row.values[5] = ended_at;
    row.values[6] = reason;
    row.values[17] = next_revision(connection, counters)?;
    if let Transition::Issue { der, .. } = transition {
        if sha256(&der.der) != der.fingerprint {
            return Err(
                StoreError::Refused("the fingerprint is not that of the certificate".to_owned()).into()
            );
        }
        row.values[19] = Value::Blob(der.fingerprint.to_vec());
        let updated = connection
            .prepare_cached("UPDATE certificate_der SET der = ?2 WHERE number = ?1")?
            .execute(params![row.number, der.der])?;
        if updated != 1 {
            return Err(corrupt("certificate_der", &id.to_string(), "the TBS is gone"));
        }
    }
    let values = with_hash(TABLE, row.values);
    connection
        .prepare_cached(
            "UPDATE certificates SET state = ?2, issued_at = ?3, ended_at = ?4, reason = ?5, revision = ?6, \
             fingerprint = ?7, hash = ?8 WHERE number = ?1",
        )?
        .execute(params![
            values[0],
            values[3],
            values[4],
            values[5],
            values[6],
            values[17],
            values[19],
            values[HASH]
        ])?;
    if next.revocation().is_some() {
        let mut shard = Shard::load(connection, id.issuer.as_str(), row.shard)?;
        shard.revoked += 1;
        shard.save(connection, id.issuer.as_str(), row.shard)?;
    }
    Ok(())
}

/// What is remembered of a CRL shard.
#[derive(Default)]
pub(super) struct Shard {
    /// The highest cRLNumber reserved.
    pub(super) last_number: u64,
    /// How many of its certificates were ever revoked or abandoned.
    pub(super) revoked: u64,
}

impl Shard {
    pub(super) fn load(connection: &Connection, issuer: &str, shard: u32) -> Outcome<Self> {
        let sql = "SELECT issuer, shard, last_number, revoked, hash FROM crl_shards WHERE issuer = ?1 AND shard = ?2";
        let stored = first(connection, sql, params![issuer, shard], |row| {
            check_hash("crl_shards", row, 0, 4)?;
            Ok(Self {
                last_number: unsigned("crl_shards", row.get(2)?)?,
                revoked: unsigned("crl_shards", row.get(3)?)?,
            })
        })?;
        Ok(stored.unwrap_or_default())
    }

    /// Loads what is remembered, and compares the count with the certificates that are there.
    pub(super) fn load_counted(connection: &Connection, issuer: &str, shard: u32) -> Outcome<Self> {
        let stored = Self::load(connection, issuer, shard)?;
        let count: i64 = connection
            .prepare_cached(
                "SELECT COUNT(*) FROM certificates \
                 WHERE issuer = ?1 AND shard = ?2 AND state IN ('revoked', 'abandoned')",
            )?
            .query_row(params![issuer, shard], |row| row.get(0))?;
        if count != signed(stored.revoked)? {
            let what = format!("{} certificates were revoked, and {count} are there", stored.revoked);
            return Err(corrupt("crl_shards", &format!("{issuer}/{shard}"), &what));
        }
        Ok(stored)
    }

    pub(super) fn save(&self, connection: &Connection, issuer: &str, shard: u32) -> Outcome<()> {
        let values = vec![
            Value::Text(issuer.to_owned()),
            Value::Integer(i64::from(shard)),
            Value::Integer(signed(self.last_number)?),
            Value::Integer(signed(self.revoked)?),
        ];
        connection
            .prepare_cached("INSERT OR REPLACE INTO crl_shards VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params_from_iter(with_hash("crl_shards", values)))?;
        Ok(())
    }
}
