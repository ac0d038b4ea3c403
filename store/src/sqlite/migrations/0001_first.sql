-- The first schema. Every table has a hash over all columns of the row; see sqlite/row.rs.
-- Times are milliseconds since 1970, ids 16 octets that sort by time, body the domain type as JSON.

CREATE TABLE accounts (
    id BLOB NOT NULL PRIMARY KEY,
    directory TEXT NOT NULL,
    thumbprint BLOB NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX accounts_key ON accounts (directory, thumbprint);

CREATE TABLE orders (
    id BLOB NOT NULL PRIMARY KEY,
    account BLOB NOT NULL,
    state TEXT NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX orders_account ON orders (account, id);

CREATE TABLE authorizations (
    id BLOB NOT NULL PRIMARY KEY,
    account BLOB NOT NULL,
    identifier TEXT NOT NULL,
    state TEXT NOT NULL,
    processing INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX authorizations_valid ON authorizations (account, identifier, id) WHERE state = 'valid';
CREATE INDEX authorizations_processing ON authorizations (id) WHERE processing = 1;

CREATE TABLE issuers (
    id TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE credentials (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- Small rows for status and search; the DER stands apart, so that a scan for OCSP or CRLs stays narrow.
-- The row's hash covers it through tbs_hash and fingerprint. Rows are never deleted.
CREATE TABLE certificates (
    number INTEGER PRIMARY KEY,
    issuer TEXT NOT NULL,
    serial BLOB NOT NULL,
    state TEXT NOT NULL,
    issued_at INTEGER,
    ended_at INTEGER,
    reason INTEGER,
    profile TEXT NOT NULL,
    subject TEXT NOT NULL,
    names TEXT NOT NULL,
    key BLOB NOT NULL,
    not_before INTEGER NOT NULL,
    not_after INTEGER NOT NULL,
    shard INTEGER NOT NULL,
    origin TEXT NOT NULL,
    account BLOB,
    reserved_at INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    tbs_hash BLOB NOT NULL,
    fingerprint BLOB,
    hash BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX certificates_serial ON certificates (serial, issuer);
CREATE INDEX certificates_revision ON certificates (issuer, revision);
CREATE INDEX certificates_state ON certificates (state);
CREATE INDEX certificates_reserved ON certificates (origin) WHERE state = 'reserved';
CREATE INDEX certificates_revoked ON certificates (issuer, shard, not_after) WHERE state IN ('revoked', 'abandoned');
CREATE INDEX certificates_key ON certificates (key);
CREATE INDEX certificates_account ON certificates (account) WHERE account IS NOT NULL;
CREATE INDEX certificates_not_after ON certificates (not_after);
CREATE INDEX certificates_fingerprint ON certificates (fingerprint) WHERE fingerprint IS NOT NULL;

CREATE TABLE certificate_der (
    number INTEGER PRIMARY KEY REFERENCES certificates (number),
    tbs BLOB NOT NULL,
    der BLOB
) STRICT;

-- An index over the certificates' names, not a source: a listing compares it with the row.
CREATE TABLE certificate_names (
    name TEXT NOT NULL,
    number INTEGER NOT NULL REFERENCES certificates (number),
    PRIMARY KEY (name, number)
) STRICT, WITHOUT ROWID;

-- What has to be remembered of a shard besides its newest CRL.
CREATE TABLE crl_shards (
    issuer TEXT NOT NULL,
    shard INTEGER NOT NULL,
    last_number INTEGER NOT NULL,
    revoked INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (issuer, shard)
) STRICT, WITHOUT ROWID;

CREATE TABLE crls (
    issuer TEXT NOT NULL,
    shard INTEGER NOT NULL,
    number INTEGER NOT NULL,
    this_update INTEGER NOT NULL,
    next_update INTEGER NOT NULL,
    entries INTEGER NOT NULL,
    der_hash BLOB NOT NULL,
    hash BLOB NOT NULL,
    der BLOB NOT NULL,
    PRIMARY KEY (issuer, shard)
) STRICT;

CREATE TABLE blocked_keys (
    key BLOB NOT NULL PRIMARY KEY,
    at INTEGER NOT NULL,
    detail TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE effects (
    id BLOB NOT NULL PRIMARY KEY,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The log, dense from 0.
CREATE TABLE audit (
    position INTEGER PRIMARY KEY,
    entry BLOB NOT NULL,
    leaf_hash BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- revision: the last one given; audit: how many entries there are; audit.newest: the latest time in them;
-- orders.STATE: how many orders are stored so.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;
