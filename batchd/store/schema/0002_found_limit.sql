-- How many requests in flight a model on a backend was found to take best: where the next life
-- begins. A cache: losing a row costs some minutes of measuring.

CREATE TABLE found_limit (
    backend    TEXT NOT NULL,
    base_url   TEXT NOT NULL,
    model      TEXT NOT NULL,
    in_flight  INTEGER NOT NULL,
    found_at   INTEGER NOT NULL,
    PRIMARY KEY (backend, base_url, model)
) STRICT;
