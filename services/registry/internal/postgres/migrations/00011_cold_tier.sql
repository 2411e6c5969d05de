-- +goose Up

-- A blob is COLD when its content lives in the cold tier only. Such a row is not usable: the same content uploaded anew, or
-- restored, gets a row of the next generation.
ALTER TABLE blobs DROP CONSTRAINT blobs_state_check,
    ADD CONSTRAINT blobs_state_check CHECK (state IN ('PENDING', 'PRESENT', 'CORRUPT', 'COLD', 'DELETING', 'DELETED'));
CREATE INDEX blobs_by_content ON blobs (sha256);

-- One packed copy per content, under a key that is never used again. PENDING has a key and no proven bytes. A copy may be the
-- difference to another content, whose own copy then stays. The key is NO ACTION and not RESTRICT: a whole chain goes at once.
CREATE SEQUENCE cold_serial;
CREATE TABLE cold_copies (
    sha256        text PRIMARY KEY CHECK (sha256 ~ '^[0-9a-f]{64}$'),
    size_bytes    bigint NOT NULL CHECK (size_bytes >= 0),
    object_key    text NOT NULL UNIQUE,
    object_sha256 text NOT NULL DEFAULT '' CHECK (object_sha256 ~ '^([0-9a-f]{64})?$'),
    object_bytes  bigint NOT NULL DEFAULT 0 CHECK (object_bytes >= 0),
    base_sha256   text REFERENCES cold_copies,
    depth         integer NOT NULL DEFAULT 0 CHECK (depth BETWEEN 0 AND 8),
    state         text NOT NULL CHECK (state IN ('PENDING', 'PRESENT', 'CORRUPT')),
    create_time   timestamptz NOT NULL,
    update_time   timestamptz NOT NULL,
    CONSTRAINT cold_copies_proven CHECK (state NOT IN ('PRESENT', 'CORRUPT') OR object_sha256 <> ''),
    CONSTRAINT cold_copies_depth CHECK ((base_sha256 IS NULL) OR depth > 0)
);
CREATE INDEX cold_copies_by_base ON cold_copies (base_sha256) WHERE base_sha256 IS NOT NULL;

ALTER TABLE checkpoints ADD COLUMN tier text NOT NULL DEFAULT 'HOT' CHECK (tier IN ('HOT', 'COLD')),
    ADD COLUMN archive_time timestamptz,
    ADD COLUMN last_read_time timestamptz,
    ADD CONSTRAINT checkpoints_cold_archived CHECK (tier <> 'COLD' OR archive_time IS NOT NULL);

-- What an archived checkpoint has given up for good: its optimizer state.
CREATE TABLE checkpoint_dropped_files (
    checkpoint_id text NOT NULL REFERENCES checkpoints ON DELETE CASCADE,
    name          text NOT NULL,
    sha256        text NOT NULL,
    size_bytes    bigint NOT NULL,
    drop_time     timestamptz NOT NULL,
    PRIMARY KEY (checkpoint_id, name)
);

-- Objects that the janitor may remove from due_time on. A row stays until it says that it has.
CREATE TABLE released_objects (
    object_key   text PRIMARY KEY,
    size_bytes   bigint NOT NULL,
    reason       text NOT NULL,
    release_time timestamptz NOT NULL,
    due_time     timestamptz NOT NULL
);

CREATE TABLE legal_holds (
    checkpoint_id text PRIMARY KEY REFERENCES checkpoints ON DELETE RESTRICT,
    actor         text NOT NULL,
    reason        text NOT NULL,
    create_time   timestamptz NOT NULL
);

-- The backstops. The code above checks first and says why; these hold when it is wrong, and against a hand at the database.
-- A sheltered checkpoint is in production or under a legal hold.
-- +goose StatementBegin
CREATE FUNCTION sheltered(id text) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (SELECT 1 FROM model_versions v WHERE v.checkpoint_id = id AND v.stage = 'PRODUCTION')
        OR EXISTS (SELECT 1 FROM legal_holds h WHERE h.checkpoint_id = id)
