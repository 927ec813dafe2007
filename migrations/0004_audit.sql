-- What proves the log, and who looked at it.

-- The log's signed checkpoints. Each says that the log had this root and this chain hash at this position; the format of
-- the note is defined in `infrastructure/src/audit/note.rs`. Publish one elsewhere now and then: whoever can write here
-- can remove rows here as well.
CREATE TABLE checkpoints (
    position bigint NOT NULL,
    note     text   NOT NULL,
    -- The roots of the perfect subtrees, the largest first, 32 bytes each: where the next checkpoint begins to compute.
    -- It is believed only as far as it gives the root that the note has.
    frontier bytea  NOT NULL,
    CONSTRAINT checkpoints_position PRIMARY KEY (position)
);

CREATE TRIGGER checkpoints_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE checkpoints ENABLE ALWAYS TRIGGER checkpoints_are_append_only;

-- Who used the audit routes, and what for.
CREATE TABLE access_log_v1 (
    position    bigint           NOT NULL,
    accessed_at timestamptz      NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    account     text COLLATE "C" NOT NULL,
    -- `audit.trail`
    action      text             NOT NULL,
    -- What was asked for, by name.
    parameters  json             NOT NULL,
    CONSTRAINT access_log_v1_position PRIMARY KEY (position)
);
