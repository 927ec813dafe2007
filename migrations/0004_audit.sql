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

CREATE TABLE read.access_log_v1 (
    position    bigint           PRIMARY KEY,
    accessed_at timestamptz      NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    account     text COLLATE "C" NOT NULL,
    action      text             NOT NULL,
    parameters  json             NOT NULL
);

COMMENT ON TABLE read.access_log_v1 IS 'One row per look at what is not one''s own: audits and reports on others, over HTTP or on the command line';
COMMENT ON COLUMN read.access_log_v1.position IS 'Of the event in the log';
COMMENT ON COLUMN read.access_log_v1.accessed_at IS 'When';
COMMENT ON COLUMN read.access_log_v1.user_id IS 'Who, as the token names them; on the command line as they said, or the operating system''s user, who is in parameters otherwise';
COMMENT ON COLUMN read.access_log_v1.account IS 'The account of who looked; empty on the command line';
COMMENT ON COLUMN read.access_log_v1.action IS 'What was done: audit.verify, audit.trail, report.usage, replay.as-of, …';
COMMENT ON COLUMN read.access_log_v1.parameters IS 'What was asked for, by name';