$$;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_sweep_of_production() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.state <> 'LIVE' OR NEW.tier <> 'HOT' OR NEW.checkpoint_id <> OLD.checkpoint_id) AND sheltered(OLD.checkpoint_id) THEN
        RAISE EXCEPTION 'checkpoint % is in production or under a legal hold', OLD.checkpoint_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
DROP TRIGGER checkpoints_keep_production ON checkpoints;
CREATE TRIGGER checkpoints_keep_production BEFORE UPDATE OF state, tier, checkpoint_id ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_sweep_of_production();

-- Production reads from the hot tier: what is archived is restored first.
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_promotion_of_swept() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held text;
BEGIN
    IF NEW.stage = 'PRODUCTION' AND NEW.checkpoint_id IS NOT NULL THEN
        SELECT state || CASE tier WHEN 'COLD' THEN ', archived' ELSE '' END INTO held
            FROM checkpoints WHERE checkpoint_id = NEW.checkpoint_id FOR SHARE;
        IF held IS DISTINCT FROM 'LIVE' THEN
            RAISE EXCEPTION 'checkpoint % is %', NEW.checkpoint_id, held USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd

-- A file of a sheltered checkpoint may only move to another object with the same content.
-- +goose StatementBegin
CREATE FUNCTION refuse_loss_of_file() RETURNS trigger LANGUAGE plpgsql AS $$
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
CREATE TRIGGER checkpoint_files_keep BEFORE UPDATE OR DELETE ON checkpoint_files
    FOR EACH ROW EXECUTE FUNCTION refuse_loss_of_file();

-- The object of a sheltered checkpoint may be found corrupt, which loses nothing; everything else would.
-- +goose StatementBegin
CREATE FUNCTION refuse_loss_of_blob() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.state NOT IN ('PRESENT', 'CORRUPT') OR NEW.object_key <> OLD.object_key OR NEW.sha256 <> OLD.sha256
        OR NEW.size_bytes <> OLD.size_bytes OR NEW.blob_id <> OLD.blob_id)
        AND EXISTS (SELECT 1 FROM checkpoint_files f WHERE f.blob_id = OLD.blob_id AND sheltered(f.checkpoint_id)) THEN
        RAISE EXCEPTION 'object % belongs to a checkpoint in production or under a legal hold', OLD.object_key
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER blobs_keep BEFORE UPDATE ON blobs FOR EACH ROW EXECUTE FUNCTION refuse_loss_of_blob();

-- +goose StatementBegin
CREATE FUNCTION refuse_loss_of_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.stage = 'PRODUCTION' AND (TG_OP = 'DELETE' OR NEW.stage = 'PRODUCTION' AND NEW.checkpoint_id IS DISTINCT FROM OLD.checkpoint_id) THEN
        RAISE EXCEPTION 'version % is in production', OLD.version USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
-- +goose StatementEnd
CREATE TRIGGER model_versions_keep BEFORE UPDATE OF stage, checkpoint_id OR DELETE ON model_versions
    FOR EACH ROW EXECUTE FUNCTION refuse_loss_of_version();

-- No key that a checkpoint or artifact still reads is ever handed to the janitor.
-- +goose StatementBegin
CREATE FUNCTION refuse_release_of_used() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM blobs b WHERE b.object_key = NEW.object_key AND b.state IN ('PENDING', 'PRESENT'))
        OR EXISTS (SELECT 1 FROM cold_copies c WHERE c.object_key = NEW.object_key AND c.state = 'PRESENT') THEN
        RAISE EXCEPTION 'object % is in use', NEW.object_key USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER released_objects_unused BEFORE INSERT OR UPDATE OF object_key ON released_objects
    FOR EACH ROW EXECUTE FUNCTION refuse_release_of_used();

