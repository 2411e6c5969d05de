-- +goose Up

-- A file is one content, or several in order: then its first row has the digest and size of the whole. Every content is a row
-- here, so whatever counts references, holds or releases by blob counts chunks too.
ALTER TABLE checkpoint_files ADD COLUMN ordinal integer NOT NULL DEFAULT 0 CHECK (ordinal >= 0),
    ADD COLUMN file_sha256 text CHECK (file_sha256 ~ '^[0-9a-f]{64}$'),
    ADD COLUMN file_bytes bigint CHECK (file_bytes >= 0),
    ADD CONSTRAINT checkpoint_files_whole CHECK ((file_sha256 IS NULL) = (file_bytes IS NULL) AND (ordinal = 0 OR file_sha256 IS NULL)),
    DROP CONSTRAINT checkpoint_files_pkey,
    ADD CONSTRAINT checkpoint_files_pkey PRIMARY KEY (checkpoint_id, name, ordinal);

-- As before, and a row keeps its place in its file and what it says about the whole.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_loss_of_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT sheltered(OLD.checkpoint_id) THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.checkpoint_id = OLD.checkpoint_id AND NEW.name = OLD.name AND NEW.ordinal = OLD.ordinal
        AND NEW.file_sha256 IS NOT DISTINCT FROM OLD.file_sha256 AND NEW.file_bytes IS NOT DISTINCT FROM OLD.file_bytes AND EXISTS (
        SELECT 1 FROM blobs n JOIN blobs o ON o.sha256 = n.sha256 WHERE n.blob_id = NEW.blob_id AND o.blob_id = OLD.blob_id
        AND n.state = 'PRESENT') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'file % belongs to checkpoint %, which is in production or under a legal hold', OLD.name, OLD.checkpoint_id
        USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd

-- A row more would change a file as much as a row less.
-- +goose StatementBegin
CREATE FUNCTION refuse_growth_of_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF sheltered(NEW.checkpoint_id) THEN
        RAISE EXCEPTION 'checkpoint % is in production or under a legal hold: it gets no file', NEW.checkpoint_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER checkpoint_files_grow BEFORE INSERT ON checkpoint_files
    FOR EACH ROW EXECUTE FUNCTION refuse_growth_of_file();

-- +goose Down
-- +goose StatementBegin
DO $$
BEGIN
    IF EXISTS (SELECT 1 FROM checkpoint_files WHERE ordinal > 0) THEN
        RAISE EXCEPTION 'checkpoints are stored in chunks, which the registry before this migration cannot read';
    END IF;
END $$;
-- +goose StatementEnd
DROP TRIGGER checkpoint_files_grow ON checkpoint_files;
DROP FUNCTION refuse_growth_of_file;
ALTER TABLE checkpoint_files DROP CONSTRAINT checkpoint_files_pkey, DROP CONSTRAINT checkpoint_files_whole,
    DROP COLUMN ordinal, DROP COLUMN file_sha256, DROP COLUMN file_bytes,
    ADD CONSTRAINT checkpoint_files_pkey PRIMARY KEY (checkpoint_id, name);
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_loss_of_file() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT sheltered(OLD.checkpoint_id) THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF TG_OP = 'UPDATE' AND NEW.checkpoint_id = OLD.checkpoint_id AND NEW.name = OLD.name AND EXISTS (
        SELECT 1 FROM blobs n JOIN blobs o ON o.sha256 = n.sha256 WHERE n.blob_id = NEW.blob_id AND o.blob_id = OLD.blob_id
        AND n.state = 'PRESENT') THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION 'file % belongs to checkpoint %, which is in production or under a legal hold', OLD.name, OLD.checkpoint_id
        USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
