-- The event log.
--
-- Its first seven columns are those of postgres-es, so that its repository, and any other cqrs-es program, can read
-- and append here. The others say where, when and by which command an event was put into the log, and chain it to
-- the event before. Position order is commit order, positions have no gaps and begin at 1: whoever puts an event
-- into the log holds the log's one lock until the commit.
--
-- Whoever may only read can neither take that lock nor put anything into the log: only the owner's functions here do, and
-- only those who are granted them can call them (see `infrastructure/src/roles.rs`). The last key of an event's metadata is
-- `databaseRole`: the login that appended it, as the database knows it.
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
    -- No checks beside postgres-es's own: each is parsed again for every statement, under the log's lock. Positions
    -- and hashes are made by the two functions below only, and verified from outside.
    CONSTRAINT events_sequence_not_negative CHECK (sequence >= 0)
);

CREATE UNIQUE INDEX events_command_id ON events (command_id) WHERE command_id IS NOT NULL;
-- An account's notes are few among millions of its events, and each new one is reckoned with all of them.
CREATE INDEX events_notes ON events (aggregate_id, sequence) WHERE event_type = 'CreditsAdjusted';

-- The log's lock: a lock on this table, which has no rows and which nobody but the owner has any right to. Advisory locks
-- can be taken by everybody who can connect. The mode conflicts with itself and with nothing that a dump or a vacuum of
-- other tables does, is first come, first served, and is the strongest that does not look through all sessions first.
CREATE TABLE log_lock ();

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
    -- Since when the handler is not to apply anything; null while it may.
    paused_at      timestamptz,
    -- Whose turn it is to apply: until then, by the database's clock, and for as long as his session lives. While he applies
    -- he has the row locked, and the turn is his for as long as that takes.
    runner         uuid,
    runner_pid     integer,
    runner_until   timestamptz,
    CONSTRAINT subscriptions_name PRIMARY KEY (name),
    CONSTRAINT subscriptions_position_not_negative CHECK (position >= 0),
    CONSTRAINT subscriptions_chain_hash_is_sha256 CHECK (octet_length(chain_hash) = 32)
);

-- Whether somebody who was to be there until then has left before: his session has ended, or the time is over. A connection
-- that was made through a pooler may outlive him; then it is the time.
CREATE FUNCTION has_left(pid integer, there_until timestamptz) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT CASE WHEN pid IS NULL OR there_until IS NULL OR there_until < clock_timestamp() THEN true
                ELSE NOT EXISTS (SELECT FROM pg_stat_get_activity(pid)) END
$$;

CREATE FUNCTION event_leaf_hash(
    aggregate_type text, aggregate_id text, sequence bigint, event_type text, event_version text, payload json, metadata json,
    command_id uuid
) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT sha256(
           int4send(octet_length(convert_to(aggregate_type, 'UTF8'))) || convert_to(aggregate_type, 'UTF8')
        || int4send(octet_length(convert_to(aggregate_id, 'UTF8')))   || convert_to(aggregate_id, 'UTF8')
        || int8send(sequence)
        || int4send(octet_length(convert_to(event_type, 'UTF8')))     || convert_to(event_type, 'UTF8')
        || int4send(octet_length(convert_to(event_version, 'UTF8')))  || convert_to(event_version, 'UTF8')
        || int4send(octet_length(convert_to(payload::text, 'UTF8')))  || convert_to(payload::text, 'UTF8')
        || int4send(octet_length(convert_to(metadata::text, 'UTF8'))) || convert_to(metadata::text, 'UTF8')
        || CASE WHEN command_id IS NULL THEN '\x00'::bytea ELSE '\x01'::bytea || uuid_send(command_id) END)
$$;

-- The end of the metadata of whatever the session appends: whose login it is. A role that was set does not change it.
CREATE FUNCTION metadata_end() RETURNS text LANGUAGE sql STABLE AS $$
    SELECT '"databaseRole":' || to_json(session_user::text) || '}'
$$;

-- Takes the log's lock, first come, first served, until the transaction ends: everybody who appends waits meanwhile, so it
-- may not sit idle. What the statements after this one see was committed before the lock was taken.
CREATE FUNCTION lock_log() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    LOCK TABLE log_lock IN SHARE UPDATE EXCLUSIVE MODE;
    PERFORM set_config('idle_in_transaction_session_timeout', '5s', true);
END
$$;
REVOKE ALL ON FUNCTION lock_log FROM PUBLIC;

