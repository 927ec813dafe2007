-- The event log.
--
-- Its first seven columns are those of postgres-es, so that its repository, and any other cqrs-es program, can read
-- and append here. The others say where, when and by which command an event was put into the log, and chain it to
-- the event before. Position order is commit order, positions have no gaps and begin at 1: whoever puts an event
-- into the log holds the log's one lock until the commit.
--
-- The byte formats of `leaf_hash` and `chain_hash` are defined in `infrastructure/src/event_store/chain.rs`.

CREATE TABLE events (
    -- Bytewise, so that the index does not depend on the machine's locale and compares with memcmp.
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id   text COLLATE "C" NOT NULL,
    sequence       bigint           NOT NULL,
    event_type     text             NOT NULL,
    event_version  text             NOT NULL,
    -- `json` keeps the text to the byte, which `jsonb` does not: the text is what is hashed.
    payload        json             NOT NULL,
    metadata       json             NOT NULL,

    position       bigint           NOT NULL,
    -- Never before that of the position before.
    recorded_at    timestamptz      NOT NULL,
    -- On the first event of a unit only.
    command_id     uuid,
    leaf_hash      bytea            NOT NULL,
    chain_hash     bytea            NOT NULL,

    CONSTRAINT events_stream_sequence PRIMARY KEY (aggregate_type, aggregate_id, sequence),
    CONSTRAINT events_position UNIQUE (position),
    CONSTRAINT events_sequence_not_negative CHECK (sequence >= 0),
    CONSTRAINT events_position_positive CHECK (position > 0),
    CONSTRAINT events_leaf_hash_is_sha256 CHECK (octet_length(leaf_hash) = 32),
    CONSTRAINT events_chain_hash_is_sha256 CHECK (octet_length(chain_hash) = 32)
);

CREATE UNIQUE INDEX events_command_id ON events (command_id) WHERE command_id IS NOT NULL;

-- A cache: dropping its rows loses nothing. The columns and the key are those of postgres-es; our own repository
-- keeps the newest row of an aggregate only.
CREATE TABLE snapshots (
    aggregate_type   text COLLATE "C" NOT NULL,
    aggregate_id     text COLLATE "C" NOT NULL,
    last_sequence    bigint           NOT NULL,
    current_snapshot bigint           NOT NULL,
    payload          json             NOT NULL,
    CONSTRAINT snapshots_stream_sequence PRIMARY KEY (aggregate_type, aggregate_id, last_sequence),
    CONSTRAINT snapshots_last_sequence_not_negative CHECK (last_sequence >= 0),
    CONSTRAINT snapshots_current_snapshot_not_negative CHECK (current_snapshot >= 0)
);

-- How far each handler has come. The chain hash is the one the log had at that position when it was applied: a log
-- that has another one there now is another history, and the handler stops.
CREATE TABLE subscriptions (
    name           text        NOT NULL,
    position       bigint      NOT NULL,
    chain_hash     bytea       NOT NULL,
    updated_at     timestamptz NOT NULL,
    -- What the handler stopped at; null while it runs.
    error          text,
    error_position bigint,
    failed_at      timestamptz,
    CONSTRAINT subscriptions_name PRIMARY KEY (name),
    CONSTRAINT subscriptions_position_not_negative CHECK (position >= 0),
    CONSTRAINT subscriptions_chain_hash_is_sha256 CHECK (octet_length(chain_hash) = 32)
);

-- The key of the log's lock is the ASCII text "aihub" as a number. It is a function so that it stands here once.
CREATE FUNCTION lock_event_log() RETURNS void LANGUAGE sql VOLATILE
    AS $$ SELECT pg_advisory_xact_lock(418380281186) $$;

CREATE FUNCTION event_leaf_hash(
    aggregate_type text, aggregate_id text, sequence bigint, event_type text, event_version text, payload json, metadata json
) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(
           int4send(octet_length(convert_to(aggregate_type, 'UTF8'))) || convert_to(aggregate_type, 'UTF8')
        || int4send(octet_length(convert_to(aggregate_id, 'UTF8')))   || convert_to(aggregate_id, 'UTF8')
        || int8send(sequence)
        || int4send(octet_length(convert_to(event_type, 'UTF8')))     || convert_to(event_type, 'UTF8')
        || int4send(octet_length(convert_to(event_version, 'UTF8')))  || convert_to(event_version, 'UTF8')
        || int4send(octet_length(convert_to(payload::text, 'UTF8')))  || convert_to(payload::text, 'UTF8')
        || int4send(octet_length(convert_to(metadata::text, 'UTF8'))) || convert_to(metadata::text, 'UTF8'))
