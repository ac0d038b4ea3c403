-- External accounts (RFC 8555 §7.3.4), the keys that their secrets are sealed to, and how to find what rests on them.

CREATE TABLE external_accounts (
    id BLOB NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE TABLE sealing_keys (
    id TEXT NOT NULL PRIMARY KEY,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

-- Over the body, since a new column would stand behind the hash of rows that are there. A body that is damaged must not
-- keep its row from being written.
CREATE INDEX accounts_external
    ON accounts (CASE WHEN json_valid(body) THEN json_extract(body, '$.external_account.id') END, id)
    WHERE CASE WHEN json_valid(body) THEN json_extract(body, '$.external_account.id') END IS NOT NULL;
CREATE INDEX authorizations_trusted ON authorizations (account, identifier, id) WHERE state = 'trusted';