-- Appends the units of a batch, in their order, each whole or not at all, in the transaction of the caller, which holds the
-- log's lock until it ends.
--
-- A stream is given once, with the sequence that its first unit of the batch was decided on. A part is what one unit
-- adds to one stream. Parts follow each other in the order of the units, and events in the order of the parts.
-- Command ids are distinct within a batch. Each metadata ends with `metadata_end()`: the leaves are hashed by the caller,
-- and nobody appends in another's name.
--
-- The call has to come from a connection that pins the plans, see `infrastructure/src/event_store/writer/call.rs`.
CREATE FUNCTION append_units(
    -- One element a unit.
    IN unit_parts       integer[],  -- how many it has
    IN unit_bases       integer[],  -- after one that is set aside, none with the same number is appended
    -- One element a part.
    IN part_streams     integer[],  -- index into the streams, from 1
    IN part_expected    bigint[],
    IN part_events      integer[],
    -- One element a stream.
    IN stream_types     text[],
    IN stream_ids       text[],
    IN stream_expected  bigint[],
    -- The units have to be looked at one by one: some part expects another sequence than the parts before it make, or
    -- the same call failed with a unique violation. Otherwise the answer is one such if a stream that should be new
    -- is there already: that is rare, and not looking for it first makes a batch of new streams a seventh cheaper.
    IN one_by_one       boolean,
    -- One element an event.
    IN event_streams    integer[],
    IN sequences        bigint[],
    IN event_types      text[],
    IN event_versions   text[],
    IN payloads         json[],
    IN metadatas        json[],
    IN command_ids      uuid[],     -- at a unit's first event, otherwise null
    IN leaf_hashes      bytea[],
    -- One element a piece of content that is to be kept, see `migrations/0002_contents.sql`. Those of units that are set
    -- aside are kept as well: whoever was refused comes again, and nothing names them otherwise.
    IN content_subjects text[],
    IN content_kinds    text[],
    IN content_months   date[],
    IN content_hashes   bytea[],
    IN content_bytes    bytea[],
    -- The position of the last event before the batch.
    OUT head_before     bigint,
    OUT lock_wait_us    bigint,
    -- Null when every unit was appended, so that event i of the batch has the position head_before + i. Otherwise
    -- one element a unit: 0 appended, 1 known and its first event is this one, 2 known, 3 conflict.
    OUT outcomes        integer[],
    -- The position of the unit's first event, or the index of the first part that had moved on, from 0 in the unit.
    OUT details         bigint[]
) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    called_at   timestamptz;
    metadata_end constant text := metadata_end();
    hash        bytea;
    recorded    timestamptz;
    stamp       bytea;
    chain       bytea[];
    is_as_expected boolean;
    count       integer := cardinality(leaf_hashes);
    -- What follows is for the long way only.
    heads       bigint[];           -- of the streams, as they run on
    known_at    bigint[];           -- at a unit's first event, where its command is in the log
    known_leaf  bytea[];
    part        integer := 0;       -- the last part and event that were looked at
    event       integer := 0;
    broken      integer[] := '{}';  -- the bases of the units that were set aside
    moved       integer;            -- the first part of the unit that meets another head
    kept        integer[] := '{}';  -- the indexes of the events that are appended
