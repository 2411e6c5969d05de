-- +goose Up

-- A search looks at one key of all runs of some experiments. It reads that from one index per kind of key, without the tables and
-- without comparing run ids as text: so the rows carry their experiment, the run's short name and, latest values, their key. All
-- of these are as constant as the run is.
ALTER TABLE metric_latest ADD COLUMN experiment_id bigint, ADD COLUMN run_key bigint, ADD COLUMN key text COLLATE "C";
ALTER TABLE run_params ADD COLUMN experiment_id bigint, ADD COLUMN run_key bigint;
ALTER TABLE run_tags ADD COLUMN experiment_id bigint, ADD COLUMN run_key bigint;

UPDATE metric_latest l SET experiment_id = r.experiment_id, run_key = r.run_key, key = s.key
    FROM metric_series s JOIN runs r USING (run_id) WHERE s.series_id = l.series_id;
UPDATE run_params p SET experiment_id = r.experiment_id, run_key = r.run_key FROM runs r WHERE r.run_id = p.run_id;
UPDATE run_tags t SET experiment_id = r.experiment_id, run_key = r.run_key FROM runs r WHERE r.run_id = t.run_id;

-- Params and tags are written once: a trigger fills theirs. Latest values are written all the time: the writers give them, and
-- the trigger serves those of the release before, which run on until they are replaced.
-- +goose StatementBegin
CREATE FUNCTION place_in_search() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.experiment_id, r.run_key INTO NEW.experiment_id, NEW.run_key FROM runs r WHERE r.run_id = NEW.run_id;
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION place_latest_in_search() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    SELECT r.experiment_id, r.run_key, s.key INTO NEW.experiment_id, NEW.run_key, NEW.key
        FROM metric_series s JOIN runs r USING (run_id) WHERE s.series_id = NEW.series_id;
    RETURN NEW;
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION run_stays() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'run % stays in its experiment', OLD.run_id USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
CREATE TRIGGER run_params_place BEFORE INSERT ON run_params FOR EACH ROW EXECUTE FUNCTION place_in_search();
CREATE TRIGGER run_tags_place BEFORE INSERT ON run_tags FOR EACH ROW EXECUTE FUNCTION place_in_search();
CREATE TRIGGER metric_latest_place BEFORE INSERT ON metric_latest FOR EACH ROW WHEN (NEW.run_key IS NULL) EXECUTE FUNCTION place_latest_in_search();
CREATE TRIGGER runs_stay BEFORE UPDATE OF experiment_id ON runs FOR EACH ROW
    WHEN (NEW.experiment_id <> OLD.experiment_id) EXECUTE FUNCTION run_stays();

ALTER TABLE metric_latest ALTER COLUMN experiment_id SET NOT NULL, ALTER COLUMN run_key SET NOT NULL, ALTER COLUMN key SET NOT NULL;
ALTER TABLE run_params ALTER COLUMN experiment_id SET NOT NULL, ALTER COLUMN run_key SET NOT NULL;
ALTER TABLE run_tags ALTER COLUMN experiment_id SET NOT NULL, ALTER COLUMN run_key SET NOT NULL;

DROP INDEX metric_series_by_key, run_params_by_key, run_tags_by_value;
CREATE INDEX metric_latest_search ON metric_latest (experiment_id, key, value, run_key);
CREATE INDEX metric_latest_by_run ON metric_latest (run_key);
-- An index row holds some 2,700 bytes and a value up to 8,000: the long ones, which few searches can match, are read from the table.
CREATE INDEX run_params_search ON run_params (experiment_id, key, value, run_key) WHERE octet_length(value) <= 512;
CREATE INDEX run_params_search_long ON run_params (experiment_id, key, run_key) WHERE octet_length(value) > 512;
CREATE INDEX run_tags_search ON run_tags (experiment_id, key, value, run_key) WHERE octet_length(value) <= 512;
CREATE INDEX run_tags_search_long ON run_tags (experiment_id, key, run_key) WHERE octet_length(value) > 512;

-- +goose Down
DROP INDEX metric_latest_search, metric_latest_by_run, run_params_search, run_params_search_long, run_tags_search, run_tags_search_long;
CREATE INDEX metric_series_by_key ON metric_series (key, run_id) INCLUDE (series_id);
CREATE INDEX run_params_by_key ON run_params (key, run_id);
CREATE INDEX run_tags_by_value ON run_tags (key, md5(value));
DROP TRIGGER runs_stay ON runs;
DROP TRIGGER metric_latest_place ON metric_latest;
DROP TRIGGER run_tags_place ON run_tags;
DROP TRIGGER run_params_place ON run_params;
DROP FUNCTION place_in_search(), place_latest_in_search(), run_stays();
ALTER TABLE metric_latest DROP COLUMN experiment_id, DROP COLUMN run_key, DROP COLUMN key;
ALTER TABLE run_params DROP COLUMN experiment_id, DROP COLUMN run_key;
ALTER TABLE run_tags DROP COLUMN experiment_id, DROP COLUMN run_key;
