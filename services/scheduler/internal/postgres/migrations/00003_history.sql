-- +goose Up

-- Final jobs are dropped by age.
CREATE INDEX jobs_ended ON jobs (end_time) WHERE end_time IS NOT NULL;

-- +goose Down
DROP INDEX jobs_ended;
