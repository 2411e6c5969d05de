-- +goose Up

-- When the leader was last heard of, by this database's clock: the lead is a
-- lease, so that a leader that is cut off or stopped loses it without a word.
ALTER TABLE leader ADD COLUMN renew_time timestamptz NOT NULL DEFAULT 'epoch';

-- +goose Down
ALTER TABLE leader DROP COLUMN renew_time;
