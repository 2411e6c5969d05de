-- +goose Up

-- What a long series looks like from afar: per some hundred points that are visible, in
-- order, the few that a chart would keep. Rows of a series are contiguous from its start;
-- what lies above the last one is read point by point. A write below a row's end, or an
-- attempt that supersedes it, drops it: it is only ever derived.
CREATE TABLE metric_rollups (
    series_id  bigint NOT NULL,
    first_step bigint NOT NULL,
    last_step  bigint NOT NULL,
    points     integer NOT NULL,
    -- The kept points, 28 bytes each: step, microseconds, attempt, bits of the value.
    kept       bytea NOT NULL,
    PRIMARY KEY (series_id, last_step)
);

-- +goose Down
DROP TABLE metric_rollups;
