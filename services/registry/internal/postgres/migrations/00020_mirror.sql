-- +goose Up

-- What an MLflow server is to hear of, written in the transaction of the change itself. A
-- row is frozen: it is sent as it is, as often as it takes, and removed when it arrived.
CREATE TABLE mirror_outbox (
    seq          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- "run/<run_id>" or "model/<model_id>": rows of a lane are sent in order, lanes side by side.
    lane         text NOT NULL,
    kind         text NOT NULL,
    payload      text NOT NULL,
    payload_hash bytea NOT NULL CHECK (octet_length(payload_hash) = 32),
    create_time  timestamptz NOT NULL
);
CREATE INDEX mirror_outbox_lane ON mirror_outbox (lane, seq);

-- A lane is what one holder at a time may send. remote_id and remote_root are the run over
-- there; empty means that it must be looked for before it is made.
CREATE TABLE mirror_lanes (
    lane         text PRIMARY KEY,
    remote_id    text NOT NULL DEFAULT '',
    remote_root  text NOT NULL DEFAULT '',
    holder       text NOT NULL DEFAULT '',
    lease_until  timestamptz NOT NULL DEFAULT '-infinity',
    retry_time   timestamptz NOT NULL DEFAULT '-infinity',
    served_time  timestamptz NOT NULL DEFAULT '-infinity',
    failures     integer NOT NULL DEFAULT 0,
    problem      text NOT NULL DEFAULT '',
    -- The last change sent, and the last comparison with what is over there.
    change_time  timestamptz NOT NULL DEFAULT '-infinity',
    verify_time  timestamptz NOT NULL DEFAULT '-infinity',
    repairs      integer NOT NULL DEFAULT 0,
    divergence   text NOT NULL DEFAULT ''
);

-- What the MLflow server refused for good, with its reason, until a person retries it.
CREATE TABLE mirror_dead (
    seq          bigint PRIMARY KEY,
    lane         text NOT NULL,
    kind         text NOT NULL,
    payload      text NOT NULL,
    reason       text NOT NULL,
    create_time  timestamptz NOT NULL,
    dead_time    timestamptz NOT NULL
);

-- The numbers that our experiments and versions have over there.
CREATE TABLE mirror_experiments (
    experiment_id bigint PRIMARY KEY REFERENCES experiments ON DELETE CASCADE,
    remote_id     text NOT NULL
);
CREATE TABLE mirror_versions (
    model_id       bigint NOT NULL,
    version        integer NOT NULL,
    remote_version integer NOT NULL,
    PRIMARY KEY (model_id, version)
);

-- The one server that is followed. Another address starts over.
CREATE TABLE mirror_target (
    sole  boolean PRIMARY KEY DEFAULT true CHECK (sole),
    url   text NOT NULL,
    since timestamptz NOT NULL
);

-- +goose Down
DROP TABLE mirror_target, mirror_versions, mirror_experiments, mirror_dead, mirror_lanes, mirror_outbox;
