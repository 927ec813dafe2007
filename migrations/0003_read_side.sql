-- What is kept of the log for readers. Everything here can be emptied and filled again from the events, see
-- `projections/src/rebuild.rs`: the number in a table's name is that of the rules that filled it.

-- Since when a node has not missed a beat: whoever was cut off itself cannot tell who is dead.
ALTER TABLE nodes ADD COLUMN beating_since timestamptz NOT NULL DEFAULT now();
ALTER TABLE nodes ALTER COLUMN beating_since DROP DEFAULT;

-- Requests that have been accepted and have not ended; what `infrastructure/src/orphaned_requests.rs` looks through.
CREATE TABLE open_requests (
    request_id  text COLLATE "C" NOT NULL,
    account     text             NOT NULL,
    node        text             NOT NULL,
    -- By the clock of the node.
    deadline_at timestamptz      NOT NULL,
    -- By the clock of the database, as the heartbeats that it is compared with.
    accepted_at timestamptz      NOT NULL,
    CONSTRAINT open_requests_request_id PRIMARY KEY (request_id)
-- Every request comes and goes here: what is gone is to be swept up before it is many times what is there.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE TABLE request_status_v1 (
    request_id            text COLLATE "C" NOT NULL,
    account               text        NOT NULL,
    user_id               text        NOT NULL,
    kind                  text        NOT NULL,
    requested_provider    text        NOT NULL,
    requested_model       text        NOT NULL,
    stream                boolean     NOT NULL,
    status                text        NOT NULL,
    provider              text,
    model                 text,
    reserved_microcredits bigint      NOT NULL,
    charged_microcredits  bigint      NOT NULL,
    input_tokens          bigint      NOT NULL,
    cached_input_tokens   bigint      NOT NULL,
    cache_write_tokens    bigint      NOT NULL,
    output_tokens         bigint      NOT NULL,
    reasoning_tokens      bigint      NOT NULL,
    estimated             boolean     NOT NULL,
    finish_reason         text,
    end_reason            text,
    attempts              json        NOT NULL,
    first_chunk_ms        bigint,
    duration_ms           bigint,
    accepted_at           timestamptz NOT NULL,
    ended_at              timestamptz,
    position              bigint      NOT NULL,
    CONSTRAINT request_status_v1_request_id PRIMARY KEY (request_id),
    CONSTRAINT request_status_v1_status CHECK (status IN ('accepted', 'completed', 'failed', 'cancelled', 'abandoned')),
    CONSTRAINT request_status_v1_ended CHECK ((status = 'accepted') = (ended_at IS NULL))
-- A row is written twice: the second version finds room beside the first, and no index is touched.
) WITH (fillfactor = 50);

CREATE TABLE account_balance_v1 (
    account                    text COLLATE "C" NOT NULL,
    granted_microcredits       bigint NOT NULL,
    available_microcredits     bigint NOT NULL,
    held_microcredits          bigint NOT NULL,
    spent_microcredits         bigint NOT NULL,
    uncovered_microcredits     bigint NOT NULL,
    daily_limit_microcredits   bigint,
    monthly_limit_microcredits bigint,
    last_position              bigint NOT NULL,
    CONSTRAINT account_balance_v1_account PRIMARY KEY (account),
    -- What the events say is available is what their amounts add up to, or the view stops.
    CONSTRAINT account_balance_v1_balances CHECK (
        available_microcredits = granted_microcredits - held_microcredits - spent_microcredits),
    CONSTRAINT account_balance_v1_no_debt CHECK (
        available_microcredits >= 0 AND held_microcredits >= 0 AND spent_microcredits >= 0 AND uncovered_microcredits >= 0)
) WITH (fillfactor = 50);

CREATE TABLE usage_daily_v1 (
    -- In UTC, of the end of the requests.
    day                  date             NOT NULL,
    account              text COLLATE "C" NOT NULL,
    user_id              text COLLATE "C" NOT NULL,
    provider             text COLLATE "C" NOT NULL,
    model                text COLLATE "C" NOT NULL,
    requests             bigint           NOT NULL,
    failed               bigint           NOT NULL,
    estimated            bigint           NOT NULL,
    input_tokens         bigint           NOT NULL,
    cached_input_tokens  bigint           NOT NULL,
    cache_write_tokens   bigint           NOT NULL,
    output_tokens        bigint           NOT NULL,
    reasoning_tokens     bigint           NOT NULL,
    charged_microcredits bigint           NOT NULL,
    cost_picousd         numeric(38, 0)   NOT NULL,
    CONSTRAINT usage_daily_v1_key PRIMARY KEY (day, account, user_id, provider, model)
) WITH (fillfactor = 50);

-- Whose the requests are that have not ended yet: the event that ends one does not say it again.
CREATE TABLE usage_daily_open_v1 (
    request_id text COLLATE "C" NOT NULL,
    account    text NOT NULL,
    user_id    text NOT NULL,
    provider   text NOT NULL,
    model      text NOT NULL,
    CONSTRAINT usage_daily_open_v1_request_id PRIMARY KEY (request_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
