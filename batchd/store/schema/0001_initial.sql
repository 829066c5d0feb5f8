-- Objects are rows, bytes are files in the spool. Rows are never deleted while a cursor may name
-- them: deleted_at marks a tombstone. seq orders lists where created_at ties.

CREATE TABLE file (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    id          TEXT NOT NULL UNIQUE,
    owner       TEXT NOT NULL DEFAULT 'local',
    filename    TEXT NOT NULL,
    purpose     TEXT NOT NULL,
    bytes       INTEGER NOT NULL,
    sha256      TEXT,               -- of uploads; lines of result files carry their own checksums
    created_at  INTEGER NOT NULL,
    expires_at  INTEGER,
    deleted_at  INTEGER
) STRICT;

CREATE INDEX file_by_owner ON file (owner, seq) WHERE deleted_at IS NULL;
CREATE INDEX file_by_expiry ON file (expires_at) WHERE deleted_at IS NULL AND expires_at IS NOT NULL;

CREATE TABLE batch (
    seq                   INTEGER PRIMARY KEY AUTOINCREMENT,
    id                    TEXT NOT NULL UNIQUE,
    owner                 TEXT NOT NULL DEFAULT 'local',
    status                TEXT NOT NULL,
    endpoint              TEXT NOT NULL,
    model                 TEXT,
    input_file_id         TEXT NOT NULL,
    completion_window     TEXT NOT NULL,
    metadata              TEXT,     -- JSON object of strings
    output_expires_after  INTEGER NOT NULL,
    created_at            INTEGER NOT NULL,
    expires_at            INTEGER NOT NULL,
    in_progress_at        INTEGER,
    finalizing_at         INTEGER,
    completed_at          INTEGER,
    failed_at             INTEGER,
    expired_at            INTEGER,
    cancelling_at         INTEGER,
    cancelled_at          INTEGER,
    errors                TEXT,     -- JSON array of line errors
    counts                TEXT NOT NULL,  -- JSON object; a cache until terminal
    usage                 TEXT NOT NULL,  -- JSON object; a cache until terminal
    output_file_id        TEXT,     -- hidden until terminal, then null unless the file exists
    error_file_id         TEXT,
    output_end            INTEGER NOT NULL DEFAULT 0,  -- last known good ledger offsets
    error_end             INTEGER NOT NULL DEFAULT 0,
    priority              INTEGER NOT NULL DEFAULT 0,
    paused_at             INTEGER,
    parent_id             TEXT,
    source                TEXT NOT NULL DEFAULT 'api',
    idempotency_key       TEXT,
    request_hash          TEXT,
    notes                 TEXT NOT NULL DEFAULT '[]'   -- JSON array of sentences
) STRICT;

CREATE INDEX batch_by_owner ON batch (owner, seq);
CREATE INDEX batch_unfinished ON batch (status, seq)
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');
CREATE UNIQUE INDEX batch_by_idempotency_key ON batch (owner, idempotency_key)
    WHERE idempotency_key IS NOT NULL;

-- A file taken from the inbox and the batch it became. The identity is forgotten once the original
-- has left, so that the same file can be dropped again; the row stays until results are delivered.
CREATE TABLE inbox_claim (
    seq           INTEGER PRIMARY KEY AUTOINCREMENT,
    device        INTEGER NOT NULL,
    inode         INTEGER NOT NULL,
    mtime_ns      INTEGER NOT NULL,
    size          INTEGER NOT NULL,
    uid           INTEGER NOT NULL,  -- whose file it was
    name          TEXT NOT NULL,
    stem          TEXT NOT NULL,     -- what the results are called: stem.output.jsonl
    batch_id      TEXT NOT NULL UNIQUE,
    left_at       INTEGER,
    delivered_at  INTEGER
) STRICT;

CREATE UNIQUE INDEX inbox_claim_by_identity ON inbox_claim (device, inode, mtime_ns, size)
    WHERE left_at IS NULL;
CREATE UNIQUE INDEX inbox_claim_by_stem ON inbox_claim (stem) WHERE delivered_at IS NULL;
CREATE INDEX inbox_claim_undelivered ON inbox_claim (seq) WHERE delivered_at IS NULL;
