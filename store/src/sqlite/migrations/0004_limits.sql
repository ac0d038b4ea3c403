-- Rate limits, failures that lead to a pause, and what bounds and pruning look for.

-- A bucket's name is a hash over what it counts; arrival is in microseconds since 1970.
CREATE TABLE limit_buckets (
    bucket BLOB NOT NULL PRIMARY KEY,
    arrival INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- An account with a name whose validation failed; the id is a hash over both.
CREATE TABLE failing (
    id BLOB NOT NULL PRIMARY KEY,
    account BLOB NOT NULL,
    paused INTEGER NOT NULL,
    version INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;
CREATE INDEX failing_account ON failing (account, id);
CREATE INDEX failing_paused ON failing (id) WHERE paused = 1;

-- An index over valid accounts that never placed an order and are bound to nothing, not a source: a listing reads the
-- account.
CREATE TABLE unused_accounts (
    account BLOB NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;
INSERT INTO unused_accounts
    SELECT id FROM accounts
    WHERE state = 'valid'
        AND CASE WHEN json_valid(body) THEN json_extract(body, '$.external_account.id') END IS NULL
        AND NOT EXISTS (SELECT 1 FROM orders WHERE orders.account = accounts.id);

CREATE INDEX authorizations_pending ON authorizations (account, id) WHERE state = 'pending';
