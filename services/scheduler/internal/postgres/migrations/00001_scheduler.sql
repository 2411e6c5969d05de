-- +goose Up

-- The one row of the leader. Every commit checks the term and writes the
-- revision in the same statement: a deposed scheduler cannot write anything.
CREATE TABLE leader (
    one        boolean     PRIMARY KEY DEFAULT true CHECK (one),
    term       bigint      NOT NULL,
    revision   bigint      NOT NULL,
    holder     text        NOT NULL,
    claim_time timestamptz NOT NULL
);
INSERT INTO leader (term, revision, holder, claim_time) VALUES (0, 0, '', 'epoch');

-- Fences grow over the whole fleet and never come back, rolled-back transactions
-- included: that is what a sequence does and a counter column does not.
CREATE SEQUENCE fences AS bigint NO CYCLE;

CREATE TABLE agents (
    name          text        PRIMARY KEY,
    revision      bigint      NOT NULL,
    incarnation   text        NOT NULL,
    version       text        NOT NULL,
    address       text        NOT NULL,
    labels        jsonb       NOT NULL,
    cpu_millis    bigint      NOT NULL CHECK (cpu_millis >= 0),
    host_bytes    bigint      NOT NULL CHECK (host_bytes >= 0),
    devices       jsonb       NOT NULL,
    data_ok       boolean     NOT NULL,
    registry_ok   boolean     NOT NULL,
    cordon        text        NOT NULL CHECK (cordon IN ('OPEN', 'CORDONED', 'DRAINING')),
    cordon_reason text        NOT NULL,
    lost          boolean     NOT NULL,
    update_time   timestamptz NOT NULL
);

CREATE TABLE jobs (
    id           uuid             PRIMARY KEY,
    revision     bigint           NOT NULL UNIQUE,
    place        bigint           NOT NULL UNIQUE,
    display_name text             NOT NULL,
    experiment   text             NOT NULL,
    tenant       text             NOT NULL,
    submitter    text             NOT NULL,
    spec         jsonb            NOT NULL,
    payload      bytea            NOT NULL,
    traceparent  text             NOT NULL,
    submit_time  timestamptz      NOT NULL,

    priority     text             NOT NULL CHECK (priority IN ('BATCH', 'SEARCH', 'INTERACTIVE', 'PRODUCTION')),
    state        text             NOT NULL CHECK (state IN ('QUEUED', 'STARTING', 'RUNNING', 'STOPPING', 'PAUSED', 'SUCCEEDED', 'FAILED', 'CANCELLED')),
    reason       text             NOT NULL,
    intent       text             NOT NULL,
    pause        text             NOT NULL CHECK (pause IN ('NONE', 'PERSON', 'DATA_OUTAGE')),
    not_before   timestamptz,
    batch        integer          NOT NULL CHECK (batch >= 0),
    accumulate   integer          NOT NULL CHECK (accumulate >= 1),
    rate_scale   double precision NOT NULL CHECK (rate_scale > 0 AND rate_scale <= 1),
    spent        jsonb            NOT NULL,
    free         integer          NOT NULL CHECK (free >= 0),
    attempts     integer          NOT NULL CHECK (attempts >= 0),
    fence        bigint           NOT NULL CHECK (fence >= 0),
    failure      text             NOT NULL,
    checkpoint   jsonb            NOT NULL,
    warnings     jsonb            NOT NULL,
    update_time  timestamptz      NOT NULL,
    wait_time    timestamptz      NOT NULL,
    start_time   timestamptz,
    end_time     timestamptz,

    CONSTRAINT jobs_final_has_end CHECK ((state IN ('SUCCEEDED', 'FAILED', 'CANCELLED')) = (end_time IS NOT NULL)),
    CONSTRAINT jobs_paused_has_cause CHECK ((state = 'PAUSED') = (pause <> 'NONE')),
    CONSTRAINT jobs_stopping_has_intent CHECK ((state = 'STOPPING') = (intent <> 'NONE')),
    CONSTRAINT jobs_live_has_fence CHECK (state NOT IN ('STARTING', 'RUNNING', 'STOPPING') OR (attempts > 0 AND fence > 0)),
    CONSTRAINT jobs_backoff_only_queued CHECK (not_before IS NULL OR state = 'QUEUED')
);
CREATE INDEX jobs_unfinished ON jobs (place) WHERE state NOT IN ('SUCCEEDED', 'FAILED', 'CANCELLED');
CREATE INDEX jobs_experiment ON jobs (experiment text_pattern_ops, place DESC);

