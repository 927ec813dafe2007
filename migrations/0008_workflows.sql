-- Workflows as those who look for them see them, kept by `infrastructure/src/open_workflows.rs`.
CREATE TABLE workflows (
    workflow_id text COLLATE "C" NOT NULL,
    account     text COLLATE "C" NOT NULL,
    user_id     text COLLATE "C" NOT NULL,
    -- Not ended.
    running     boolean          NOT NULL,
    -- Of the start, in the log: who came first.
    position    bigint           NOT NULL,
    CONSTRAINT workflows_workflow_id PRIMARY KEY (workflow_id)
);
CREATE INDEX workflows_running ON workflows (position) WHERE running;
CREATE INDEX workflows_of_user ON workflows (account, user_id, position);
