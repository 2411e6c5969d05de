-- Searches join a key's values to all runs that they look at.

-- +goose Up
CREATE INDEX metric_series_by_key ON metric_series (key, run_id) INCLUDE (series_id);
CREATE INDEX run_params_by_key ON run_params (key, run_id);

-- +goose Down
DROP INDEX run_params_by_key;
DROP INDEX metric_series_by_key;
