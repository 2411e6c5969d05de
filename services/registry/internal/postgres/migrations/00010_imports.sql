-- +goose Up

-- Which code made a checkpoint: a commit or an image digest, '' when nobody said.
ALTER TABLE checkpoints ADD COLUMN code_version text NOT NULL DEFAULT '';

-- Weights that no job of ours has trained, from their announcement to their version.
CREATE TABLE imports (
    import_id         uuid PRIMARY KEY,
    run_id            text NOT NULL REFERENCES runs ON DELETE CASCADE,
    checkpoint_id     text NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    model_name        text NOT NULL,
    metrics           jsonb NOT NULL DEFAULT '{}',
    feature_schema    text NOT NULL DEFAULT '',
    data_version      text NOT NULL DEFAULT '',
    evaluation_window text NOT NULL DEFAULT '',
    -- The version that the commit registered; NULL until then.
    version           integer,
    create_time       timestamptz NOT NULL
);

-- +goose Down
DROP TABLE imports;
ALTER TABLE checkpoints DROP COLUMN code_version;
