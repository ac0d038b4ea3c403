-- Which order replaces a certificate (RFC 9773 §5), and operators' wishes that certificates be renewed sooner.

CREATE TABLE replacements (
    id TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE renewal_pulls (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
