-- The sidecar that was read with a dropped file, by what it is, until both have left the inbox: one
-- that stayed behind, or came later, belongs to the next file of its name.

CREATE TABLE inbox_sidecar (
    batch_id  TEXT NOT NULL PRIMARY KEY,
    device    INTEGER NOT NULL,
    inode     INTEGER NOT NULL,
    mtime_ns  INTEGER NOT NULL,
    size      INTEGER NOT NULL
) STRICT;
