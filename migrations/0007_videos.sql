-- Video jobs as those who work on them see them, kept by `infrastructure/src/video_queue.rs`.

-- Jobs that have not ended.
CREATE TABLE work.open_videos (
    video_id     text COLLATE "C" PRIMARY KEY,
    account      text COLLATE "C" NOT NULL,
    user_id      text COLLATE "C" NOT NULL,
    status       text             NOT NULL,
    -- Who has it, or may have it.
    provider     text,
    -- Who could have it, best first.
    offers       text[]           NOT NULL,
    -- 0 high, 1 standard, 2 low.
    priority     smallint         NOT NULL,
    queued_until timestamptz      NOT NULL,
    -- Of the request, in the log: who came first.
    requested_at_position bigint  NOT NULL,
    -- Of the last event that is in this row.
    position     bigint           NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE INDEX ON work.open_videos (account) WHERE status = 'queued';
CREATE INDEX ON work.open_videos (account) WHERE status <> 'queued';

-- Those who were let into a queue and are not in it yet: whoever asks next counts them along. Kept from the door's decision
-- until the queue has read the applicant from the log. After a crash of the database nobody is on the way, and it is empty.
CREATE UNLOGGED TABLE queue_seats (
    seat_id        uuid             NOT NULL DEFAULT gen_random_uuid(),
    aggregate_type text             NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    account        text             NOT NULL,
    taken_at       timestamptz      NOT NULL DEFAULT now(),
    CONSTRAINT queue_seats_seat PRIMARY KEY (aggregate_id, seat_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Jobs that somebody wants looked at, until whoever drives them has seen it.
CREATE UNLOGGED TABLE video_nudges (
    video_id text COLLATE "C" NOT NULL,
    CONSTRAINT video_nudges_video_id PRIMARY KEY (video_id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- How many wait in a queue, and how many of them are the account's. Of those who are on the way, whoever took a seat since then.
CREATE FUNCTION count_queue(
    queue_of           text,
    queue_account      text,
    seated_since       timestamptz,
    OUT waiting        bigint,
    OUT waiting_of_account bigint
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT count(*), count(*) FILTER (WHERE account = queue_account) INTO waiting, waiting_of_account
        FROM (SELECT account FROM work.open_videos WHERE status = 'queued' AND queue_of = 'video'
              UNION ALL SELECT account FROM work.workflows WHERE running AND queue_of = 'workflow'
              UNION ALL SELECT account FROM queue_seats
                        WHERE aggregate_type = queue_of AND taken_at >= seated_since) AS queue;
END
$$;

-- Takes a seat if fewer wait than may. One caller after another, on whichever node; it commits before it answers, so that no
-- caller can keep the others waiting.
CREATE PROCEDURE take_seat(
    IN applicant_type  text,
    IN applicant_id    text,
    IN applicant_account text,
    IN most            bigint,
    IN most_of_account bigint,
    -- Null where there was none.
    OUT seat           uuid,
    OUT waiting        bigint,
    OUT waiting_of_account bigint
) LANGUAGE plpgsql AS $$
DECLARE
    stale_before constant timestamptz := now() - interval '1 minute';
BEGIN
    -- A queue that is full is not waited for: a crowd that it has no room for would keep out those for whom there is some.
    -- Old seats do not count for that. Which of them are still held is seen below.
    SELECT * INTO waiting, waiting_of_account FROM count_queue(applicant_type, applicant_account, stale_before);
    IF waiting < most AND waiting_of_account < most_of_account THEN
        -- What follows sees what those who had the lock before have committed.
        PERFORM FROM locks WHERE name = applicant_type || ' seat' FOR UPDATE;
        -- Of those who did not come: their node died, or the log was away for longer than anybody waits for it. And of those
        -- who came and have another one. It is held for whoever is in the log where the queue has not read it yet.
        DELETE FROM queue_seats s
            WHERE s.aggregate_type = applicant_type AND s.taken_at < stale_before
              AND NOT EXISTS (SELECT FROM events e
                              WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id
                                AND e.sequence = 1
                                AND e.position > coalesce((SELECT h.position FROM subscriptions h
                                                           WHERE h.name = 'open-' || s.aggregate_type || 's'), 0));
        SELECT * INTO waiting, waiting_of_account FROM count_queue(applicant_type, applicant_account, '-infinity');
        IF waiting < most AND waiting_of_account < most_of_account THEN
            INSERT INTO queue_seats (aggregate_type, aggregate_id, account)
                VALUES (applicant_type, applicant_id, applicant_account) RETURNING seat_id INTO seat;
        END IF;
    END IF;
    COMMIT;
END
$$;

-- When each account had its last turn.
CREATE TABLE work.video_turns (
    account               text COLLATE "C" PRIMARY KEY,
    -- Of the last submission of one of its jobs, in the log.
    submitted_at_position bigint           NOT NULL
);

-- The queue: account by account, so that none waits for all the jobs of another one: by how many of the same account come
-- before or are with a provider, then by whose last turn was longest ago. An account's own jobs by priority, then oldest first.
CREATE FUNCTION waiting_videos() RETURNS TABLE (video_id text, account text, offers text[], place bigint) LANGUAGE sql STABLE
AS $$
    SELECT video_id, turns.account, offers,
           row_number() OVER (ORDER BY turn, coalesce(last.submitted_at_position, 0), requested_at_position) AS place
    FROM (SELECT w.video_id, w.account, w.offers, w.requested_at_position,
                 coalesce(busy.count, 0)
                 + row_number() OVER (PARTITION BY w.account ORDER BY w.priority, w.requested_at_position) AS turn
          FROM work.open_videos w
          LEFT JOIN (SELECT account, count(*) AS count FROM work.open_videos
                     WHERE status IN ('submitting', 'rendering', 'stored') GROUP BY account) busy USING (account)
          WHERE w.status = 'queued') turns
    LEFT JOIN work.video_turns last ON last.account = turns.account
$$;

-- Which of our jobs a provider's job is, for ever.
CREATE TABLE work.video_submissions (
    provider        text COLLATE "C" NOT NULL,
    provider_job_id text COLLATE "C" NOT NULL,
    video_id        text             NOT NULL,
    PRIMARY KEY (provider, provider_job_id)
);

-- Jobs that have ended and whose media is kept.
CREATE TABLE work.kept_media (
    video_id text COLLATE "C" PRIMARY KEY,
    account  text COLLATE "C" NOT NULL,
    ended_at timestamptz      NOT NULL
);
CREATE INDEX ON work.kept_media (ended_at);
CREATE INDEX ON work.kept_media (account);

-- Jobs that ended while their files were fetched. What was stored of them by somebody who died before the log said so is
-- nobody's, and is deleted.
CREATE TABLE work.media_leftovers (
    video_id text COLLATE "C" PRIMARY KEY,
    ended_at timestamptz      NOT NULL
);
CREATE INDEX ON work.media_leftovers (ended_at);
