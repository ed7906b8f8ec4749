-- The book of record on SQLite.
--
-- Amounts are integers: octets, or millionths of a currency. Times are nanoseconds since
-- 1970-01-01 UTC. What happened is never changed or removed, triggers see to it; a correction
-- is a further transaction that reverses an earlier one.
--
-- Each version's statements make a ledger of that version out of one of the version before, so a
-- new ledger goes through all of them. A version that was released is never edited.

-- version 1

-- An account holds one unit; a name may stand once per unit.
CREATE TABLE accounts (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    unit    TEXT NOT NULL,  -- 'octet', or 'CNY/1000000'
    kind    TEXT NOT NULL CHECK (
        kind IN ('subscriber', 'sponsor', 'operator', 'card', 'settlement', 'remainder')),
    state   TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
    balance INTEGER NOT NULL DEFAULT 0,  -- the sum of its postings
    held    INTEGER NOT NULL DEFAULT 0 CHECK (held >= 0),  -- reserved, not yet posted
    floor   INTEGER,  -- NULL: none
    UNIQUE (name, unit),
    CHECK (floor IS NULL OR balance - held >= floor)
) STRICT;

CREATE TABLE transactions (
    id              INTEGER PRIMARY KEY,
    kind            TEXT NOT NULL,  -- 'usage'
    idempotency_key TEXT NOT NULL UNIQUE,
    fingerprint     TEXT NOT NULL,  -- SHA-256 of what was asked for
    created_at_ns   INTEGER NOT NULL,
    description     TEXT NOT NULL,
    reverses        INTEGER UNIQUE REFERENCES transactions (id)
) STRICT;

