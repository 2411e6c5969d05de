-- +goose Up

-- A base for a difference is looked for among a run's archived checkpoints nearest by step, and among the newest copies of its size.
CREATE INDEX checkpoints_archived ON checkpoints (run_id, step) WHERE archive_time IS NOT NULL;
DROP INDEX cold_copies_by_size;
CREATE INDEX cold_copies_by_size ON cold_copies (size_bytes, update_time DESC) WHERE state = 'PRESENT';

-- +goose Down
DROP INDEX checkpoints_archived;
DROP INDEX cold_copies_by_size;
CREATE INDEX cold_copies_by_size ON cold_copies (size_bytes) WHERE state = 'PRESENT';