$$;

CREATE FUNCTION microseconds_since_epoch(at timestamptz) RETURNS bigint LANGUAGE sql IMMUTABLE
    AS $$ SELECT (extract(epoch FROM at) * 1000000)::bigint $$;

-- Appends the units of a batch, in their order, each whole or not at all, and commits.
--
-- It is a procedure, because it commits before it answers: in the extended protocol a statement is committed by the
-- client's Sync message, which a client that froze behind its Execute never sends, and the log's lock would be held
-- for as long as that client's kernel keeps the connection.
--
-- A stream is given once, with the sequence that its first unit of the batch was decided on. A part is what one unit
-- adds to one stream. Parts follow each other in the order of the units, and events in the order of the parts.
-- Command ids are distinct within a batch.
--
-- The call has to come from a connection that pins the plans, see `infrastructure/src/event_store/writer/call.rs`.
CREATE PROCEDURE append_events(
    -- One element a unit.
    IN command_ids      uuid[],
    IN unit_parts       integer[],
    IN unit_leaf_hashes bytea[],    -- that of its first event
    -- One element a part.
    IN part_streams     integer[],  -- index into the streams, from 1
    IN part_expected    bigint[],
    IN part_events      integer[],
    -- One element a stream.
    IN stream_types     text[],
    IN stream_ids       text[],
    IN stream_expected  bigint[],
    -- The units of the batch follow from each other: no part expects a sequence that those before it do not make.
    IN is_consistent    boolean,
    -- One element an event.
    IN event_streams    integer[],
    IN sequences        bigint[],
    IN event_types      text[],
    IN event_versions   text[],
    IN payloads         json[],
    IN metadatas        json[],
    IN event_commands   uuid[],     -- null except at a unit's first event
    IN leaf_hashes      bytea[],
    -- The position of the last event before the batch.
    OUT head_before     bigint,
    OUT lock_wait_us    bigint,
    -- Null when every unit was appended, so that event i of the batch has the position head_before + i. Otherwise
    -- one element a unit: 0 appended, 1 known and its first event is this one, 2 known, 3 conflict.
    OUT outcomes        integer[],
    -- The position of the unit's first event, or the index of the first part that had moved on, from 0 in the unit.
    OUT details         bigint[]
) LANGUAGE plpgsql AS $$
DECLARE
    called_at   timestamptz := clock_timestamp();
    head        bigint;
    hash        bytea;
    recorded    timestamptz;
    stamp       bytea;
    chain       bytea[];
    heads       bigint[];
    known_at    bigint[];
    known_leaf  bytea[];
    part        integer := 0;
    event       integer := 0;
    moved       integer;
    kept        boolean[];
