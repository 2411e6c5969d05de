-- +goose Up

-- What runs of a kind were seen to use and to take.
CREATE TABLE peaks (
    key         text        PRIMARY KEY,
    bytes       bigint      NOT NULL CHECK (bytes >= 0),
    took_ms     bigint      NOT NULL CHECK (took_ms >= 0),
    runs        integer     NOT NULL,
    update_time timestamptz NOT NULL
);
CREATE INDEX peaks_update_time ON peaks (update_time);

-- +goose Down
DROP TABLE peaks;
