-- +goose Up

-- What every promotion into PRODUCTION must meet, as the gRPC edge stored it; NULL asks for nothing.
ALTER TABLE models ADD COLUMN policy jsonb;

-- The newest outcome of each named check of a version; the history keeps them all.
CREATE TABLE model_version_checks (
    model_id    bigint NOT NULL,
    version     integer NOT NULL,
    name        text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    passed      boolean NOT NULL,
    detail      text NOT NULL DEFAULT '',
    actor       text NOT NULL,
    create_time timestamptz NOT NULL,
    PRIMARY KEY (model_id, version, name),
    FOREIGN KEY (model_id, version) REFERENCES model_versions ON DELETE CASCADE
);

CREATE TABLE model_version_approvals (
    model_id    bigint NOT NULL,
    version     integer NOT NULL,
    actor       text NOT NULL,
    reason      text NOT NULL DEFAULT '',
    create_time timestamptz NOT NULL,
    PRIMARY KEY (model_id, version, actor),
    FOREIGN KEY (model_id, version) REFERENCES model_versions ON DELETE CASCADE
);

-- +goose Down
DROP TABLE model_version_approvals, model_version_checks;
ALTER TABLE models DROP COLUMN policy;
