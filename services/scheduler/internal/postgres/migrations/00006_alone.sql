-- +goose Up
ALTER TABLE jobs ADD COLUMN alone boolean NOT NULL DEFAULT false;

-- +goose Down
ALTER TABLE jobs DROP COLUMN alone;
