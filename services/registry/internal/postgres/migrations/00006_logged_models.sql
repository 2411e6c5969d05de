-- +goose Up

-- MLflow 3 makes a model a thing of its own, beside the run that logged it.
CREATE TABLE logged_models (
    model_id      text PRIMARY KEY CHECK (model_id ~ '^m-[0-9a-f]{32}$'),
    experiment_id bigint NOT NULL REFERENCES experiments,
    source_run_id text REFERENCES runs,
    name          text NOT NULL CHECK (length(name) BETWEEN 1 AND 250),
    model_type    text NOT NULL DEFAULT '',
    status        text NOT NULL CHECK (status IN ('PENDING', 'READY', 'UPLOAD_FAILED')),
    lifecycle     text NOT NULL DEFAULT 'ACTIVE' CHECK (lifecycle IN ('ACTIVE', 'DELETED')),
    create_time   timestamptz NOT NULL,
    update_time   timestamptz NOT NULL
);
CREATE INDEX logged_models_by_experiment ON logged_models (experiment_id, create_time DESC, model_id);
CREATE INDEX logged_models_by_run ON logged_models (source_run_id) WHERE source_run_id IS NOT NULL;

CREATE TABLE logged_model_params (
    model_id text NOT NULL REFERENCES logged_models ON DELETE CASCADE,
    key      text NOT NULL,
    value    text NOT NULL,
    PRIMARY KEY (model_id, key)
);

CREATE TABLE logged_model_tags (
    model_id text NOT NULL REFERENCES logged_models ON DELETE CASCADE,
    key      text NOT NULL,
    value    text NOT NULL,
    PRIMARY KEY (model_id, key)
);

-- Metrics of a model, each under the run and the dataset it was measured with. The points
-- are in the run's series too; here they are found from the model.
CREATE TABLE logged_model_metrics (
    model_id       text NOT NULL REFERENCES logged_models ON DELETE CASCADE,
    key            text NOT NULL,
    step           bigint NOT NULL,
    time           timestamptz NOT NULL,
    value          double precision NOT NULL,
    run_id         text NOT NULL REFERENCES runs ON DELETE CASCADE,
    dataset_name   text NOT NULL DEFAULT '',
    dataset_digest text NOT NULL DEFAULT '',
    PRIMARY KEY (model_id, key, run_id, dataset_name, dataset_digest, step, time, value)
);

CREATE TABLE run_outputs (
    run_id   text NOT NULL REFERENCES runs ON DELETE CASCADE,
    model_id text NOT NULL REFERENCES logged_models ON DELETE CASCADE,
    step     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, model_id)
);

-- An artifact belongs to a run or to a logged model.
ALTER TABLE artifacts ALTER COLUMN run_id DROP NOT NULL,
    ADD COLUMN logged_model_id text REFERENCES logged_models,
    ADD CONSTRAINT artifacts_one_owner CHECK (num_nonnulls(run_id, logged_model_id) = 1);
CREATE UNIQUE INDEX artifacts_live_model_path ON artifacts (logged_model_id, path) WHERE state = 'LIVE' AND logged_model_id IS NOT NULL;

ALTER TABLE model_versions ADD COLUMN logged_model_id text REFERENCES logged_models ON DELETE RESTRICT;

-- +goose Down
ALTER TABLE model_versions DROP COLUMN logged_model_id;
DELETE FROM artifacts WHERE logged_model_id IS NOT NULL;
ALTER TABLE artifacts DROP COLUMN logged_model_id, ALTER COLUMN run_id SET NOT NULL;
DROP TABLE run_outputs, logged_model_metrics, logged_model_tags, logged_model_params, logged_models;
