-- +goose Up

-- Everything refers to model_id, so that a rename touches one row and no history.
CREATE TABLE models (
    model_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CHECK (length(name) BETWEEN 1 AND 250),
    description  text NOT NULL DEFAULT '',
    last_version integer NOT NULL DEFAULT 0,
    revision     bigint NOT NULL DEFAULT 1,
    -- A deleted model keeps its rows and its history; only its name is free again.
    deleted      boolean NOT NULL DEFAULT false,
    create_time  timestamptz NOT NULL,
    update_time  timestamptz NOT NULL
);
CREATE UNIQUE INDEX models_name_key ON models (name) WHERE NOT deleted;

CREATE TABLE model_tags (
    model_id bigint NOT NULL REFERENCES models ON DELETE CASCADE,
    key        text NOT NULL,
    value      text NOT NULL,
    PRIMARY KEY (model_id, key)
);

-- Versions are never deleted, only marked: their numbers and their history stay.
CREATE TABLE model_versions (
    model_id      bigint NOT NULL REFERENCES models ON DELETE RESTRICT,
    version       integer NOT NULL CHECK (version > 0),
    stage         text NOT NULL DEFAULT 'NONE' CHECK (stage IN ('NONE', 'STAGING', 'PRODUCTION', 'ARCHIVED')),
    deleted       boolean NOT NULL DEFAULT false,
    run_id        text REFERENCES runs ON DELETE RESTRICT,
    checkpoint_id text REFERENCES checkpoints ON DELETE RESTRICT,
    source        text NOT NULL DEFAULT '',
    description   text NOT NULL DEFAULT '',
    trace_parent  text NOT NULL DEFAULT '',
    revision      bigint NOT NULL DEFAULT 1,
    create_time   timestamptz NOT NULL,
    update_time   timestamptz NOT NULL,
    PRIMARY KEY (model_id, version),
    CONSTRAINT model_versions_deleted_unstaged CHECK (NOT deleted OR stage = 'NONE')
);
-- Exactly one: these indexes hold whatever the code above them does.
CREATE UNIQUE INDEX model_versions_one_production ON model_versions (model_id) WHERE stage = 'PRODUCTION';
CREATE UNIQUE INDEX model_versions_one_staging ON model_versions (model_id) WHERE stage = 'STAGING';
-- A checkpoint registers once per model, however often that is asked for.
CREATE UNIQUE INDEX model_versions_once ON model_versions (checkpoint_id, model_id) WHERE checkpoint_id IS NOT NULL AND NOT deleted;
CREATE INDEX model_versions_by_run ON model_versions (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE model_version_tags (
    model_id bigint NOT NULL,
    version    integer NOT NULL,
    key        text NOT NULL,
    value      text NOT NULL,
    PRIMARY KEY (model_id, version, key),
    FOREIGN KEY (model_id, version) REFERENCES model_versions ON DELETE CASCADE
);

CREATE TABLE model_aliases (
    model_id bigint NOT NULL,
    alias      text NOT NULL CHECK (length(alias) BETWEEN 1 AND 255),
    version    integer NOT NULL,
    PRIMARY KEY (model_id, alias),
    FOREIGN KEY (model_id, version) REFERENCES model_versions ON DELETE RESTRICT
);
CREATE INDEX model_aliases_by_version ON model_aliases (model_id, version);

CREATE TABLE model_history (
    model_id      bigint NOT NULL REFERENCES models ON DELETE RESTRICT,
    sequence      bigint NOT NULL,
    version       integer NOT NULL,
    kind          text NOT NULL,
    from_stage    text NOT NULL DEFAULT '',
    to_stage      text NOT NULL DEFAULT '',
    alias         text NOT NULL DEFAULT '',
    actor         text NOT NULL DEFAULT '',
    reason        text NOT NULL DEFAULT '',
    request_id    text NOT NULL DEFAULT '',
    trace_id      text NOT NULL DEFAULT '',
    rollback      boolean NOT NULL DEFAULT false,
    -- text, not jsonb: the hash covers these very bytes.
    gates         text NOT NULL DEFAULT '',
    at            timestamptz NOT NULL,
    previous_hash bytea NOT NULL,
    hash          bytea NOT NULL,
    PRIMARY KEY (model_id, sequence)
);

-- +goose StatementBegin
CREATE FUNCTION refuse_history_edit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'model history is append-only' USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
CREATE TRIGGER model_history_append_only BEFORE UPDATE OR DELETE ON model_history
    FOR EACH ROW EXECUTE FUNCTION refuse_history_edit();
CREATE TRIGGER model_history_no_truncate BEFORE TRUNCATE ON model_history
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_history_edit();

-- The two backstops of "a production model is never deleted". The code checks first and
-- says why; these hold when it is wrong.
-- +goose StatementBegin
CREATE FUNCTION refuse_sweep_of_production() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'LIVE' AND NEW.state <> 'LIVE' AND EXISTS (
        SELECT 1 FROM model_versions v WHERE v.checkpoint_id = NEW.checkpoint_id AND v.stage = 'PRODUCTION') THEN
        RAISE EXCEPTION 'checkpoint % is in production', NEW.checkpoint_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER checkpoints_keep_production BEFORE UPDATE OF state ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_sweep_of_production();

-- +goose StatementBegin
CREATE FUNCTION refuse_promotion_of_swept() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held text;
BEGIN
    IF NEW.stage = 'PRODUCTION' AND NEW.checkpoint_id IS NOT NULL THEN
        SELECT state INTO held FROM checkpoints WHERE checkpoint_id = NEW.checkpoint_id FOR SHARE;
        IF held IS DISTINCT FROM 'LIVE' THEN
            RAISE EXCEPTION 'checkpoint % is %', NEW.checkpoint_id, held USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER model_versions_promote_live BEFORE INSERT OR UPDATE OF stage ON model_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_promotion_of_swept();

-- +goose Down
DROP TRIGGER checkpoints_keep_production ON checkpoints;
DROP TABLE model_history, model_aliases, model_version_tags, model_versions, model_tags, models;
DROP FUNCTION refuse_history_edit, refuse_sweep_of_production, refuse_promotion_of_swept;