-- A cold copy that some checkpoint reads, or that another copy is the difference to, stays.
-- +goose StatementBegin
CREATE FUNCTION refuse_loss_of_cold_copy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state <> 'PRESENT' OR (TG_OP = 'UPDATE' AND NEW.state IN ('PRESENT', 'CORRUPT') AND NEW.object_key = OLD.object_key) THEN
        RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
    END IF;
    IF EXISTS (SELECT 1 FROM blobs b JOIN checkpoint_files f USING (blob_id) JOIN checkpoints c USING (checkpoint_id)
        WHERE b.sha256 = OLD.sha256 AND b.state = 'COLD' AND c.state NOT IN ('DELETING', 'DELETED')) THEN
        RAISE EXCEPTION 'cold copy % is all that is left of a checkpoint', OLD.object_key USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
-- +goose StatementEnd
CREATE TRIGGER cold_copies_keep BEFORE UPDATE OR DELETE ON cold_copies
    FOR EACH ROW EXECUTE FUNCTION refuse_loss_of_cold_copy();

-- +goose StatementBegin
CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is never emptied', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;
-- +goose StatementEnd
CREATE TRIGGER checkpoints_no_truncate BEFORE TRUNCATE ON checkpoints FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER checkpoint_files_no_truncate BEFORE TRUNCATE ON checkpoint_files FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER blobs_no_truncate BEFORE TRUNCATE ON blobs FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER cold_copies_no_truncate BEFORE TRUNCATE ON cold_copies FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER model_versions_no_truncate BEFORE TRUNCATE ON model_versions FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();

-- +goose Down
DROP TRIGGER checkpoints_no_truncate ON checkpoints;
DROP TRIGGER checkpoint_files_no_truncate ON checkpoint_files;
DROP TRIGGER blobs_no_truncate ON blobs;
DROP TRIGGER model_versions_no_truncate ON model_versions;
DROP TRIGGER model_versions_keep ON model_versions;
DROP TRIGGER blobs_keep ON blobs;
DROP TRIGGER checkpoint_files_keep ON checkpoint_files;
DROP TRIGGER checkpoints_keep_production ON checkpoints;
DROP TABLE legal_holds, released_objects, checkpoint_dropped_files, cold_copies;
DROP SEQUENCE cold_serial;
DROP INDEX blobs_by_content;
ALTER TABLE checkpoints DROP COLUMN tier, DROP COLUMN archive_time, DROP COLUMN last_read_time;
UPDATE blobs SET state = 'DELETED' WHERE state = 'COLD';
ALTER TABLE blobs DROP CONSTRAINT blobs_state_check,
    ADD CONSTRAINT blobs_state_check CHECK (state IN ('PENDING', 'PRESENT', 'CORRUPT', 'DELETING', 'DELETED'));
DROP FUNCTION refuse_truncate, refuse_loss_of_cold_copy, refuse_release_of_used, refuse_loss_of_version, refuse_loss_of_blob, refuse_loss_of_file;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_sweep_of_production() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.state = 'LIVE' AND NEW.state <> 'LIVE' AND EXISTS (
        SELECT 1 FROM model_versions v WHERE v.checkpoint_id = NEW.checkpoint_id AND v.stage = 'PRODUCTION') THEN
        RAISE EXCEPTION 'checkpoint % is in production', NEW.checkpoint_id USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER checkpoints_keep_production BEFORE UPDATE OF state ON checkpoints
    FOR EACH ROW EXECUTE FUNCTION refuse_sweep_of_production();
DROP FUNCTION sheltered;
-- +goose StatementBegin
CREATE OR REPLACE FUNCTION refuse_promotion_of_swept() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    held text;
BEGIN
    IF NEW.stage = 'PRODUCTION' AND NEW.checkpoint_id IS NOT NULL THEN
        SELECT state INTO held FROM checkpoints WHERE checkpoint_id = NEW.checkpoint_id FOR SHARE;
        IF held IS DISTINCT FROM 'LIVE' THEN
            RAISE EXCEPTION 'checkpoint % is %', NEW.checkpoint_id, held USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
-- +goose StatementEnd
