-- Workflows as those who look for them see them, kept by `infrastructure/src/open_workflows.rs`.
CREATE TABLE work.workflows (
    workflow_id text COLLATE "C" PRIMARY KEY,
    account     text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    -- Not ended.
    running     boolean          NOT NULL,
    -- Of the start, in the log: who came first.
    position    bigint           NOT NULL
);
CREATE INDEX ON work.workflows (position) WHERE running;
CREATE INDEX ON work.workflows (account, user_id, position);