-- One netted posting per account; they sum to zero per unit of a transaction.
-- Parents are written after their rows where they hold a digest of them: hence DEFERRED.
CREATE TABLE postings (
    transaction_id INTEGER NOT NULL REFERENCES transactions (id) DEFERRABLE INITIALLY DEFERRED,
    account_id     INTEGER NOT NULL REFERENCES accounts (id),
    amount         INTEGER NOT NULL CHECK (amount <> 0),  -- + the account gains, - it loses
    PRIMARY KEY (transaction_id, account_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX postings_of_account ON postings (account_id);

-- A batch of usage records: a whole input, or the part of a live epoch from first_sequence on.
CREATE TABLE runs (
    id             INTEGER PRIMARY KEY,
    transaction_id INTEGER NOT NULL UNIQUE REFERENCES transactions (id)
        DEFERRABLE INITIALLY DEFERRED,
    source         TEXT NOT NULL,
    epoch          TEXT NOT NULL,
    first_sequence INTEGER NOT NULL,
    records        INTEGER NOT NULL CHECK (records >= 0),
    charges        INTEGER NOT NULL CHECK (charges >= 0),
    first_packet_ns INTEGER,  -- NULL: no record
    rules_version  TEXT NOT NULL,
    layer          TEXT NOT NULL,
    at             TEXT NOT NULL,
    program        TEXT NOT NULL,
    UNIQUE (source, epoch, first_sequence)
) STRICT;

CREATE TABLE captures (
    run_id  INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    ordinal INTEGER NOT NULL,
    name    TEXT NOT NULL,
    digest  TEXT NOT NULL,
    PRIMARY KEY (run_id, ordinal)
) STRICT, WITHOUT ROWID;

CREATE INDEX captures_by_digest ON captures (digest);

-- A sponsor's identity in the rules, and the account that paid for it under them.
CREATE TABLE sponsors (
    id         INTEGER PRIMARY KEY,
    identity   TEXT NOT NULL,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    UNIQUE (identity, account_id)
) STRICT;
CREATE INDEX sponsors_of_account ON sponsors (account_id);

-- (source, epoch, sequence) is the key of a record; its run holds the first two.
CREATE TABLE usage_records (
    run_id            INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    sequence          INTEGER NOT NULL,
    window_start_ns   INTEGER,  -- NULL: from the beginning
    window_end_ns     INTEGER,  -- NULL: to the end
    subscriber        TEXT NOT NULL,
    account_id        INTEGER NOT NULL REFERENCES accounts (id),
    rule              TEXT,  -- NULL: none matched
    rating_group      INTEGER,
    sponsor_identity  TEXT,
    asp_identity      TEXT,
    uplink_packets    INTEGER NOT NULL CHECK (uplink_packets >= 0),
    uplink_octets     INTEGER NOT NULL CHECK (uplink_octets >= 0),
    downlink_packets  INTEGER NOT NULL CHECK (downlink_packets >= 0),
    downlink_octets   INTEGER NOT NULL CHECK (downlink_octets >= 0),
    subscriber_octets INTEGER NOT NULL CHECK (subscriber_octets >= 0),
    first_packet_ns   INTEGER NOT NULL,
    last_packet_ns    INTEGER NOT NULL,
    flags             TEXT NOT NULL,  -- separated by commas
    PRIMARY KEY (run_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_records_of_account ON usage_records (account_id);
-- Quotas that continue from run to run are looked up by rule and time.
CREATE INDEX usage_records_of_rule ON usage_records (rule, last_packet_ns)
    WHERE rule IS NOT NULL;

-- What sponsors pay of a record; the rest of its octets are the subscriber's.
CREATE TABLE usage_shares (
    run_id     INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    sponsor_id INTEGER NOT NULL REFERENCES sponsors (id),
    octets     INTEGER NOT NULL CHECK (octets >= 0),
    PRIMARY KEY (run_id, sequence, sponsor_id),
    FOREIGN KEY (run_id, sequence) REFERENCES usage_records (run_id, sequence)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_shares_of_sponsor ON usage_shares (sponsor_id);

-- The account's unit is the charge's currency.
CREATE TABLE charges (
    run_id          INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    ordinal         INTEGER NOT NULL,
    account_id      INTEGER NOT NULL REFERENCES accounts (id),
    tariff          TEXT NOT NULL,
    octets          INTEGER NOT NULL CHECK (octets >= 0),
    -- May be fewer than octets: inside an increment that an earlier run paid for.
    rated_octets    INTEGER NOT NULL CHECK (rated_octets >= 0),
    amount_micros   INTEGER NOT NULL,
    remainder       TEXT NOT NULL,  -- exact price - amount_micros, 'numerator/denominator'
    period_start_ns INTEGER,  -- of a day, or of its band; NULL: the whole run
    PRIMARY KEY (run_id, ordinal)
) STRICT, WITHOUT ROWID;
CREATE INDEX charges_of_account ON charges (account_id);
-- A day that continues from run to run is looked up by its tariff.
CREATE INDEX charges_of_period ON charges (period_start_ns, tariff)
    WHERE period_start_ns IS NOT NULL;

-- Fractions of a micro-unit that rounding left off, per run and currency. As soon as they make
-- a whole one, the remainder account pays it to the operator; the rest is carried on.
CREATE TABLE remainders (
    run_id     INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    account_id INTEGER NOT NULL REFERENCES accounts (id),  -- the remainder account
    amount     TEXT NOT NULL,  -- the sum over this run's charges
    carried    TEXT NOT NULL,  -- what is left after it, at least 0 and below 1
    PRIMARY KEY (account_id, run_id)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER accounts_keep_their_name BEFORE UPDATE OF id, name, unit, kind ON accounts
BEGIN SELECT RAISE(ABORT, 'an account keeps its name, unit and kind'); END;
CREATE TRIGGER accounts_stay BEFORE DELETE ON accounts
BEGIN SELECT RAISE(ABORT, 'accounts are closed, not deleted'); END;
CREATE TRIGGER transactions_no_update BEFORE UPDATE ON transactions
BEGIN SELECT RAISE(ABORT, 'transactions are append-only'); END;
CREATE TRIGGER transactions_no_delete BEFORE DELETE ON transactions
BEGIN SELECT RAISE(ABORT, 'transactions are append-only'); END;
CREATE TRIGGER postings_no_update BEFORE UPDATE ON postings
BEGIN SELECT RAISE(ABORT, 'postings are append-only'); END;
CREATE TRIGGER postings_no_delete BEFORE DELETE ON postings
BEGIN SELECT RAISE(ABORT, 'postings are append-only'); END;
CREATE TRIGGER runs_no_update BEFORE UPDATE ON runs
BEGIN SELECT RAISE(ABORT, 'runs are append-only'); END;
CREATE TRIGGER runs_no_delete BEFORE DELETE ON runs
BEGIN SELECT RAISE(ABORT, 'runs are append-only'); END;
CREATE TRIGGER captures_no_update BEFORE UPDATE ON captures
BEGIN SELECT RAISE(ABORT, 'captures are append-only'); END;
CREATE TRIGGER captures_no_delete BEFORE DELETE ON captures
BEGIN SELECT RAISE(ABORT, 'captures are append-only'); END;
CREATE TRIGGER sponsors_no_update BEFORE UPDATE ON sponsors
BEGIN SELECT RAISE(ABORT, 'sponsors are append-only'); END;
CREATE TRIGGER sponsors_no_delete BEFORE DELETE ON sponsors
BEGIN SELECT RAISE(ABORT, 'sponsors are append-only'); END;
CREATE TRIGGER usage_records_no_update BEFORE UPDATE ON usage_records
BEGIN SELECT RAISE(ABORT, 'usage records are append-only'); END;
CREATE TRIGGER usage_records_no_delete BEFORE DELETE ON usage_records
BEGIN SELECT RAISE(ABORT, 'usage records are append-only'); END;
CREATE TRIGGER usage_shares_no_update BEFORE UPDATE ON usage_shares
BEGIN SELECT RAISE(ABORT, 'usage shares are append-only'); END;
CREATE TRIGGER usage_shares_no_delete BEFORE DELETE ON usage_shares
BEGIN SELECT RAISE(ABORT, 'usage shares are append-only'); END;
CREATE TRIGGER charges_no_update BEFORE UPDATE ON charges
BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER charges_no_delete BEFORE DELETE ON charges
BEGIN SELECT RAISE(ABORT, 'charges are append-only'); END;
CREATE TRIGGER remainders_no_update BEFORE UPDATE ON remainders
BEGIN SELECT RAISE(ABORT, 'remainders are append-only'); END;
CREATE TRIGGER remainders_no_delete BEFORE DELETE ON remainders
BEGIN SELECT RAISE(ABORT, 'remainders are append-only'); END;

-- version 2

-- Where a transaction comes from, where it is no usage: usage has its run.
ALTER TABLE transactions ADD COLUMN service_request TEXT;
ALTER TABLE transactions ADD COLUMN run_id INTEGER REFERENCES runs (id);
ALTER TABLE transactions ADD COLUMN tariff TEXT;
ALTER TABLE transactions ADD COLUMN rules_version TEXT;
CREATE INDEX transactions_that_reverse ON transactions (id) WHERE reverses IS NOT NULL;

-- Amounts set aside. accounts.held is the sum of those in state 'held'.
CREATE TABLE holds (
    id              INTEGER PRIMARY KEY,
    idempotency_key TEXT NOT NULL UNIQUE,
    fingerprint     TEXT NOT NULL,  -- SHA-256 of what was asked for
    account_id      INTEGER NOT NULL REFERENCES accounts (id),
    amount          INTEGER NOT NULL CHECK (amount > 0),
    description     TEXT NOT NULL,
    service_request TEXT,
    run_id          INTEGER REFERENCES runs (id),
    tariff          TEXT,
    rules_version   TEXT,
    created_at_ns   INTEGER NOT NULL,
    expires_at_ns   INTEGER NOT NULL,
    state           TEXT NOT NULL DEFAULT 'held' CHECK (
        state IN ('held', 'captured', 'voided', 'expired')),
    captured        INTEGER NOT NULL DEFAULT 0 CHECK (captured BETWEEN 0 AND amount),
    transaction_id  INTEGER UNIQUE REFERENCES transactions (id),  -- that captured it
    resolved_at_ns  INTEGER,
    CHECK ((state = 'held') = (resolved_at_ns IS NULL)),
    CHECK ((state = 'captured') = (captured > 0)),
    CHECK ((state = 'captured') = (transaction_id IS NOT NULL))
) STRICT;
CREATE INDEX holds_of_account ON holds (account_id);
CREATE INDEX holds_to_expire ON holds (expires_at_ns) WHERE state = 'held';

CREATE TRIGGER holds_keep_their_terms BEFORE UPDATE OF id, idempotency_key, fingerprint,
    account_id, amount, description, service_request, run_id, tariff, rules_version,
    created_at_ns, expires_at_ns ON holds
BEGIN SELECT RAISE(ABORT, 'a hold keeps its terms'); END;
CREATE TRIGGER holds_resolve_once BEFORE UPDATE ON holds
WHEN OLD.state <> 'held' OR NEW.state = 'held'
BEGIN SELECT RAISE(ABORT, 'a hold is resolved once'); END;
CREATE TRIGGER holds_no_delete BEFORE DELETE ON holds
BEGIN SELECT RAISE(ABORT, 'holds are resolved, not deleted'); END;

-- What a live run noticed and somebody may have to be told.
CREATE TABLE events (
    id               INTEGER PRIMARY KEY,
    identity         TEXT NOT NULL UNIQUE,  -- JSON of what makes it this event: told again, once here
    kind             TEXT NOT NULL,
    at_ns            INTEGER NOT NULL,
    source           TEXT NOT NULL,
    epoch            TEXT NOT NULL,
    subscriber       TEXT,
    account          TEXT,
    rule             TEXT,
    sponsor          TEXT,
    period_start_ns  INTEGER,
    octets           INTEGER,
    threshold_octets INTEGER
) STRICT;

CREATE TRIGGER events_no_update BEFORE UPDATE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;
CREATE TRIGGER events_no_delete BEFORE DELETE ON events
BEGIN SELECT RAISE(ABORT, 'events are append-only'); END;

-- version 3

-- What taxes add to a charge; each tax gains it in an account of the charge's unit.
CREATE TABLE charge_taxes (
    run_id        INTEGER NOT NULL,
    ordinal       INTEGER NOT NULL,
    tax           TEXT NOT NULL,
    account_id    INTEGER NOT NULL REFERENCES accounts (id),  -- the tax's
    amount_micros INTEGER NOT NULL,
    remainder     TEXT NOT NULL,  -- exact tax - amount_micros, 'numerator/denominator'
    PRIMARY KEY (run_id, ordinal, tax),
    FOREIGN KEY (run_id, ordinal) REFERENCES charges (run_id, ordinal)
) STRICT, WITHOUT ROWID;

-- What an account used or owes and its balance did not cover: posted to operator:uncollected.
CREATE TABLE uncollected (
    run_id     INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    amount     INTEGER NOT NULL CHECK (amount <> 0),
    PRIMARY KEY (run_id, account_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX uncollected_of_account ON uncollected (account_id);
CREATE INDEX accounts_that_may_refuse ON accounts (id)
    WHERE floor IS NOT NULL OR state <> 'open';

CREATE TRIGGER charge_taxes_no_update BEFORE UPDATE ON charge_taxes
BEGIN SELECT RAISE(ABORT, 'taxes of charges are append-only'); END;
CREATE TRIGGER charge_taxes_no_delete BEFORE DELETE ON charge_taxes
BEGIN SELECT RAISE(ABORT, 'taxes of charges are append-only'); END;
CREATE TRIGGER uncollected_no_update BEFORE UPDATE ON uncollected
BEGIN SELECT RAISE(ABORT, 'what is uncollected is append-only'); END;
CREATE TRIGGER uncollected_no_delete BEFORE DELETE ON uncollected
BEGIN SELECT RAISE(ABORT, 'what is uncollected is append-only'); END;

-- version 4

-- What was written, in order: a link for every row that is written once, and one for every change
-- of an account's terms. Each digest covers the one before it.
CREATE TABLE chain (
    number  INTEGER PRIMARY KEY,  -- from 1, without gaps
    at_ns   INTEGER NOT NULL,  -- never before the link before it
    -- 'ledger', 'account', 'transaction', 'hold', 'resolution', 'event' or 'period'
    kind    TEXT NOT NULL,
    subject INTEGER NOT NULL,  -- id of the row that it is about
    content TEXT,  -- JSON of what the row said then, where such rows change
    digest  BLOB NOT NULL  -- SHA-256
) STRICT;
CREATE INDEX chain_of_accounts ON chain (subject) WHERE kind = 'account';
CREATE INDEX chain_of_events ON chain (subject) WHERE kind = 'event';

-- Periods that were closed, one after the other. What is signed stands in `head`.
CREATE TABLE periods (
    id         INTEGER PRIMARY KEY,
    period     TEXT NOT NULL UNIQUE,  -- '2026-11', or '2026-11-03'
    head       TEXT NOT NULL,  -- JSON
    public_key TEXT NOT NULL,  -- Ed25519, hexadecimal
    signature  TEXT NOT NULL  -- of the head, hexadecimal
) STRICT;

-- What each account's period comes to. Sorted by their names they are the leaves of the tree
-- whose root is signed.
CREATE TABLE leaves (
    period_id  INTEGER NOT NULL REFERENCES periods (id),
    account    TEXT NOT NULL,  -- its name
    digest     TEXT NOT NULL,  -- SHA-256 of the leaf, hexadecimal
    PRIMARY KEY (period_id, account)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER chain_no_update BEFORE UPDATE ON chain
BEGIN SELECT RAISE(ABORT, 'links are append-only'); END;
CREATE TRIGGER chain_no_delete BEFORE DELETE ON chain
BEGIN SELECT RAISE(ABORT, 'links are append-only'); END;
CREATE TRIGGER periods_no_update BEFORE UPDATE ON periods
BEGIN SELECT RAISE(ABORT, 'closed periods are append-only'); END;
CREATE TRIGGER periods_no_delete BEFORE DELETE ON periods
BEGIN SELECT RAISE(ABORT, 'closed periods are append-only'); END;
CREATE TRIGGER leaves_no_update BEFORE UPDATE ON leaves
BEGIN SELECT RAISE(ABORT, 'leaves are append-only'); END;
CREATE TRIGGER leaves_no_delete BEFORE DELETE ON leaves
BEGIN SELECT RAISE(ABORT, 'leaves are append-only'); END;

-- version 5

ALTER TABLE events ADD COLUMN unit TEXT;  -- of the account whose balance came to its end