BEGIN
    PERFORM lock_event_log();
    lock_wait_us := extract(epoch FROM clock_timestamp() - called_at) * 1000000;

    -- From here on statements see everything that was committed before the lock was ours: each takes a snapshot of
    -- its own. The lock's own statement does not.
    SELECT e.position, e.chain_hash, e.recorded_at INTO head, hash, recorded FROM events e ORDER BY e.position DESC LIMIT 1;
    head := coalesce(head, 0);
    hash := coalesce(hash, decode(repeat('00', 32), 'hex'));
    recorded := greatest(recorded, clock_timestamp());
    stamp := int8send(microseconds_since_epoch(recorded));
    head_before := head;

    IF NOT is_consistent
        OR EXISTS (SELECT FROM unnest(command_ids) AS u (id) JOIN events e ON e.command_id = u.id)
        OR EXISTS (
            SELECT FROM unnest(stream_types, stream_ids, stream_expected) AS s (type, id, expected)
            WHERE s.expected <> coalesce((
                SELECT e.sequence FROM events e
                WHERE e.aggregate_type = s.type AND e.aggregate_id = s.id
                ORDER BY e.sequence DESC LIMIT 1), 0))
    THEN
        -- The long way: unit by unit with running heads, so that a unit which builds on one that was set aside
        -- meets a head that did not advance, and is set aside itself. No stream can get a hole.
        SELECT array_agg(coalesce((
                SELECT e.sequence FROM events e
                WHERE e.aggregate_type = s.type AND e.aggregate_id = s.id
                ORDER BY e.sequence DESC LIMIT 1), 0) ORDER BY s.nth)
            INTO heads
            FROM unnest(stream_types, stream_ids) WITH ORDINALITY AS s (type, id, nth);
        SELECT array_agg(e.position ORDER BY u.nth), array_agg(e.leaf_hash ORDER BY u.nth)
            INTO known_at, known_leaf
            FROM unnest(command_ids) WITH ORDINALITY AS u (id, nth) LEFT JOIN events e ON e.command_id = u.id;

        FOR unit IN 1 .. cardinality(command_ids) LOOP
            moved := NULL;
            FOR nth IN 1 .. unit_parts[unit] LOOP
                IF heads[part_streams[part + nth]] <> part_expected[part + nth] THEN
                    moved := nth - 1;
                    EXIT;
                END IF;
            END LOOP;
            IF known_at[unit] IS NOT NULL THEN
                outcomes[unit] := CASE WHEN known_leaf[unit] = unit_leaf_hashes[unit] THEN 1 ELSE 2 END;
                details[unit] := known_at[unit];
            ELSIF moved IS NOT NULL THEN
                outcomes[unit] := 3;
                details[unit] := moved;
            ELSE
                outcomes[unit] := 0;
                details[unit] := head + 1;
            END IF;
            FOR nth IN 1 .. unit_parts[unit] LOOP
                part := part + 1;
                IF outcomes[unit] = 0 THEN
                    heads[part_streams[part]] := heads[part_streams[part]] + part_events[part];
                    head := head + part_events[part];
                END IF;
                FOR i IN 1 .. part_events[part] LOOP
                    event := event + 1;
                    kept[event] := outcomes[unit] = 0;
                END LOOP;
            END LOOP;
        END LOOP;
        head := head_before;
    END IF;

    FOR i IN 1 .. cardinality(leaf_hashes) LOOP
        IF kept[i] THEN
            head := head + 1;
        ELSIF kept IS NULL THEN
            head := head + 1;
        ELSE
            chain[i] := NULL;
            CONTINUE;
        END IF;
        hash := sha256(hash || int8send(head) || stamp || leaf_hashes[i]);
        chain[i] := hash;
    END LOOP;

    IF head > head_before THEN
        INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                            position, recorded_at, command_id, leaf_hash, chain_hash)
            SELECT stream_types[e.stream], stream_ids[e.stream], e.sequence, e.event_type, e.event_version, e.payload,
                   e.metadata, head_before + row_number() OVER (), recorded, e.command_id, e.leaf_hash, e.chain_hash
            FROM unnest(event_streams, sequences, event_types, event_versions, payloads, metadatas, event_commands,
                        leaf_hashes, chain)
                AS e (stream, sequence, event_type, event_version, payload, metadata, command_id, leaf_hash, chain_hash)
            WHERE e.chain_hash IS NOT NULL;
        PERFORM pg_notify('events', head::text);
    END IF;
    COMMIT;
END
$$;

-- Puts a row that something else than `append_events` inserts into the log's order, under the same lock.
CREATE FUNCTION place_event() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    previous record;
BEGIN
    PERFORM lock_event_log();
    -- The inserting transaction holds the lock until it ends, and everyone waits: it may not sit idle meanwhile.
    PERFORM set_config('idle_in_transaction_session_timeout', '5s', true);
    SELECT e.position, e.chain_hash, e.recorded_at INTO previous FROM events e ORDER BY e.position DESC LIMIT 1;
    NEW.position := coalesce(previous.position, 0) + 1;
    NEW.recorded_at := greatest(previous.recorded_at, clock_timestamp());
    NEW.leaf_hash := event_leaf_hash(NEW.aggregate_type, NEW.aggregate_id, NEW.sequence, NEW.event_type,
                                     NEW.event_version, NEW.payload, NEW.metadata);
    NEW.chain_hash := sha256(coalesce(previous.chain_hash, decode(repeat('00', 32), 'hex'))
        || int8send(NEW.position) || int8send(microseconds_since_epoch(NEW.recorded_at)) || NEW.leaf_hash);
    PERFORM pg_notify('events', NEW.position::text);
    RETURN NEW;
END
$$;

-- A restored dump brings its positions along and keeps them.
CREATE TRIGGER events_place BEFORE INSERT ON events
    FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION place_event();

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_append_only;
