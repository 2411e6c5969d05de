-- +goose Up

-- "Why is it gone?" is asked by checkpoint.
CREATE INDEX sweep_items_checkpoint ON sweep_items (checkpoint_id) WHERE phase IN ('erased', 'done');

-- +goose Down
DROP INDEX sweep_items_checkpoint;
