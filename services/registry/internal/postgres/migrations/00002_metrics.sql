-- +goose Up

-- A metric key of a run is an integer from here on: six text columns in the primary key
-- are what makes MLflow's database the bottleneck.
CREATE TABLE metric_series (
    series_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run_id    text NOT NULL REFERENCES runs ON DELETE CASCADE,
    key       text NOT NULL CHECK (length(key) BETWEEN 1 AND 250),
    CONSTRAINT metric_series_key UNIQUE (run_id, key)
);

-- time is in the key so that the same table can be a hypertable; attempt is, because a
-- restored attempt may log the very same point again and must not vanish behind the
-- superseded one. double precision keeps NaN and the infinities as they are. There is no
-- foreign key: it would cost a lookup per point, and series are never deleted alone.
CREATE TABLE metric_points (
    series_id bigint NOT NULL,
    step      bigint NOT NULL,
    time      timestamptz NOT NULL,
    attempt   integer NOT NULL,
    value     double precision NOT NULL,
    PRIMARY KEY (series_id, step, time, attempt, value)
) WITH (fillfactor = 100);

CREATE TABLE metric_latest (
    series_id bigint PRIMARY KEY REFERENCES metric_series ON DELETE CASCADE,
    step      bigint NOT NULL,
    time      timestamptz NOT NULL,
    attempt   integer NOT NULL,
    value     double precision NOT NULL
) WITH (fillfactor = 70);

-- +goose Down
DROP TABLE metric_latest, metric_points, metric_series;
