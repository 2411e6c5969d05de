-- +goose Up

-- One row per stored byte sequence. generation grows when a digest comes back after its
-- object was released for deletion: a new key, because the janitor may still be about to
-- delete the old one. CORRUPT bytes stay where they are as evidence; the same content is
-- uploaded again under the next generation.
CREATE TABLE blobs (
    blob_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    sha256      text NOT NULL CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes  bigint NOT NULL CHECK (size_bytes >= 0),
    generation  integer NOT NULL DEFAULT 1,
    object_key  text NOT NULL,
    state       text NOT NULL CHECK (state IN ('PENDING', 'PRESENT', 'CORRUPT', 'DELETING', 'DELETED')),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    CONSTRAINT blobs_object_key UNIQUE (object_key)
);
CREATE UNIQUE INDEX blobs_usable ON blobs (sha256) WHERE state IN ('PENDING', 'PRESENT');

CREATE TABLE checkpoints (
    checkpoint_id  text PRIMARY KEY,
    run_id         text NOT NULL REFERENCES runs,
    attempt        integer NOT NULL,
    fence          bigint NOT NULL,
    step           bigint NOT NULL CHECK (step >= 0),
    state          text NOT NULL CHECK (state IN ('PENDING', 'LIVE', 'TOMBSTONED', 'DELETING', 'DELETED')),
    corrupt        boolean NOT NULL DEFAULT false,
    detail         text NOT NULL DEFAULT '',
    parent_id      text REFERENCES checkpoints ON DELETE RESTRICT,
    manifest_sha256 text NOT NULL,
    total_bytes    bigint NOT NULL,
    metrics        jsonb NOT NULL DEFAULT '{}',
    sharpe         double precision,
    -- Postgres sorts NaN and Infinity above every number, so a broken evaluation would win
    -- ORDER BY sharpe DESC. Only rows with sharpe_valid may be ranked.
    sharpe_valid   boolean NOT NULL DEFAULT false,
    data_version   text NOT NULL DEFAULT '',
    feature_schema text NOT NULL DEFAULT '',
    evaluation_window text NOT NULL DEFAULT '',
    trades         bigint NOT NULL DEFAULT 0,
    -- False when it holds weights only: good for serving, not for resuming.
    resumable      boolean NOT NULL DEFAULT true,
    trace_parent   text NOT NULL DEFAULT '',
    create_time    timestamptz NOT NULL,
    commit_time    timestamptz,
    tombstone_time timestamptz,
    delete_time    timestamptz,
    reason         text NOT NULL DEFAULT '',
    CONSTRAINT checkpoints_sharpe_finite CHECK (NOT sharpe_valid OR
        (sharpe IS NOT NULL AND sharpe <> 'NaN' AND sharpe NOT IN ('Infinity', '-Infinity'))),
    CONSTRAINT checkpoints_live_committed CHECK (state <> 'LIVE' OR commit_time IS NOT NULL),
    CONSTRAINT checkpoints_swept_tombstoned CHECK (state NOT IN ('TOMBSTONED', 'DELETING', 'DELETED') OR tombstone_time IS NOT NULL)
);
CREATE INDEX checkpoints_by_run ON checkpoints (run_id, step DESC);
CREATE INDEX checkpoints_by_parent ON checkpoints (parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX checkpoints_best ON checkpoints (run_id, sharpe DESC, step, checkpoint_id)
    WHERE sharpe_valid AND state = 'LIVE' AND NOT corrupt;
-- A resent BeginCheckpoint finds the row of its first try.
CREATE UNIQUE INDEX checkpoints_once ON checkpoints (run_id, attempt, step, manifest_sha256)
    WHERE state IN ('PENDING', 'LIVE');

CREATE TABLE checkpoint_files (
    checkpoint_id text NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    name          text NOT NULL,
    blob_id       bigint NOT NULL REFERENCES blobs ON DELETE RESTRICT,
    PRIMARY KEY (checkpoint_id, name)
);
CREATE INDEX checkpoint_files_by_blob ON checkpoint_files (blob_id);

CREATE TABLE checkpoint_pins (
    checkpoint_id text NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    actor         text NOT NULL,
    reason        text NOT NULL DEFAULT '',
    create_time   timestamptz NOT NULL,
    PRIMARY KEY (checkpoint_id, actor)
);

CREATE TABLE artifacts (
    artifact_id text PRIMARY KEY,
    run_id      text NOT NULL REFERENCES runs,
    attempt     integer NOT NULL DEFAULT 0,
    fence       bigint NOT NULL DEFAULT 0,
    path        text NOT NULL,
    media_type  text NOT NULL DEFAULT '',
    blob_id     bigint NOT NULL REFERENCES blobs ON DELETE RESTRICT,
    state       text NOT NULL CHECK (state IN ('PENDING', 'LIVE', 'REPLACED', 'HIDDEN')),
    create_time timestamptz NOT NULL,
    commit_time timestamptz
);
CREATE UNIQUE INDEX artifacts_live_path ON artifacts (run_id, path) WHERE state = 'LIVE';
CREATE INDEX artifacts_by_blob ON artifacts (blob_id);
CREATE INDEX artifacts_by_run ON artifacts (run_id, path);

-- +goose Down
DROP TABLE artifacts, checkpoint_pins, checkpoint_files, checkpoints, blobs;