BEGIN
    -- Said here, for whoever appends nothing and only wants to know whether something could be.
    IF current_setting('transaction_read_only') = 'on' THEN
        RAISE EXCEPTION 'the log cannot be written in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction';
    END IF;
    -- Before the lock, however long it takes. In the order of the keys: two writers that bring the same pieces wait for each
    -- other once, and nobody waits in a circle.
    IF cardinality(content_hashes) > 0 THEN
        INSERT INTO contents (subject, kind, month, hash, bytes)
            SELECT c.subject, c.kind, c.month, c.hash, c.bytes
            FROM unnest(content_subjects, content_kinds, content_months, content_hashes, content_bytes)
                 AS c (subject, kind, month, hash, bytes)
            -- Of a node that was cut off for long: what the key sealed may have been taken away already.
            WHERE NOT EXISTS (SELECT FROM subject_keys k WHERE k.subject = c.subject AND k.kind = c.kind
                              AND k.month = c.month AND k.destroyed_at IS NOT NULL)
            ORDER BY c.subject, c.kind, c.month, c.hash
            ON CONFLICT ON CONSTRAINT contents_key_hash DO NOTHING;
    END IF;

    FOR i IN 1 .. count LOOP
        IF right(metadatas[i]::text, length(metadata_end) + 1) NOT IN ('{' || metadata_end, ',' || metadata_end) THEN
            RAISE EXCEPTION 'the metadata of an event does not end with {%: it is not its login that appends', metadata_end
                USING ERRCODE = 'insufficient_privilege';
        END IF;
    END LOOP;
    called_at := clock_timestamp();
    LOCK TABLE log_lock IN SHARE UPDATE EXCLUSIVE MODE;
    lock_wait_us := extract(epoch FROM clock_timestamp() - called_at) * 1000000;

    -- From here on statements see everything that was committed before the lock was ours: each takes a snapshot of
    -- its own. The lock's own statement does not.
    --
    -- Arrays are read by subscript and not with unnest, which would copy each of them into a tuple store.
    SELECT e.position, e.chain_hash, greatest(e.recorded_at, clock_timestamp()),
           NOT EXISTS (SELECT FROM unnest(command_ids) AS u (id) JOIN events known ON known.command_id = u.id)
           AND NOT EXISTS (
               SELECT FROM generate_series(1, cardinality(stream_ids)) AS s (i)
               WHERE stream_expected[s.i] > 0 AND stream_expected[s.i] <> coalesce((
                   SELECT last.sequence FROM events last
                   WHERE last.aggregate_type = stream_types[s.i] AND last.aggregate_id = stream_ids[s.i]
                   ORDER BY last.sequence DESC LIMIT 1), 0))
        INTO head_before, hash, recorded, is_as_expected
        FROM events e ORDER BY e.position DESC LIMIT 1;
    IF head_before IS NULL THEN
        head_before := 0;
        hash := decode(repeat('00', 32), 'hex');
        recorded := clock_timestamp();
        is_as_expected := false;
    END IF;
    stamp := int8send((extract(epoch FROM recorded) * 1000000)::bigint);

    IF is_as_expected AND NOT one_by_one THEN
        FOR i IN 1 .. count LOOP
            hash := sha256(hash || int8send(head_before + i) || stamp || leaf_hashes[i]);
            chain[i] := hash;
        END LOOP;
        INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                            position, recorded_at, command_id, leaf_hash, chain_hash)
            SELECT stream_types[event_streams[i]], stream_ids[event_streams[i]], sequences[i], event_types[i],
                   event_versions[i], payloads[i], metadatas[i], head_before + i, recorded, command_ids[i],
                   leaf_hashes[i], chain[i]
            FROM generate_series(1, count) AS e (i);
    ELSE
        -- The long way: unit by unit with running heads, so that a unit which builds on one that was set aside
        -- meets a head that did not advance, and is set aside itself. No stream can get a hole. Where the head did
        -- advance, by somebody else's event, the broken basis tells.
        SELECT array_agg(coalesce((
                SELECT e.sequence FROM events e
                WHERE e.aggregate_type = stream_types[s.i] AND e.aggregate_id = stream_ids[s.i]
                ORDER BY e.sequence DESC LIMIT 1), 0) ORDER BY s.i)
            INTO heads
            FROM generate_series(1, cardinality(stream_ids)) AS s (i);
        SELECT array_agg(e.position ORDER BY u.nth), array_agg(e.leaf_hash ORDER BY u.nth)
            INTO known_at, known_leaf
            FROM unnest(command_ids) WITH ORDINALITY AS u (id, nth) LEFT JOIN events e ON e.command_id = u.id;

        FOR unit IN 1 .. cardinality(unit_parts) LOOP
            moved := CASE WHEN unit_bases[unit] = ANY (broken) THEN 0 END;
            FOR nth IN 1 .. unit_parts[unit] LOOP
                IF heads[part_streams[part + nth]] <> part_expected[part + nth] THEN
                    moved := coalesce(moved, nth - 1);
                    EXIT;
                END IF;
            END LOOP;
            IF known_at[event + 1] IS NOT NULL THEN
                outcomes[unit] := CASE WHEN known_leaf[event + 1] = leaf_hashes[event + 1] THEN 1 ELSE 2 END;
                details[unit] := known_at[event + 1];
            ELSIF moved IS NOT NULL THEN
                outcomes[unit] := 3;
                details[unit] := moved;
                broken := broken || unit_bases[unit];
            ELSE
                outcomes[unit] := 0;
                details[unit] := head_before + cardinality(kept) + 1;
            END IF;
            FOR nth IN 1 .. unit_parts[unit] LOOP
                part := part + 1;
                IF outcomes[unit] = 0 THEN
                    heads[part_streams[part]] := heads[part_streams[part]] + part_events[part];
                    FOR i IN event + 1 .. event + part_events[part] LOOP
                        hash := sha256(hash || int8send(head_before + cardinality(kept) + 1) || stamp || leaf_hashes[i]);
                        chain[i] := hash;
                        kept := kept || i;
                    END LOOP;
                END IF;
                event := event + part_events[part];
            END LOOP;
        END LOOP;

        IF kept <> '{}' THEN
            INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata,
                                position, recorded_at, command_id, leaf_hash, chain_hash)
                SELECT stream_types[event_streams[i]], stream_ids[event_streams[i]], sequences[i], event_types[i],
                       event_versions[i], payloads[i], metadatas[i], head_before + k.nth, recorded, command_ids[i],
                       leaf_hashes[i], chain[i]
                FROM unnest(kept) WITH ORDINALITY AS k (i, nth);
        END IF;
    END IF;
