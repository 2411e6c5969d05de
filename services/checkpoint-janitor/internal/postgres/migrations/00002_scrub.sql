-- +goose Up

-- The last time each content was read back and compared with its digest. A
-- content is bad until a later reading says otherwise.
CREATE TABLE scrubs (
    digest     text        PRIMARY KEY CHECK (digest ~ '^[0-9a-f]{64}$'),
    object_key text        NOT NULL,
    size_bytes bigint      NOT NULL CHECK (size_bytes >= 0),
    outcome    text        NOT NULL CHECK (outcome IN ('good', 'corrupt')),
    check_time timestamptz NOT NULL
);
CREATE INDEX scrubs_corrupt ON scrubs (digest) WHERE outcome = 'corrupt';

-- +goose Down
DROP TABLE scrubs;
