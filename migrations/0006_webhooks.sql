-- Webhooks to clients, see `infrastructure/src/webhooks.rs`. Where they go and what they say is not here: the one is sealed
-- in the log, and the other is made when it is told.

-- Videos and workflows that have not ended, and whose end is to be told.
CREATE TABLE work.awaited_webhooks (
    job_id text COLLATE "C" PRIMARY KEY
);

CREATE TABLE webhook_deliveries (
    -- The `webhook-id` of every attempt.
    delivery_id     text COLLATE "C" NOT NULL,
    job_id          text COLLATE "C" NOT NULL,
    -- `video` or `workflow`.
    job_kind        text             NOT NULL,
    account         text             NOT NULL,
    user_id         text             NOT NULL,
    event_type      text             NOT NULL,
    occurred_at     timestamptz      NOT NULL,
    state           text             NOT NULL CHECK (state IN ('pending', 'delivered', 'given_up')),
    attempts        integer          NOT NULL,
    -- While it is being attempted, when somebody else may do so. All three by the clock of the database.
    next_attempt_at timestamptz      NOT NULL,
    give_up_at      timestamptz      NOT NULL,
    changed_at      timestamptz      NOT NULL,
    -- Of the last attempt: the status that the receiver answered with, and what was wrong.
    last_status     integer,
    last_error      text,
    CONSTRAINT webhook_deliveries_delivery_id PRIMARY KEY (delivery_id)
);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (next_attempt_at) WHERE state = 'pending';
CREATE INDEX webhook_deliveries_over ON webhook_deliveries (changed_at) WHERE state <> 'pending';
CREATE INDEX webhook_deliveries_job_id ON webhook_deliveries (job_id);
CREATE INDEX webhook_deliveries_account ON webhook_deliveries (account, occurred_at DESC);
