-- A ledger of schema version 1 with two runs, as SQLite's dump of what tollsplit 0.1.0 made.
PRAGMA application_id = 1953264496;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
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
INSERT INTO "accounts" VALUES(1,'alice','octet','subscriber','open',-600,0,NULL);
INSERT INTO "accounts" VALUES(2,'sponsor:video-co','octet','sponsor','open',-2100,0,NULL);
INSERT INTO "accounts" VALUES(3,'alice','CNY/1000000','subscriber','open',-87,0,NULL);
INSERT INTO "accounts" VALUES(4,'sponsor:video-co','CNY/1000000','sponsor','open',-203,0,NULL);
INSERT INTO "accounts" VALUES(5,'operator:remainder','CNY/1000000','remainder','open',-1,0,NULL);
INSERT INTO "accounts" VALUES(6,'operator:revenue','CNY/1000000','operator','open',335,0,NULL);
INSERT INTO "accounts" VALUES(7,'operator:traffic','octet','operator','open',3000,0,NULL);
INSERT INTO "accounts" VALUES(8,'bob','octet','subscriber','open',-300,0,NULL);
INSERT INTO "accounts" VALUES(9,'bob','CNY/1000000','subscriber','open',-44,0,NULL);
CREATE TABLE captures (
    run_id  INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    ordinal INTEGER NOT NULL,
    name    TEXT NOT NULL,
    digest  TEXT NOT NULL,
    PRIMARY KEY (run_id, ordinal)
) STRICT, WITHOUT ROWID;
INSERT INTO "captures" VALUES(1,0,'campus.pcap','sha256:capture e1');
INSERT INTO "captures" VALUES(2,0,'campus.pcap','sha256:capture e2');
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
INSERT INTO "charges" VALUES(1,0,3,'standard',300,1024,87,'1/3',1793664000000000000);
INSERT INTO "charges" VALUES(1,1,4,'standard',300,1024,203,'1/2',1793664000000000000);
INSERT INTO "charges" VALUES(2,0,9,'standard',300,1024,44,'2/3',1793664000000000000);
CREATE TABLE postings (
    transaction_id INTEGER NOT NULL REFERENCES transactions (id) DEFERRABLE INITIALLY DEFERRED,
    account_id     INTEGER NOT NULL REFERENCES accounts (id),
    amount         INTEGER NOT NULL CHECK (amount <> 0),  -- + the account gains, - it loses
    PRIMARY KEY (transaction_id, account_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "postings" VALUES(1,1,-600);
INSERT INTO "postings" VALUES(1,2,-1400);
INSERT INTO "postings" VALUES(1,3,-87);
INSERT INTO "postings" VALUES(1,4,-203);
INSERT INTO "postings" VALUES(1,6,290);
INSERT INTO "postings" VALUES(1,7,2000);
INSERT INTO "postings" VALUES(2,2,-700);
INSERT INTO "postings" VALUES(2,5,-1);
INSERT INTO "postings" VALUES(2,6,45);
INSERT INTO "postings" VALUES(2,7,1000);
INSERT INTO "postings" VALUES(2,8,-300);
INSERT INTO "postings" VALUES(2,9,-44);
CREATE TABLE remainders (
    run_id     INTEGER NOT NULL REFERENCES runs (id) DEFERRABLE INITIALLY DEFERRED,
    account_id INTEGER NOT NULL REFERENCES accounts (id),  -- the remainder account
    amount     TEXT NOT NULL,  -- the sum over this run's charges
    carried    TEXT NOT NULL,  -- what is left after it, at least 0 and below 1
    PRIMARY KEY (account_id, run_id)
) STRICT, WITHOUT ROWID;
INSERT INTO "remainders" VALUES(1,5,'5/6','5/6');
INSERT INTO "remainders" VALUES(2,5,'2/3','1/2');
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
INSERT INTO "runs" VALUES(1,1,'campus.pcap','e1',0,2,2,1793664000000000000,'sha256:rules','ip','inner','tollsplit 0.1.0');
INSERT INTO "runs" VALUES(2,2,'campus.pcap','e2',0,1,1,1793664000000000000,'sha256:rules','ip','inner','tollsplit 0.1.0');
CREATE TABLE sponsors (
    id         INTEGER PRIMARY KEY,
    identity   TEXT NOT NULL,
    account_id INTEGER NOT NULL REFERENCES accounts (id),
    UNIQUE (identity, account_id)
) STRICT;
INSERT INTO "sponsors" VALUES(1,'video-co',2);
CREATE TABLE transactions (
    id              INTEGER PRIMARY KEY,
    kind            TEXT NOT NULL,  -- 'usage'
    idempotency_key TEXT NOT NULL UNIQUE,
    fingerprint     TEXT NOT NULL,  -- SHA-256 of what was asked for
    created_at_ns   INTEGER NOT NULL,
    description     TEXT NOT NULL,
    reverses        INTEGER UNIQUE REFERENCES transactions (id)
) STRICT;
INSERT INTO "transactions" VALUES(1,'usage','["usage", "campus.pcap", "e1", 0]','sha256:095b20158c4d7703e3c2785a423685fbbfb7fc213214f1b03b040eaead03f0c4',1793678400000000000,'usage of campus.pcap',NULL);
INSERT INTO "transactions" VALUES(2,'usage','["usage", "campus.pcap", "e2", 0]','sha256:2372b41db6eb20be93875e0f3b3a87ef036b947927e2d1ddb663465a1ead8b87',1793678400000000000,'usage of campus.pcap',NULL);
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
INSERT INTO "usage_records" VALUES(1,0,1793664000000000000,1793667600000000000,'10.0.0.7',1,'pay-proxy',100,'video-co','video.example',2,400,3,600,300,1793664000000000000,1793664001000000000,'');
INSERT INTO "usage_records" VALUES(1,1,1793667600000000000,1793671200000000000,'10.0.0.7',1,'pay-proxy',100,'video-co','video.example',2,400,3,600,300,1793667600000000000,1793667601000000000,'');
INSERT INTO "usage_records" VALUES(2,0,1793664000000000000,1793667600000000000,'10.0.0.8',8,'pay-proxy',100,'video-co','video.example',2,400,3,600,300,1793664000000000000,1793664001000000000,'');
CREATE TABLE usage_shares (
    run_id     INTEGER NOT NULL,
    sequence   INTEGER NOT NULL,
    sponsor_id INTEGER NOT NULL REFERENCES sponsors (id),
    octets     INTEGER NOT NULL CHECK (octets >= 0),
    PRIMARY KEY (run_id, sequence, sponsor_id),
    FOREIGN KEY (run_id, sequence) REFERENCES usage_records (run_id, sequence)
) STRICT, WITHOUT ROWID;
INSERT INTO "usage_shares" VALUES(1,0,1,700);
INSERT INTO "usage_shares" VALUES(1,1,1,700);
INSERT INTO "usage_shares" VALUES(2,0,1,700);
CREATE INDEX postings_of_account ON postings (account_id);
CREATE INDEX captures_by_digest ON captures (digest);
CREATE INDEX sponsors_of_account ON sponsors (account_id);
CREATE INDEX usage_records_of_account ON usage_records (account_id);
CREATE INDEX usage_records_of_rule ON usage_records (rule, last_packet_ns)
    WHERE rule IS NOT NULL;
CREATE INDEX usage_shares_of_sponsor ON usage_shares (sponsor_id);
CREATE INDEX charges_of_account ON charges (account_id);
CREATE INDEX charges_of_period ON charges (period_start_ns, tariff)
    WHERE period_start_ns IS NOT NULL;
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
COMMIT;
