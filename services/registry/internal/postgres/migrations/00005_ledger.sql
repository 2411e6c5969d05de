-- +goose Up

-- One row per mutation that carried a request_id, written in the mutation's own
-- transaction: a resent request is answered from here and changes nothing. The columns
-- are those of libs/idempotency.
CREATE TABLE request_ledger (
    request_id   text        PRIMARY KEY,
    method       text        NOT NULL,
    payload_hash bytea       NOT NULL CHECK (octet_length(payload_hash) = 32),
    response     bytea,
    create_time  timestamptz NOT NULL
);
CREATE INDEX request_ledger_create_time ON request_ledger (create_time);

-- +goose Down
DROP TABLE request_ledger;