END
$$;
REVOKE ALL ON FUNCTION append_units FROM PUBLIC;

-- Appends the units of a batch and commits.
--
-- It is a procedure, because it commits before it answers: in the extended protocol a statement is committed by the
-- client's Sync message, which a client that froze behind its Execute never sends, and the log's lock would be held
-- for as long as that client's kernel keeps the connection. What commits cannot have its owner's rights, so the function
-- above has them. Nothing is announced: a notification is one more lock at the commit, which whoever can connect can hold.
CREATE PROCEDURE append_events(
    IN unit_parts       integer[],
    IN unit_bases       integer[],
    IN part_streams     integer[],
    IN part_expected    bigint[],
    IN part_events      integer[],
    IN stream_types     text[],
    IN stream_ids       text[],
    IN stream_expected  bigint[],
    IN one_by_one       boolean,
    IN event_streams    integer[],
    IN sequences        bigint[],
    IN event_types      text[],
    IN event_versions   text[],
    IN payloads         json[],
    IN metadatas        json[],
    IN command_ids      uuid[],
    IN leaf_hashes      bytea[],
    IN content_subjects text[],
    IN content_kinds    text[],
    IN content_months   date[],
    IN content_hashes   bytea[],
    IN content_bytes    bytea[],
    OUT head_before     bigint,
    OUT lock_wait_us    bigint,
    OUT outcomes        integer[],
    OUT details         bigint[]
) LANGUAGE plpgsql AS $$
BEGIN
    SELECT appended.* INTO head_before, lock_wait_us, outcomes, details
        FROM append_units(
            unit_parts, unit_bases, part_streams, part_expected, part_events, stream_types, stream_ids, stream_expected,
            one_by_one, event_streams, sequences, event_types, event_versions, payloads, metadatas, command_ids,
            leaf_hashes, content_subjects, content_kinds, content_months, content_hashes, content_bytes) AS appended;
    COMMIT;
END
$$;

-- Puts a row that something else than `append_units` inserts into the log's order, under the same lock, and says in its
-- metadata whose login inserted it.
CREATE FUNCTION place_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    previous record;
    said     text := btrim(NEW.metadata::text, E' \t\n\r');
BEGIN
    IF said NOT LIKE '{%' THEN
        RAISE EXCEPTION 'the metadata of an event is a JSON object' USING ERRCODE = 'check_violation';
    END IF;
    said := rtrim(left(said, -1), E' \t\n\r');
    NEW.metadata := said || CASE said WHEN '{' THEN '' ELSE ',' END || metadata_end();
    PERFORM lock_log();
    SELECT e.position, e.chain_hash, e.recorded_at INTO previous FROM events e ORDER BY e.position DESC LIMIT 1;
    NEW.position := coalesce(previous.position, 0) + 1;
    NEW.recorded_at := greatest(previous.recorded_at, clock_timestamp());
    NEW.leaf_hash := event_leaf_hash(NEW.aggregate_type, NEW.aggregate_id, NEW.sequence, NEW.event_type,
                                     NEW.event_version, NEW.payload, NEW.metadata, NEW.command_id);
    NEW.chain_hash := sha256(coalesce(previous.chain_hash, decode(repeat('00', 32), 'hex'))
        || int8send(NEW.position) || int8send((extract(epoch FROM NEW.recorded_at) * 1000000)::bigint) || NEW.leaf_hash);
    RETURN NEW;
END
$$;

-- A restored dump brings its positions along and keeps them.
CREATE TRIGGER events_place BEFORE INSERT ON events
    FOR EACH ROW WHEN (NEW.position IS NULL) EXECUTE FUNCTION place_event();

-- For what is decided on all of the log, by whoever has stopped it: the next event, the first of its stream. Its position.
CREATE FUNCTION append_first(
    aggregate_type text, aggregate_id text, event_type text, event_version text, payload json, metadata json, command_id uuid
) RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
    INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata, command_id)
        VALUES (aggregate_type, aggregate_id, 1, event_type, event_version, payload, metadata, command_id)
        RETURNING position
$$;
REVOKE ALL ON FUNCTION append_first FROM PUBLIC;

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the event log is append-only: % on % is refused', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER events_are_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON events
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
ALTER TABLE events ENABLE ALWAYS TRIGGER events_are_append_only;
