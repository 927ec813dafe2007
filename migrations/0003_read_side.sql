-- What is kept of the log for readers. Everything in the schema `read` can be dropped and filled again from the events,
-- see `projections/src/rebuild.rs`: the number in a table's name is that of the rules that filled it.

-- What the service works with and can be made from the log again, as the views can: their SQL names tables without a schema,
-- and constraints and indexes have the names that PostgreSQL gives them, which are those that a copy gets.
CREATE SCHEMA work;
COMMENT ON SCHEMA work IS 'What the service looks through for things to do, all of it made from the event log';

-- Requests that have been accepted and have not ended; what `infrastructure/src/orphaned_requests.rs` looks through.
CREATE TABLE work.open_requests (
    request_id  text COLLATE "C" PRIMARY KEY,
    account     text             NOT NULL,
    node        text             NOT NULL,
    -- By the clock of the database, as its node knows it.
    deadline_at timestamptz      NOT NULL,
    -- By the clock of the database, as the heartbeats that it is compared with.
    accepted_at timestamptz      NOT NULL
-- Every request comes and goes here: what is gone is to be swept up before it is many times what is there.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- The request that a client asked for last under a name of its own on a connection, for who comes back for its answer on another
-- node. Old ones are forgotten.
CREATE TABLE work.client_requests (
    -- Of account, user and name.
    client_key    uuid             NOT NULL,
    connection_id uuid             NOT NULL,
    request_id    text COLLATE "C" NOT NULL,
    -- By the clock of the database.
    accepted_at   timestamptz      NOT NULL,
    PRIMARY KEY (client_key, connection_id)
-- Every request comes and goes here as well.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

-- Grants that will expire, until nothing is left of them; what `infrastructure/src/due_grants.rs` looks through.
CREATE TABLE work.expiring_grants (
    account    text COLLATE "C" NOT NULL,
    grant_id   text COLLATE "C" NOT NULL,
    expires_at timestamptz      NOT NULL,
    PRIMARY KEY (account, grant_id)
);
CREATE INDEX ON work.expiring_grants (expires_at);

-- The views. They stand in a schema of their own, so that who reads them needs to see nothing else, and so that a
-- rebuild can fill a copy in another schema: their SQL names tables without a schema. Constraints and indexes have the
-- names that PostgreSQL gives them, which are those that a copy gets.
CREATE SCHEMA read;
COMMENT ON SCHEMA read IS 'What finance reads: usage, credits and requests, all of it made from the event log';
-- Copies that are being filled, see `projections/src/rebuild.rs`.
CREATE SCHEMA read_next;

CREATE TABLE read.request_status_v1 (
    request_id            text COLLATE "C" PRIMARY KEY,
    account               text        NOT NULL,
    user_id               text        NOT NULL,
    kind                  text        NOT NULL,
    requested_provider    text        NOT NULL,
    requested_model       text        NOT NULL,
    stream                boolean     NOT NULL,
    status                text        NOT NULL CHECK (status IN ('accepted', 'completed', 'failed', 'cancelled', 'abandoned')),
    client_left           boolean     NOT NULL,
    provider              text,
    model                 text,
    answered_model        text,
    reserved_microcredits bigint      NOT NULL,
    charged_microcredits  bigint      NOT NULL,
    input_tokens          bigint      NOT NULL,
    cached_input_tokens   bigint      NOT NULL,
    cache_write_tokens    bigint      NOT NULL,
    cache_write_1h_tokens bigint      NOT NULL,
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
    CHECK ((status = 'accepted') = (ended_at IS NULL))
-- A row is written twice: the second version finds room beside the first, and no index is touched.
) WITH (fillfactor = 50);

COMMENT ON TABLE read.request_status_v1 IS 'One row per request: how it stands, without its content';
COMMENT ON COLUMN read.request_status_v1.request_id IS 'The request; also the name of its credit reservation';
COMMENT ON COLUMN read.request_status_v1.account IS 'Who pays';
COMMENT ON COLUMN read.request_status_v1.user_id IS 'Who asked';
COMMENT ON COLUMN read.request_status_v1.kind IS 'chat, completion or embedding';
COMMENT ON COLUMN read.request_status_v1.requested_provider IS 'As the client asked: auto or a provider';
COMMENT ON COLUMN read.request_status_v1.requested_model IS 'As the client asked';
COMMENT ON COLUMN read.request_status_v1.stream IS 'Whether the answer was asked for piece by piece';
COMMENT ON COLUMN read.request_status_v1.status IS 'accepted (it runs), completed, failed, cancelled or abandoned';
COMMENT ON COLUMN read.request_status_v1.client_left IS 'Completed with nobody left to read the end of the answer';
COMMENT ON COLUMN read.request_status_v1.provider IS 'Who answered; empty where nobody did';
COMMENT ON COLUMN read.request_status_v1.model IS 'The model that was asked there, by the name that prices and limits go by';
COMMENT ON COLUMN read.request_status_v1.answered_model IS 'What the provider called the model that answered, where it said so';
COMMENT ON COLUMN read.request_status_v1.reserved_microcredits IS 'What was held for it in the end, in millionths of a credit';
COMMENT ON COLUMN read.request_status_v1.charged_microcredits IS 'What the account paid, in millionths of a credit';
COMMENT ON COLUMN read.request_status_v1.input_tokens IS 'Input at the full price';
COMMENT ON COLUMN read.request_status_v1.cached_input_tokens IS 'Input that the provider had in its cache';
COMMENT ON COLUMN read.request_status_v1.cache_write_tokens IS 'Input that was written into the provider''s cache for minutes';
COMMENT ON COLUMN read.request_status_v1.cache_write_1h_tokens IS 'Input that was written into the provider''s cache for an hour';
COMMENT ON COLUMN read.request_status_v1.output_tokens IS 'Output, thinking included';
COMMENT ON COLUMN read.request_status_v1.reasoning_tokens IS 'The part of the output that was thinking';
COMMENT ON COLUMN read.request_status_v1.estimated IS 'The tokens are our own count: the provider did not say';
COMMENT ON COLUMN read.request_status_v1.finish_reason IS 'The provider''s reason for ending';
COMMENT ON COLUMN read.request_status_v1.end_reason IS 'Why it was not completed';
COMMENT ON COLUMN read.request_status_v1.attempts IS 'Every call to a provider, in order, with what became of it';
COMMENT ON COLUMN read.request_status_v1.first_chunk_ms IS 'Milliseconds to the first piece of the answer';
COMMENT ON COLUMN read.request_status_v1.duration_ms IS 'Milliseconds to the end';
COMMENT ON COLUMN read.request_status_v1.accepted_at IS 'When it was accepted and its credits were held';
COMMENT ON COLUMN read.request_status_v1.ended_at IS 'When it ended; empty while it runs';
COMMENT ON COLUMN read.request_status_v1.position IS 'Where its last event stands in the log';

CREATE TABLE read.video_status_v1 (
    video_id              text COLLATE "C" PRIMARY KEY,
    account               text COLLATE "C" NOT NULL,
    user_id               text COLLATE "C" NOT NULL,
    status                text        NOT NULL CHECK (status IN ('queued', 'submitting', 'in_doubt', 'rendering', 'stored', 'completed', 'failed', 'cancelled', 'expired')),
    requested_provider    text        NOT NULL,
    requested_model       text,
    offers                json        NOT NULL,
    provider              text,
    model                 text,
    provider_job_id       text,
    seconds               integer     NOT NULL,
    resolution            text        NOT NULL,
    aspect_ratio          text        NOT NULL,
    priority              text        NOT NULL,
    percent               integer     NOT NULL CHECK (percent BETWEEN 0 AND 100),
    submissions           integer     NOT NULL,
    reserved_microcredits bigint      NOT NULL,
    charged_microcredits  bigint      NOT NULL CHECK (charged_microcredits <= reserved_microcredits),
    billed_seconds        integer     CHECK (billed_seconds >= 0),
    cost_picousd          bigint      NOT NULL,
    price_id              text,
    bytes                 bigint,
    sha256                text,
    width                 integer,
    height                integer,
    duration_ms           bigint,
    codec                 text,
    media_key             text,
    thumbnail_key         text,
    session_id            text COLLATE "C",
    workflow_id           text COLLATE "C",
    end_reason            text,
    requested_at          timestamptz NOT NULL,
    submitted_at          timestamptz,
    ended_at              timestamptz,
    media_erased_at       timestamptz,
    changed_at            timestamptz NOT NULL,
    position              bigint      NOT NULL,
    CHECK ((status IN ('completed', 'failed', 'cancelled', 'expired')) = (ended_at IS NOT NULL)),
    CHECK ((status = 'completed') = (billed_seconds IS NOT NULL))
-- A row is written some ten times: most versions find room beside the one before, and touch no index.
) WITH (fillfactor = 50);
CREATE INDEX ON read.video_status_v1 (requested_at, video_id);
CREATE INDEX ON read.video_status_v1 (account, requested_at, video_id);
CREATE INDEX ON read.video_status_v1 (workflow_id, requested_at, video_id) WHERE workflow_id IS NOT NULL;
-- Media that are kept.
CREATE INDEX ON read.video_status_v1 (ended_at, video_id) WHERE media_key IS NOT NULL AND media_erased_at IS NULL;

COMMENT ON TABLE read.video_status_v1 IS 'One row per video: how it stands, without its content';
COMMENT ON COLUMN read.video_status_v1.video_id IS 'The video; also the name of its credit reservation';
COMMENT ON COLUMN read.video_status_v1.account IS 'Who pays';
COMMENT ON COLUMN read.video_status_v1.user_id IS 'Who asked';
COMMENT ON COLUMN read.video_status_v1.status IS 'queued, submitting, in_doubt (a provider may have it: an operator decides), rendering, stored, completed, failed, cancelled or expired';
COMMENT ON COLUMN read.video_status_v1.requested_provider IS 'As the client asked: auto or a provider';
COMMENT ON COLUMN read.video_status_v1.requested_model IS 'As the client asked; empty where that was left open';
COMMENT ON COLUMN read.video_status_v1.offers IS 'Who could make it, best first: provider, model, as the provider names it, and the price that was frozen';
COMMENT ON COLUMN read.video_status_v1.provider IS 'Who was asked last; empty where nobody was';
COMMENT ON COLUMN read.video_status_v1.model IS 'The model that was asked last';
COMMENT ON COLUMN read.video_status_v1.provider_job_id IS 'As the provider names the job; empty until it has it';
COMMENT ON COLUMN read.video_status_v1.seconds IS 'Seconds that were asked for';
COMMENT ON COLUMN read.video_status_v1.resolution IS '720p, 1080p or 4K';
COMMENT ON COLUMN read.video_status_v1.aspect_ratio IS 'Width to height, as 16:9';
COMMENT ON COLUMN read.video_status_v1.priority IS 'high, standard or low';
COMMENT ON COLUMN read.video_status_v1.percent IS 'How far it has come, as the provider says';
COMMENT ON COLUMN read.video_status_v1.submissions IS 'How often it was submitted to a provider';
COMMENT ON COLUMN read.video_status_v1.reserved_microcredits IS 'What was held for it, in millionths of a credit';
COMMENT ON COLUMN read.video_status_v1.charged_microcredits IS 'What the account paid, in millionths of a credit';
COMMENT ON COLUMN read.video_status_v1.billed_seconds IS 'Seconds that were charged for; empty until it is completed';
COMMENT ON COLUMN read.video_status_v1.cost_picousd IS 'The provider''s cost, in millionths of a millionth of a US dollar, exact';
COMMENT ON COLUMN read.video_status_v1.price_id IS 'The price that cost and charge were calculated from; empty where nothing came';
COMMENT ON COLUMN read.video_status_v1.bytes IS 'Size of the video''s file';
COMMENT ON COLUMN read.video_status_v1.sha256 IS 'Of the video''s file, in hexadecimal';
COMMENT ON COLUMN read.video_status_v1.width IS 'In pixels, as the file says';
COMMENT ON COLUMN read.video_status_v1.height IS 'In pixels, as the file says';
COMMENT ON COLUMN read.video_status_v1.duration_ms IS 'Milliseconds, as the file says';
COMMENT ON COLUMN read.video_status_v1.codec IS 'As the file names it: avc1, hvc1, av01, …';
COMMENT ON COLUMN read.video_status_v1.media_key IS 'Under which the file is kept, or was until it was erased';
COMMENT ON COLUMN read.video_status_v1.thumbnail_key IS 'Under which the thumbnail is kept, or was';
COMMENT ON COLUMN read.video_status_v1.session_id IS 'The client''s own name for what it belongs to';
COMMENT ON COLUMN read.video_status_v1.workflow_id IS 'The workflow that it is a part of';
COMMENT ON COLUMN read.video_status_v1.end_reason IS 'Why it failed, by the error''s code, or expired';
COMMENT ON COLUMN read.video_status_v1.requested_at IS 'When it was requested and its credits were held';
COMMENT ON COLUMN read.video_status_v1.submitted_at IS 'When the provider had it';
COMMENT ON COLUMN read.video_status_v1.ended_at IS 'When it ended; empty until then';
COMMENT ON COLUMN read.video_status_v1.media_erased_at IS 'When its files were erased; empty while they are kept';
COMMENT ON COLUMN read.video_status_v1.changed_at IS 'When its last event happened';
COMMENT ON COLUMN read.video_status_v1.position IS 'Where its last event stands in the log';

CREATE TABLE read.account_balance_v1 (
    account                    text COLLATE "C" PRIMARY KEY,
    granted_microcredits       bigint NOT NULL,
    available_microcredits     bigint NOT NULL CHECK (available_microcredits >= 0),
    held_microcredits          bigint NOT NULL CHECK (held_microcredits >= 0),
    spent_microcredits         bigint NOT NULL CHECK (spent_microcredits >= 0),
    expired_microcredits       bigint NOT NULL CHECK (expired_microcredits >= 0),
    adjusted_microcredits      bigint NOT NULL,
    uncovered_microcredits     bigint NOT NULL CHECK (uncovered_microcredits >= 0),
    daily_limit_microcredits   bigint,
    monthly_limit_microcredits bigint,
    last_position              bigint NOT NULL,
    -- What the events say is available is what their amounts add up to, or the view stops.
    CONSTRAINT account_balance_v1_balances CHECK (
        granted_microcredits = available_microcredits + held_microcredits + spent_microcredits + expired_microcredits)
) WITH (fillfactor = 50);

COMMENT ON TABLE read.account_balance_v1 IS 'One row per account: what it was granted and what became of that, now. granted = available + held + spent + expired. All amounts in millionths of a credit';
COMMENT ON COLUMN read.account_balance_v1.account IS 'The account';
COMMENT ON COLUMN read.account_balance_v1.granted_microcredits IS 'Everything that was ever granted, less what was taken back';
COMMENT ON COLUMN read.account_balance_v1.available_microcredits IS 'What can be spent';
COMMENT ON COLUMN read.account_balance_v1.held_microcredits IS 'What is held for running requests and videos';
COMMENT ON COLUMN read.account_balance_v1.spent_microcredits IS 'What was charged, after credit and debit notes';
COMMENT ON COLUMN read.account_balance_v1.expired_microcredits IS 'What was granted and expired unspent';
COMMENT ON COLUMN read.account_balance_v1.adjusted_microcredits IS 'Debit notes less credit notes: what corrections have added to what was spent';
COMMENT ON COLUMN read.account_balance_v1.uncovered_microcredits IS 'Used, but charged to nobody: our loss';
COMMENT ON COLUMN read.account_balance_v1.daily_limit_microcredits IS 'The most that a UTC day may cost; empty is no limit';
COMMENT ON COLUMN read.account_balance_v1.monthly_limit_microcredits IS 'The most that a UTC month may cost; empty is no limit';
COMMENT ON COLUMN read.account_balance_v1.last_position IS 'Where the account''s last event stands in the log';

-- Views that add up or book keep here up to where they have done so, and which month is closed. One row a view.
CREATE TABLE read.credit_ledger_state_v1 (
    one              boolean PRIMARY KEY CHECK (one),
    applied_position bigint NOT NULL,
    closed_month     date
) WITH (fillfactor = 10);

CREATE TABLE read.credit_ledger_v1 (
    account                       text COLLATE "C" NOT NULL,
    position                      bigint      NOT NULL,
    recorded_at                   timestamptz NOT NULL,
    happened_at                   timestamptz NOT NULL,
    accounting_month              date        NOT NULL,
    corrects_month                date,
    movement                      text        NOT NULL CHECK (movement IN ('grant', 'void', 'reserve', 'extend', 'settle', 'release', 'expire', 'adjust')),
    reference                     text        NOT NULL,
    granted_change_microcredits   bigint      NOT NULL,
    available_change_microcredits bigint      NOT NULL,
    held_change_microcredits      bigint      NOT NULL,
    spent_change_microcredits     bigint      NOT NULL,
    expired_change_microcredits   bigint      NOT NULL,
    granted_microcredits          bigint      NOT NULL,
    available_microcredits        bigint      NOT NULL,
    held_microcredits             bigint      NOT NULL,
    spent_microcredits            bigint      NOT NULL,
    expired_microcredits          bigint      NOT NULL,
    uncovered_microcredits        bigint      NOT NULL,
    price_id                      text,
    cost_picousd                  bigint,
    expires_at                    timestamptz,
    corrects                      json,
    reason                        text,
    actor                         text,
    PRIMARY KEY (account, position),
    CONSTRAINT credit_ledger_v1_balances CHECK (
        granted_microcredits = available_microcredits + held_microcredits + spent_microcredits + expired_microcredits
        AND available_microcredits >= 0 AND held_microcredits >= 0 AND spent_microcredits >= 0)
);
-- Rows come in the order of positions and so nearly of months: a block range is as good as a tree here, and free.
CREATE INDEX ON read.credit_ledger_v1 USING brin (position, accounting_month) WITH (pages_per_range = 32);
-- Notes are few.
CREATE INDEX ON read.credit_ledger_v1 (accounting_month) WHERE movement = 'adjust';

COMMENT ON TABLE read.credit_ledger_state_v1 IS 'How far credit_ledger_v1 is filled';
COMMENT ON COLUMN read.credit_ledger_state_v1.one IS 'There is one row';
COMMENT ON COLUMN read.credit_ledger_state_v1.applied_position IS 'The last event that changed the table';
COMMENT ON COLUMN read.credit_ledger_state_v1.closed_month IS 'The last month that is closed, by its first day';
COMMENT ON TABLE read.credit_ledger_v1 IS 'Every movement of credits, in the order of the log, never changed. Up to a position it is what was known then. All amounts in millionths of a credit';
COMMENT ON COLUMN read.credit_ledger_v1.account IS 'The account';
COMMENT ON COLUMN read.credit_ledger_v1.position IS 'Where the movement''s event stands in the log';
COMMENT ON COLUMN read.credit_ledger_v1.recorded_at IS 'When it was recorded, by the database''s clock';
COMMENT ON COLUMN read.credit_ledger_v1.happened_at IS 'When it happened, by the clock of the node that did it';
COMMENT ON COLUMN read.credit_ledger_v1.accounting_month IS 'The month that it is booked in, by its first day: that in which it happened, or the first open one where that was closed before it was recorded';
COMMENT ON COLUMN read.credit_ledger_v1.corrects_month IS 'The month before that it belongs to or corrects; empty where none';
COMMENT ON COLUMN read.credit_ledger_v1.movement IS 'grant, void (of a grant that was made in error), reserve, extend, settle, release, expire or adjust (a credit or debit note)';
COMMENT ON COLUMN read.credit_ledger_v1.reference IS 'The grant, the request, the video or the note, by its idempotency key or id';
COMMENT ON COLUMN read.credit_ledger_v1.granted_change_microcredits IS 'What this adds to what was granted';
COMMENT ON COLUMN read.credit_ledger_v1.available_change_microcredits IS 'What this adds to what is available';
COMMENT ON COLUMN read.credit_ledger_v1.held_change_microcredits IS 'What this adds to what is held';
COMMENT ON COLUMN read.credit_ledger_v1.spent_change_microcredits IS 'What this adds to what is spent; less than nothing in a credit note';
COMMENT ON COLUMN read.credit_ledger_v1.expired_change_microcredits IS 'What this adds to what has expired';
COMMENT ON COLUMN read.credit_ledger_v1.granted_microcredits IS 'Everything that was granted, after this';
COMMENT ON COLUMN read.credit_ledger_v1.available_microcredits IS 'What is available, after this';
COMMENT ON COLUMN read.credit_ledger_v1.held_microcredits IS 'What is held, after this';
COMMENT ON COLUMN read.credit_ledger_v1.spent_microcredits IS 'What is spent, after this';
COMMENT ON COLUMN read.credit_ledger_v1.expired_microcredits IS 'What has expired, after this';
COMMENT ON COLUMN read.credit_ledger_v1.uncovered_microcredits IS 'Used here, but charged to nobody: our loss';
COMMENT ON COLUMN read.credit_ledger_v1.price_id IS 'Of a settlement: the price that the charge was calculated from';
COMMENT ON COLUMN read.credit_ledger_v1.cost_picousd IS 'Of a settlement: the provider''s cost, in millionths of a millionth of a US dollar';
COMMENT ON COLUMN read.credit_ledger_v1.expires_at IS 'Of a grant: when its rest expires; empty is never';
COMMENT ON COLUMN read.credit_ledger_v1.corrects IS 'Of a note: the charges that it corrects, each with its amount';
COMMENT ON COLUMN read.credit_ledger_v1.reason IS 'Of a grant, of its being taken back, or of a note: why';
COMMENT ON COLUMN read.credit_ledger_v1.actor IS 'Of a grant or a note: who';

CREATE TABLE read.usage_ledger_state_v1 (
    one              boolean PRIMARY KEY CHECK (one),
    applied_position bigint NOT NULL,
    closed_month     date
) WITH (fillfactor = 10);

CREATE TABLE read.usage_ledger_v1 (
    position             bigint      NOT NULL,
    part                 integer     NOT NULL,
    recorded_at          timestamptz NOT NULL,
    ended_at             timestamptz NOT NULL,
    usage_day            date        NOT NULL,
    accounting_month     date        NOT NULL,
    corrects_month       date,
    request_id           text        NOT NULL,
    account              text COLLATE "C" NOT NULL,
    user_id              text COLLATE "C" NOT NULL,
    kind                 text        NOT NULL,
    provider             text COLLATE "C" NOT NULL,
    model                text COLLATE "C" NOT NULL,
    requested_model      text COLLATE "C" NOT NULL,
    answered_model       text,
    status               text        NOT NULL,
    client_left          boolean     NOT NULL,
    estimated            boolean     NOT NULL,
    input_tokens         bigint      NOT NULL,
    cached_input_tokens  bigint      NOT NULL,
    cache_write_tokens   bigint      NOT NULL,
    cache_write_1h_tokens bigint      NOT NULL,
    output_tokens        bigint      NOT NULL,
    reasoning_tokens     bigint      NOT NULL,
    video_seconds        bigint      NOT NULL,
    price_id             text,
    list_microcredits    bigint      NOT NULL,
    charged_microcredits bigint      NOT NULL,
    cost_picousd         bigint      NOT NULL,
    requests             integer     NOT NULL CHECK (requests IN (0, 1)),
    PRIMARY KEY (position, part)
);
CREATE INDEX ON read.usage_ledger_v1 USING brin (accounting_month, usage_day) WITH (pages_per_range = 32);

COMMENT ON TABLE read.usage_ledger_state_v1 IS 'How far usage_ledger_v1 is filled';
COMMENT ON COLUMN read.usage_ledger_state_v1.one IS 'There is one row';
COMMENT ON COLUMN read.usage_ledger_state_v1.applied_position IS 'The last event that changed the table';
COMMENT ON COLUMN read.usage_ledger_state_v1.closed_month IS 'The last month that is closed, by its first day';
COMMENT ON TABLE read.usage_ledger_v1 IS 'One row per request or video that ended, and one more for each provider that was paid for it before, in the order of the log, never changed. Up to a position it is what was known then';
COMMENT ON COLUMN read.usage_ledger_v1.position IS 'Where the end stands in the log';
COMMENT ON COLUMN read.usage_ledger_v1.part IS 'Counts the rows of one end, in the order in which providers were asked';
COMMENT ON COLUMN read.usage_ledger_v1.recorded_at IS 'When the end was recorded, by the database''s clock';
COMMENT ON COLUMN read.usage_ledger_v1.ended_at IS 'When it ended, by the clock of its node';
COMMENT ON COLUMN read.usage_ledger_v1.usage_day IS 'The UTC day that it is booked on: that of the end, or the first day of the accounting month where the end''s own month was closed';
COMMENT ON COLUMN read.usage_ledger_v1.accounting_month IS 'The month that it is booked in, by its first day';
COMMENT ON COLUMN read.usage_ledger_v1.corrects_month IS 'The closed month in which it ended; empty where that was open';
COMMENT ON COLUMN read.usage_ledger_v1.request_id IS 'The request or the video';
COMMENT ON COLUMN read.usage_ledger_v1.account IS 'Who pays';
COMMENT ON COLUMN read.usage_ledger_v1.user_id IS 'Who asked';
COMMENT ON COLUMN read.usage_ledger_v1.kind IS 'chat, completion, embedding or video';
COMMENT ON COLUMN read.usage_ledger_v1.provider IS 'Who answered, or was asked last; who was asked for where nobody was, and unknown where that was left open';
COMMENT ON COLUMN read.usage_ledger_v1.model IS 'The model that was asked there, by the name that prices and limits go by; what was asked for where nobody was asked';
COMMENT ON COLUMN read.usage_ledger_v1.requested_model IS 'What was asked for';
COMMENT ON COLUMN read.usage_ledger_v1.answered_model IS 'What the provider called the model that answered, where it said so';
COMMENT ON COLUMN read.usage_ledger_v1.status IS 'completed, failed, cancelled, abandoned or, of videos, expired';
COMMENT ON COLUMN read.usage_ledger_v1.client_left IS 'Completed with nobody left to read the end of the answer';
COMMENT ON COLUMN read.usage_ledger_v1.estimated IS 'The tokens are our own count: the provider did not say';
COMMENT ON COLUMN read.usage_ledger_v1.input_tokens IS 'Input at the full price';
COMMENT ON COLUMN read.usage_ledger_v1.cached_input_tokens IS 'Input that the provider had in its cache';
COMMENT ON COLUMN read.usage_ledger_v1.cache_write_tokens IS 'Input that was written into the provider''s cache for minutes';
COMMENT ON COLUMN read.usage_ledger_v1.cache_write_1h_tokens IS 'Input that was written into the provider''s cache for an hour';
COMMENT ON COLUMN read.usage_ledger_v1.output_tokens IS 'Output, thinking included';
COMMENT ON COLUMN read.usage_ledger_v1.reasoning_tokens IS 'The part of the output that was thinking';
COMMENT ON COLUMN read.usage_ledger_v1.video_seconds IS 'Seconds of video that were billed';
COMMENT ON COLUMN read.usage_ledger_v1.price_id IS 'The price that cost and charge were calculated from; empty where nothing was used';
COMMENT ON COLUMN read.usage_ledger_v1.list_microcredits IS 'What the usage comes to by the price list, in millionths of a credit';
COMMENT ON COLUMN read.usage_ledger_v1.charged_microcredits IS 'What the account paid, in millionths of a credit: less than by the list where it had no more';
COMMENT ON COLUMN read.usage_ledger_v1.cost_picousd IS 'The provider''s cost, in millionths of a millionth of a US dollar, exact';
COMMENT ON COLUMN read.usage_ledger_v1.requests IS '1 in the last row of an end, 0 in those before it: how many requests the row stands for';

CREATE TABLE read.month_close_v1 (
    month                      date        PRIMARY KEY,
    position                   bigint      NOT NULL,
    watermark                  bigint      NOT NULL,
    chain_hash                 text        NOT NULL,
    requests                   bigint      NOT NULL,
    input_tokens               bigint      NOT NULL,
    cached_input_tokens        bigint      NOT NULL,
    cache_write_tokens         bigint      NOT NULL,
    cache_write_1h_tokens      bigint      NOT NULL,
    output_tokens              bigint      NOT NULL,
    reasoning_tokens           bigint      NOT NULL,
    video_seconds              bigint      NOT NULL,
    charged_microcredits       numeric(38, 0) NOT NULL,
    cost_picousd               numeric(38, 0) NOT NULL,
    granted_microcredits       numeric(38, 0) NOT NULL,
    expired_microcredits       numeric(38, 0) NOT NULL,
    credit_notes_microcredits  numeric(38, 0) NOT NULL,
    debit_notes_microcredits   numeric(38, 0) NOT NULL,
    actor                      text        NOT NULL,
    closed_at                  timestamptz NOT NULL
);

COMMENT ON TABLE read.month_close_v1 IS 'One row per closed month, as its close states it. Belongs to usage_ledger_v1';
COMMENT ON COLUMN read.month_close_v1.month IS 'The month, by its first day';
COMMENT ON COLUMN read.month_close_v1.position IS 'Where the close stands in the log';
COMMENT ON COLUMN read.month_close_v1.watermark IS 'The position that the totals are true at: that in front of the close';
COMMENT ON COLUMN read.month_close_v1.chain_hash IS 'Of the event at the watermark, in hexadecimal';
COMMENT ON COLUMN read.month_close_v1.requests IS 'Requests and videos that ended, in whatever way';
COMMENT ON COLUMN read.month_close_v1.input_tokens IS 'Input at the full price';
COMMENT ON COLUMN read.month_close_v1.cached_input_tokens IS 'Input that the providers had in their caches';
COMMENT ON COLUMN read.month_close_v1.cache_write_tokens IS 'Input that was written into the providers'' caches for minutes';
COMMENT ON COLUMN read.month_close_v1.cache_write_1h_tokens IS 'Input that was written into the providers'' caches for an hour';
COMMENT ON COLUMN read.month_close_v1.output_tokens IS 'Output, thinking included';
COMMENT ON COLUMN read.month_close_v1.reasoning_tokens IS 'The part of the output that was thinking';
COMMENT ON COLUMN read.month_close_v1.video_seconds IS 'Seconds of video that were billed';
COMMENT ON COLUMN read.month_close_v1.charged_microcredits IS 'What the accounts paid, in millionths of a credit';
COMMENT ON COLUMN read.month_close_v1.cost_picousd IS 'The providers'' cost, in millionths of a millionth of a US dollar';
COMMENT ON COLUMN read.month_close_v1.granted_microcredits IS 'Credits granted, in millionths of a credit';
COMMENT ON COLUMN read.month_close_v1.expired_microcredits IS 'Credits expired, in millionths of a credit';
COMMENT ON COLUMN read.month_close_v1.credit_notes_microcredits IS 'Given back by credit notes, in millionths of a credit';
COMMENT ON COLUMN read.month_close_v1.debit_notes_microcredits IS 'Taken by debit notes, in millionths of a credit';
COMMENT ON COLUMN read.month_close_v1.actor IS 'Who closed it';
COMMENT ON COLUMN read.month_close_v1.closed_at IS 'When';

CREATE TABLE read.usage_daily_state_v1 (
    one              boolean PRIMARY KEY CHECK (one),
    applied_position bigint NOT NULL,
    closed_month     date
) WITH (fillfactor = 10);

CREATE TABLE read.usage_daily_v1 (
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
    cache_write_1h_tokens bigint           NOT NULL,
    output_tokens        bigint           NOT NULL,
    reasoning_tokens     bigint           NOT NULL,
    video_seconds        bigint           NOT NULL,
    list_microcredits    numeric(38, 0)   NOT NULL,
    charged_microcredits numeric(38, 0)   NOT NULL,
    cost_picousd         numeric(38, 0)   NOT NULL,
    first_position       bigint           NOT NULL,
    last_position        bigint           NOT NULL,
    PRIMARY KEY (day, account, user_id, provider, model)
) WITH (fillfactor = 50);

CREATE TABLE read.usage_monthly_state_v1 (
    one              boolean PRIMARY KEY CHECK (one),
    applied_position bigint NOT NULL,
    closed_month     date
) WITH (fillfactor = 10);

CREATE TABLE read.usage_monthly_v1 (
    month                date             NOT NULL,
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
    cache_write_1h_tokens bigint           NOT NULL,
    output_tokens        bigint           NOT NULL,
    reasoning_tokens     bigint           NOT NULL,
    video_seconds        bigint           NOT NULL,
    list_microcredits    numeric(38, 0)   NOT NULL,
    charged_microcredits numeric(38, 0)   NOT NULL,
    cost_picousd         numeric(38, 0)   NOT NULL,
    first_position       bigint           NOT NULL,
    last_position        bigint           NOT NULL,
    PRIMARY KEY (month, account, user_id, provider, model)
) WITH (fillfactor = 50);

COMMENT ON TABLE read.usage_daily_state_v1 IS 'How far usage_daily_v1 is filled';
COMMENT ON TABLE read.usage_monthly_state_v1 IS 'How far usage_monthly_v1 is filled';
COMMENT ON TABLE read.usage_daily_v1 IS 'Requests, tokens, seconds of video and money by UTC day of the end, account, user, provider and model. What was recorded after its month was closed stands on the first day of the month that was open then';
COMMENT ON TABLE read.usage_monthly_v1 IS 'Requests, tokens, seconds of video and money by accounting month, account, user, provider and model';
COMMENT ON COLUMN read.usage_daily_v1.day IS 'The UTC day';
COMMENT ON COLUMN read.usage_monthly_v1.month IS 'The accounting month, by its first day';
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['usage_daily_state_v1', 'usage_monthly_state_v1'] LOOP
        EXECUTE format('COMMENT ON COLUMN read.%I.one IS ''There is one row''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.applied_position IS ''The last event that changed the table''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.closed_month IS ''The last month that is closed, by its first day''', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['usage_daily_v1', 'usage_monthly_v1'] LOOP
        EXECUTE format('COMMENT ON COLUMN read.%I.account IS ''Who pays''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.user_id IS ''Who asked''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.provider IS ''Who answered, or was asked last; who was asked for where nobody was, and unknown where that was left open''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.model IS ''The model that answered; what was asked for where none did''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.requests IS ''Requests and videos that ended, in whatever way''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.failed IS ''Of these, failed, abandoned or expired''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.estimated IS ''Of these, those whose tokens are our own count''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.input_tokens IS ''Input at the full price''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.cached_input_tokens IS ''Input that the provider had in its cache''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.cache_write_tokens IS ''Input that was written into the provider''''s cache for minutes''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.cache_write_1h_tokens IS ''Input that was written into the provider''''s cache for an hour''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.output_tokens IS ''Output, thinking included''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.reasoning_tokens IS ''The part of the output that was thinking''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.video_seconds IS ''Seconds of video that were billed''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.list_microcredits IS ''What the usage comes to by the price list, in millionths of a credit''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.charged_microcredits IS ''What the account paid, in millionths of a credit''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.cost_picousd IS ''The provider''''s cost, in millionths of a millionth of a US dollar, exact''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.first_position IS ''Where the first event of these stands in the log''', name);
        EXECUTE format('COMMENT ON COLUMN read.%I.last_position IS ''Where the last event of these stands in the log''', name);
    END LOOP;
END
$$;

CREATE TABLE read.provider_health_state_v1 (
    one              boolean PRIMARY KEY CHECK (one),
    applied_position bigint NOT NULL,
    closed_month     date
) WITH (fillfactor = 10);

CREATE TABLE read.provider_health_open_v1 (
    video_id   text COLLATE "C" PRIMARY KEY,
    provider   text        NOT NULL,
    started_at timestamptz NOT NULL
);

CREATE TABLE read.provider_health_v1 (
    hour     timestamptz      NOT NULL,
    provider text COLLATE "C" NOT NULL,
    kind     text COLLATE "C" NOT NULL,
    called   boolean          NOT NULL,
    outcome  text COLLATE "C" NOT NULL,
    up_to_ms bigint           NOT NULL,
    attempts bigint           NOT NULL,
    PRIMARY KEY (hour, provider, kind, called, outcome, up_to_ms)
) WITH (fillfactor = 50);

COMMENT ON TABLE read.provider_health_state_v1 IS 'How far provider_health_v1 is filled';
COMMENT ON COLUMN read.provider_health_state_v1.one IS 'There is one row';
COMMENT ON COLUMN read.provider_health_state_v1.applied_position IS 'The last event that changed the table';
COMMENT ON COLUMN read.provider_health_state_v1.closed_month IS 'The last month that is closed, by its first day';
COMMENT ON TABLE read.provider_health_open_v1 IS 'Videos that are with a provider. Belongs to provider_health_v1, where they are counted when they are not any more';
COMMENT ON COLUMN read.provider_health_open_v1.video_id IS 'The video';
COMMENT ON COLUMN read.provider_health_open_v1.provider IS 'The provider';
COMMENT ON COLUMN read.provider_health_open_v1.started_at IS 'When it was called';
COMMENT ON TABLE read.provider_health_v1 IS 'Calls to providers by hour, outcome and duration: a histogram that can be added up over hours and providers. Success rate: called and answered against called';
COMMENT ON COLUMN read.provider_health_v1.hour IS 'The UTC hour in which the request ended or the submission of a video was over, by its beginning';
COMMENT ON COLUMN read.provider_health_v1.provider IS 'The provider';
COMMENT ON COLUMN read.provider_health_v1.kind IS 'chat, completion, embedding or video';
COMMENT ON COLUMN read.provider_health_v1.called IS 'False where it was passed over, for the reason that outcome names';
COMMENT ON COLUMN read.provider_health_v1.outcome IS 'answered, which a video is once it is completed, or the kind of the failure';
COMMENT ON COLUMN read.provider_health_v1.up_to_ms IS 'The calls took at most so many milliseconds, and more than the next smaller bound';
COMMENT ON COLUMN read.provider_health_v1.attempts IS 'How many';

-- The rebuilds that are under way: which copies they fill, and how many events that they wanted are in them.
CREATE TABLE rebuilds (
    handler text   PRIMARY KEY,
    copies  oid[]  NOT NULL,
    events  bigint NOT NULL
);

-- Makes an empty copy of a table that is made from the log, with everything that belongs to it: indexes, constraints, settings,
-- comments and grants. One that there was is dropped. Which table the copy is.
CREATE FUNCTION copy_table(schema text, name text) RETURNS oid LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    original regclass := format('%I.%I', schema, name)::regclass;
    copy     text     := format('read_next.%I', name);
    settings text;
    entry    record;
BEGIN
    IF schema NOT IN ('read', 'work') THEN
        RAISE EXCEPTION '% is not made from the log', original USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DROP TABLE IF EXISTS %s', copy);
    EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING ALL)', copy, original);
    SELECT array_to_string(reloptions, ', ') INTO settings FROM pg_class WHERE oid = original;
    IF settings IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s SET (%s)', copy, settings);
    END IF;
    IF obj_description(original, 'pg_class') IS NOT NULL THEN
        EXECUTE format('COMMENT ON TABLE %s IS %L', copy, obj_description(original, 'pg_class'));
    END IF;
    FOR entry IN
        SELECT a.privilege_type, a.is_grantable, r.rolname
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE c.oid = original AND a.grantee <> c.relowner
    LOOP
        EXECUTE format('GRANT %s ON %s TO %s%s', entry.privilege_type, copy,
                       coalesce(quote_ident(entry.rolname), 'PUBLIC'),
                       CASE WHEN entry.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END);
    END LOOP;
    RETURN copy::regclass;
END
$$;
REVOKE ALL ON FUNCTION copy_table FROM PUBLIC;

-- Puts that copy in the place of the table, and no other.
CREATE FUNCTION replace_table(schema text, name text, copy oid) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    IF schema NOT IN ('read', 'work') OR copy IS DISTINCT FROM to_regclass(format('read_next.%I', name))::oid THEN
        RAISE EXCEPTION 'read_next.% is not the copy that was filled', name USING ERRCODE = 'insufficient_privilege';
    END IF;
    EXECUTE format('DROP TABLE %I.%I', schema, name);
    EXECUTE format('ALTER TABLE read_next.%I SET SCHEMA %I', name, schema);
END
$$;
REVOKE ALL ON FUNCTION replace_table FROM PUBLIC;

-- So that a plain session finds the views by their names. Our own sessions say so themselves. Who may do what is said by
-- `infrastructure/src/roles.rs`, which has the roles' names.
DO $$
BEGIN
    EXECUTE format('ALTER DATABASE %I SET search_path = public, read, work, audit', current_database());
EXCEPTION
    WHEN insufficient_privilege THEN NULL;
END
$$;