CREATE TABLE attempts (
    job_id        uuid             NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    number        integer          NOT NULL CHECK (number >= 1),
    fence         bigint           NOT NULL UNIQUE CHECK (fence > 0),
    agent         text             NOT NULL,
    shares        jsonb            NOT NULL,
    cpu_millis    bigint           NOT NULL,
    host_bytes    bigint           NOT NULL,
    batch         integer          NOT NULL,
    accumulate    integer          NOT NULL,
    rate_scale    double precision NOT NULL,
    restore       jsonb            NOT NULL,
    why           text             NOT NULL,
    traceparent   text             NOT NULL,
    create_time   timestamptz      NOT NULL,

    phase         text             NOT NULL CHECK (phase IN ('ASSIGNED', 'TRAINING', 'ENDING', 'ENDED')),
    known         boolean          NOT NULL,
    isolation     text             NOT NULL,
    progress      jsonb            NOT NULL,
    grace_ms      bigint           NOT NULL,
    outcome       text             NOT NULL CHECK (outcome IN ('UNKNOWN', 'SUCCEEDED', 'FAILED', 'STOPPED')),
    failure       text             NOT NULL,
    evidence      jsonb            NOT NULL,
    start_time    timestamptz,
    advance_time  timestamptz,
    outage_time   timestamptz,
    end_time      timestamptz,

    PRIMARY KEY (job_id, number),
    CONSTRAINT attempts_ended_has_end CHECK ((phase = 'ENDED') = (end_time IS NOT NULL)),
    CONSTRAINT attempts_ended_has_outcome CHECK ((phase = 'ENDED') = (outcome <> 'UNKNOWN'))
);
CREATE UNIQUE INDEX attempts_one_live_per_job ON attempts (job_id) WHERE phase <> 'ENDED';

-- What live attempts hold of devices; a row goes when its attempt ends.
CREATE TABLE holdings (
    fence    bigint  NOT NULL REFERENCES attempts (fence) ON DELETE CASCADE,
    agent    text    NOT NULL,
    device   text    NOT NULL,
    held     bigint  NOT NULL CHECK (held >= 0),
    whole    boolean NOT NULL,
    PRIMARY KEY (fence, device)
);
CREATE INDEX holdings_device ON holdings (agent, device);
CREATE UNIQUE INDEX holdings_whole_is_alone ON holdings (agent, device) WHERE whole;

-- The last line of defence of memory safety: whatever the planner believed, the
-- database refuses a device that is promised beyond its memory less its headroom,
-- or shared with one who has it whole.
-- +goose StatementBegin
CREATE FUNCTION holdings_refuse_overcommit() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    total bigint;
    n     bigint;
    alone boolean;
    room  bigint;
BEGIN
    SELECT sum(held), count(*), bool_or(whole) INTO total, n, alone FROM holdings WHERE agent = NEW.agent AND device = NEW.device;
    IF alone AND n > 1 THEN
        RAISE EXCEPTION 'device %/% is held whole and shared', NEW.agent, NEW.device USING ERRCODE = 'check_violation', CONSTRAINT = 'holdings_whole_is_alone';
    END IF;
    SELECT (d ->> 'memory')::bigint - coalesce((d ->> 'headroom')::bigint, 0) INTO room
    FROM agents, jsonb_array_elements(devices) AS d WHERE name = NEW.agent AND d ->> 'id' = NEW.device;
    IF room IS NULL OR total > room THEN
        RAISE EXCEPTION 'device %/% is promised % of % bytes', NEW.agent, NEW.device, total, room USING ERRCODE = 'check_violation', CONSTRAINT = 'holdings_fit_the_device';
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE CONSTRAINT TRIGGER holdings_no_overcommit AFTER INSERT ON holdings DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION holdings_refuse_overcommit();

CREATE TABLE request_ledger (
    request_id   text        PRIMARY KEY,
    method       text        NOT NULL,
    payload_hash bytea       NOT NULL CHECK (octet_length(payload_hash) = 32),
    response     bytea,
    create_time  timestamptz NOT NULL
);
CREATE INDEX request_ledger_create_time ON request_ledger (create_time);

CREATE TABLE decisions (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id   uuid        NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    time     timestamptz NOT NULL,
    action   text        NOT NULL,
    reason   text        NOT NULL,
    attempt  integer     NOT NULL
);
CREATE INDEX decisions_job ON decisions (job_id, id DESC);

-- +goose Down
DROP TABLE decisions, request_ledger, holdings, attempts, jobs, agents, leader;
DROP FUNCTION holdings_refuse_overcommit;
DROP SEQUENCE fences;
