-- +goose Up

-- One row per plan. Policy and inventory are stored as they were, so that any
-- plan can be decided again and must come out with the same hash.
CREATE TABLE plans (
    plan_hash      text        PRIMARY KEY CHECK (plan_hash ~ '^[0-9a-f]{64}$'),
    policy_version text        NOT NULL,
    policy_hash    text        NOT NULL,
    policy_text    bytea       NOT NULL,
    inventory_hash text        NOT NULL,
    inventory      bytea       NOT NULL, -- JSON lines, zstd
    plan_time      timestamptz NOT NULL,
    tightened      boolean     NOT NULL,
    changes        text[]      NOT NULL,
    create_time    timestamptz NOT NULL
);
CREATE INDEX plans_create_time ON plans (create_time DESC);

-- What each plan said about each checkpoint. Decisions to keep are pruned with
-- age, decisions to drop or archive stay as the record.
CREATE TABLE decisions (
    plan_hash       text     NOT NULL REFERENCES plans ON DELETE CASCADE,
    checkpoint_id   text     NOT NULL,
    experiment      text     NOT NULL,
    run_id          text     NOT NULL,
    step            bigint   NOT NULL,
    state           text     NOT NULL,
    verdict         text     NOT NULL CHECK (verdict IN ('keep', 'archive', 'drop', 'revive', 'gone')),
    codes           text[]   NOT NULL CHECK (cardinality(codes) > 0),
    texts           text[]   NOT NULL CHECK (cardinality(texts) = cardinality(codes)),
    rank            integer  NOT NULL CHECK (rank >= 0),
    rule            text     NOT NULL,
    size_bytes      bigint   NOT NULL,
    freed_bytes     bigint   NOT NULL,
    exclusive_bytes bigint   NOT NULL,
    due_time        timestamptz,
    PRIMARY KEY (plan_hash, checkpoint_id)
);
CREATE INDEX decisions_checkpoint ON decisions (checkpoint_id) WHERE verdict <> 'keep';

-- A sweep moves OPEN -> RUNNING -> DONE, or OPEN -> REFUSED. Single writer: the
-- janitor. plan_hash has no foreign key: plans are pruned, sweeps are not.
CREATE TABLE sweeps (
    sweep_id      uuid        PRIMARY KEY,
    trigger       text        NOT NULL CHECK (trigger IN ('person', 'schedule')),
    caller        text        NOT NULL,
    state         text        NOT NULL CHECK (state IN ('OPEN', 'RUNNING', 'DONE', 'REFUSED')),
    confirmed     boolean     NOT NULL,
    plan_hash     text        NOT NULL, -- empty until planned
    grace_ms      bigint      NOT NULL DEFAULT 0 CHECK (grace_ms >= 0),
    catalogued    bigint      NOT NULL DEFAULT 0,
    refusal_codes text[]      NOT NULL DEFAULT '{}',
    refusals      text[]      NOT NULL DEFAULT '{}',
    last_error    text        NOT NULL DEFAULT '',
    create_time   timestamptz NOT NULL,
    start_time    timestamptz,
    end_time      timestamptz,
    CONSTRAINT sweeps_end CHECK ((state IN ('DONE', 'REFUSED')) = (end_time IS NOT NULL)),
    CONSTRAINT sweeps_start CHECK (state NOT IN ('RUNNING', 'DONE') OR start_time IS NOT NULL),
    CONSTRAINT sweeps_plan CHECK (state NOT IN ('RUNNING', 'DONE') OR plan_hash <> ''),
    CONSTRAINT sweeps_refusal CHECK ((state = 'REFUSED') = (cardinality(refusals) > 0))
);
CREATE INDEX sweeps_unfinished ON sweeps (create_time) WHERE end_time IS NULL;
CREATE INDEX sweeps_start_time ON sweeps (start_time DESC) WHERE start_time IS NOT NULL;

-- One task for one checkpoint. The phase is written before the next call.
CREATE TABLE sweep_items (
    sweep_id      uuid    NOT NULL REFERENCES sweeps,
    checkpoint_id text    NOT NULL,
    task          text    NOT NULL CHECK (task IN ('tombstone', 'revive', 'delete')),
    phase         text    NOT NULL CHECK (phase IN ('pending', 'released', 'erased', 'done', 'refused')),
    digests       text[]  NOT NULL,
    sizes         bigint[] NOT NULL CHECK (cardinality(sizes) = cardinality(digests)),
    size_bytes    bigint  NOT NULL,
    freed_bytes   bigint  NOT NULL DEFAULT 0,
    reason        text    NOT NULL,
    PRIMARY KEY (sweep_id, checkpoint_id, task),
    CONSTRAINT sweep_items_phase CHECK (task = 'delete' OR phase NOT IN ('released', 'erased')),
    CONSTRAINT sweep_items_freed CHECK (freed_bytes = 0 OR task = 'delete' AND freed_bytes > 0)
);
CREATE INDEX sweep_items_open ON sweep_items (sweep_id, task, checkpoint_id) WHERE phase NOT IN ('done', 'refused');

-- A person's undo. It holds the checkpoint, or the next sweep would condemn it
-- again.
CREATE TABLE holds (
    checkpoint_id text        PRIMARY KEY,
    caller        text        NOT NULL,
    create_time   timestamptz NOT NULL,
    until_time    timestamptz NOT NULL,
    CONSTRAINT holds_order CHECK (until_time > create_time)
);

-- Usage by class at an instant; the class 'total' is the whole bucket.
CREATE TABLE usage_samples (
    sample_time timestamptz NOT NULL,
    class       text        NOT NULL,
    objects     bigint      NOT NULL CHECK (objects >= 0),
    size_bytes  bigint      NOT NULL CHECK (size_bytes >= 0),
    PRIMARY KEY (sample_time, class)
);

CREATE TABLE request_ledger (
    request_id   text        PRIMARY KEY,
    method       text        NOT NULL,
    payload_hash bytea       NOT NULL CHECK (octet_length(payload_hash) = 32),
    response     bytea,
    create_time  timestamptz NOT NULL
);
CREATE INDEX request_ledger_create_time ON request_ledger (create_time);

-- +goose Down
DROP TABLE request_ledger, usage_samples, holds, sweep_items, sweeps, decisions, plans;
