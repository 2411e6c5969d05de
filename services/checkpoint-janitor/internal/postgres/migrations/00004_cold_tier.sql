-- +goose Up

ALTER TABLE sweep_items DROP CONSTRAINT sweep_items_task_check,
    ADD CONSTRAINT sweep_items_task_check CHECK (task IN ('tombstone', 'revive', 'delete', 'archive')),
    ADD COLUMN patterns      text[] NOT NULL DEFAULT '{}',
    ADD COLUMN cold_bytes    bigint NOT NULL DEFAULT 0 CHECK (cold_bytes >= 0),
    ADD COLUMN dropped_bytes bigint NOT NULL DEFAULT 0 CHECK (dropped_bytes >= 0),
    ADD CONSTRAINT sweep_items_archive CHECK (task = 'archive' OR cold_bytes = 0 AND dropped_bytes = 0);

-- Objects of ours that nothing refers to. One that is not seen any more is forgotten, one that changes begins anew.
CREATE TABLE orphans (
    object_key text        PRIMARY KEY,
    size_bytes bigint      NOT NULL,
    mod_time   timestamptz NOT NULL,
    detail     text        NOT NULL,
    first_seen timestamptz NOT NULL
);

-- Restores that were only tried.
CREATE TABLE drills (
    drill_id    uuid        PRIMARY KEY,
    caller      text        NOT NULL,
    checkpoints bigint      NOT NULL,
    size_bytes  bigint      NOT NULL,
    failures    text[]      NOT NULL,
    end_time    timestamptz NOT NULL
);
CREATE INDEX drills_end_time ON drills (end_time DESC);

-- +goose Down
DROP TABLE drills, orphans;
ALTER TABLE sweep_items DROP CONSTRAINT sweep_items_archive, DROP COLUMN patterns, DROP COLUMN cold_bytes, DROP COLUMN dropped_bytes;
DELETE FROM sweep_items WHERE task = 'archive';
ALTER TABLE sweep_items DROP CONSTRAINT sweep_items_task_check,
    ADD CONSTRAINT sweep_items_task_check CHECK (task IN ('tombstone', 'revive', 'delete'));
