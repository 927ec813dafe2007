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
