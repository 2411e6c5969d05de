-- +goose Up
CREATE TABLE account (
    name    text   PRIMARY KEY,
    balance bigint NOT NULL CONSTRAINT account_not_overdrawn CHECK (balance >= 0)
);
CREATE TABLE request_ledger (
    request_id   text        PRIMARY KEY,
    method       text        NOT NULL,
    payload_hash bytea       NOT NULL CHECK (octet_length(payload_hash) = 32),
    response     bytea,
    create_time  timestamptz NOT NULL
);

-- +goose Down
DROP TABLE account;
