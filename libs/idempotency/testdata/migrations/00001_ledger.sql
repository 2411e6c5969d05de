-- +goose Up
CREATE TABLE request_ledger (
    request_id   text        PRIMARY KEY,
    method       text        NOT NULL,
    payload_hash bytea       NOT NULL CHECK (octet_length(payload_hash) = 32),
    response     bytea,
    create_time  timestamptz NOT NULL
);
CREATE INDEX request_ledger_create_time ON request_ledger (create_time);
CREATE TABLE effect (n int NOT NULL);
