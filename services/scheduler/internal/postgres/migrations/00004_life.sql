-- +goose Up

-- What a job is a part of and what it waits for.
ALTER TABLE jobs
    ADD COLUMN array_id    uuid,
    ADD COLUMN array_index integer NOT NULL DEFAULT 0,
    ADD COLUMN graph_id    uuid,
    ADD COLUMN graph_node  text    NOT NULL DEFAULT '',
    ADD COLUMN schedule_id uuid,
    ADD COLUMN after       jsonb   NOT NULL DEFAULT '[]',
    ADD COLUMN poison      boolean NOT NULL DEFAULT false,
    DROP CONSTRAINT jobs_pause_check,
    ADD CONSTRAINT jobs_pause_check CHECK (pause IN ('NONE', 'PERSON', 'DATA_OUTAGE', 'DEPENDENCY'));
CREATE UNIQUE INDEX jobs_array ON jobs (array_id, array_index) WHERE array_id IS NOT NULL;
CREATE UNIQUE INDEX jobs_graph ON jobs (graph_id, graph_node) WHERE graph_id IS NOT NULL;
CREATE INDEX jobs_schedule ON jobs (schedule_id, place DESC) WHERE schedule_id IS NOT NULL;
CREATE INDEX jobs_tenant ON jobs (tenant, place DESC);

CREATE TABLE arrays (
    id           uuid        PRIMARY KEY,
    revision     bigint      NOT NULL,
    template     bytea       NOT NULL,
    count        integer     NOT NULL CHECK (count >= 1),
    max_parallel integer     NOT NULL CHECK (max_parallel >= 0),
    submitter    text        NOT NULL,
    create_time  timestamptz NOT NULL,
    broken       boolean     NOT NULL
);

CREATE TABLE schedules (
    name        text        PRIMARY KEY,
    id          uuid        NOT NULL UNIQUE,
    revision    bigint      NOT NULL,
    payload     bytea       NOT NULL,
    cron        text        NOT NULL,
    zone        text        NOT NULL,
    overlap     text        NOT NULL CHECK (overlap IN ('FORBID', 'ALLOW', 'REPLACE')),
    catch_up    text        NOT NULL CHECK (catch_up IN ('LATEST', 'ALL', 'NONE')),
    paused      boolean     NOT NULL,
    submitter   text        NOT NULL,
    create_time timestamptz NOT NULL,
    done_time   timestamptz NOT NULL,
    fire_time   timestamptz,
    result      text        NOT NULL,
    job_id      uuid,
    skipped     bigint      NOT NULL
);

CREATE TABLE quotas (
    tenant   text             PRIMARY KEY,
    revision bigint           NOT NULL,
    cohort   text             NOT NULL,
    weight   double precision NOT NULL CHECK (weight >= 0),
    devices  jsonb            NOT NULL,
    max_jobs integer          NOT NULL CHECK (max_jobs >= 0)
);

-- A gang's attempt has parts on several hosts.
ALTER TABLE attempts
    ADD COLUMN others      jsonb   NOT NULL DEFAULT '[]',
    ADD COLUMN first_ended boolean NOT NULL DEFAULT false,
    ADD COLUMN verdict     jsonb;
-- Device ids are unique on their host only.
ALTER TABLE holdings DROP CONSTRAINT holdings_pkey, ADD PRIMARY KEY (fence, agent, device);

-- The first statement of every commit. It fails under an old term, and with it
-- the whole batch: so a commit needs no answer before it sends the rest.
-- +goose StatementBegin
CREATE FUNCTION hold_lead(of_term bigint, to_revision bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE leader SET revision = to_revision, renew_time = clock_timestamp() WHERE term = of_term;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'term % is over', of_term USING ERRCODE = 'TY001';
    END IF;
END $$;
-- +goose StatementEnd

-- +goose Down
DROP FUNCTION hold_lead;
ALTER TABLE holdings DROP CONSTRAINT holdings_pkey, ADD PRIMARY KEY (fence, device);
ALTER TABLE attempts DROP COLUMN others, DROP COLUMN first_ended, DROP COLUMN verdict;
DROP TABLE quotas, schedules, arrays;
ALTER TABLE jobs
    DROP COLUMN array_id, DROP COLUMN array_index, DROP COLUMN graph_id, DROP COLUMN graph_node, DROP COLUMN schedule_id, DROP COLUMN after, DROP COLUMN poison,
    DROP CONSTRAINT jobs_pause_check, ADD CONSTRAINT jobs_pause_check CHECK (pause IN ('NONE', 'PERSON', 'DATA_OUTAGE'));
