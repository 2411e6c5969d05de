-- +goose Up

-- A base for a difference is looked for by its size.
CREATE INDEX cold_copies_by_size ON cold_copies (size_bytes) WHERE state = 'PRESENT';

-- +goose Down
DROP INDEX cold_copies_by_size;
