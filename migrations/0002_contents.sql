-- Content beside the log and the keys that it is sealed with, and which processes are alive.

-- Whose content there is. The row is locked by whoever makes a key for the subject and by whoever erases it, so that no
-- key can come after the erasure.
CREATE TABLE subjects (
    subject   text COLLATE "C" NOT NULL,
    -- From then on nothing is sealed for the subject any more.
    erased_at timestamptz,
    CONSTRAINT subjects_subject PRIMARY KEY (subject)
);

-- One key for each subject, kind of content and month, so that what is too old can be erased alone. It is wrapped by a
-- master key that is not in the database. A destroyed key leaves its row behind, so that no new one is made in its place:
-- what it sealed stays erased.
CREATE TABLE subject_keys (
    subject       text COLLATE "C" NOT NULL,
    -- See `domain/src/content.rs`.
    kind          text COLLATE "C" NOT NULL,
    -- The first day of the month, in UTC.
    month         date             NOT NULL,
    key_id        uuid             NOT NULL,
    -- Nonce, ciphertext and tag of AES-256-GCM over the 32 bytes of the key, with its name as associated data.
    wrapped_key   bytea,
    -- Names the master key, says nothing about it.
    master_key_id text             NOT NULL,
    created_at    timestamptz      NOT NULL DEFAULT now(),
    destroyed_at  timestamptz,
    -- Since when nothing of what it sealed is in `contents` any more.
    swept_at      timestamptz,
    CONSTRAINT subject_keys_subject_kind_month PRIMARY KEY (subject, kind, month),
    CONSTRAINT subject_keys_subject FOREIGN KEY (subject) REFERENCES subjects (subject),
    CONSTRAINT subject_keys_key_id UNIQUE (key_id),
    CONSTRAINT subject_keys_kind CHECK (kind IN ('chat', 'completion', 'embedding', 'video', 'workflow')),
    CONSTRAINT subject_keys_is_of_a_month CHECK (extract(day FROM month) = 1),
    CONSTRAINT subject_keys_is_kept_or_destroyed CHECK ((wrapped_key IS NULL) = (destroyed_at IS NOT NULL)),
    CONSTRAINT subject_keys_wrapped_key_length CHECK (octet_length(wrapped_key) = 60)
);

CREATE INDEX subject_keys_to_sweep ON subject_keys (destroyed_at) WHERE destroyed_at IS NOT NULL AND swept_at IS NULL;

-- Prompts and answers in pieces, each once for its key. Events name them by their hashes, or by the hash of a list of them,
-- which is kept here too; `append_events` puts them here in the commit of those events. A row says nothing without its key,
-- and goes some time after its key was destroyed; nothing else ever changes or deletes it.
CREATE TABLE contents (
    -- The key that it is sealed with: a row of `subject_keys`. Not a reference, which would cost a look there for each row.
    subject text COLLATE "C" NOT NULL,
    kind    text COLLATE "C" NOT NULL,
    month   date             NOT NULL,
    -- SHA-256 over the bytes.
    hash    bytea            NOT NULL,
    -- Sealed as `infrastructure/src/vault/cipher.rs` says, a list as `infrastructure/src/contents/list.rs` does.
    bytes   bytea            NOT NULL,
    CONSTRAINT contents_key_hash PRIMARY KEY (subject, kind, month, hash)
);
-- It was compressed before it was sealed, if at all: nothing can be compressed after.
ALTER TABLE contents ALTER bytes SET STORAGE EXTERNAL;

-- The processes that may have requests running. All times are the database's.
CREATE TABLE nodes (
    -- Of one start of a process.
    node          text        NOT NULL,
    -- As it is configured; null where it is not.
    name          text,
    started_at    timestamptz NOT NULL,
    heartbeat_at  timestamptz NOT NULL,
    -- Since when it has not missed a beat: whoever was cut off itself cannot tell who is dead.
    beating_since timestamptz NOT NULL,
    -- From then on it is missed, unless it is heard of again: each node says so itself, whatever others wait for.
    missed_at     timestamptz NOT NULL,
    -- Since when it is about to end, and nothing is left to it.
    leaving_at    timestamptz,
    -- The server's process for the connection that it is heard of by.
    backend_pid   integer     NOT NULL,
    -- What it runs with, in hashes, see `infrastructure/src/nodes/settings.rs`.
    settings      jsonb       NOT NULL,
    CONSTRAINT nodes_node PRIMARY KEY (node)
-- A row is written every few seconds: the new version finds room beside the old one.
) WITH (fillfactor = 50);

-- Whether there is room for anything. A table that is emptied takes a new file, and its first row the first page of that: both are
-- taken back. Of several nodes one looks.
CREATE TABLE append_probe (one integer NOT NULL);

CREATE FUNCTION probe_room() RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
    LOCK TABLE append_probe IN ACCESS EXCLUSIVE MODE NOWAIT;
    TRUNCATE append_probe;
    INSERT INTO append_probe VALUES (1);
    RAISE EXCEPTION 'taken back' USING ERRCODE = 'AH001';
EXCEPTION
    WHEN SQLSTATE 'AH001' OR lock_not_available THEN NULL;
END
$$;

-- The same with an event of so many bytes, where one found no room: that leaves a dead row in the log's table, so it is not done all
-- the time.
CREATE FUNCTION probe_append(bytes integer) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
    -- What cannot be compressed.
    filling text := (SELECT coalesce(string_agg(md5(random()::text), ''), '') FROM generate_series(1, bytes / 32));
BEGIN
    INSERT INTO events (aggregate_type, aggregate_id, sequence, event_type, event_version, payload, metadata)
        VALUES ('probe', gen_random_uuid()::text, 1, 'Probe', '1', to_json(filling), '{}');
    RAISE EXCEPTION 'taken back' USING ERRCODE = 'AH001';
EXCEPTION
    WHEN SQLSTATE 'AH001' THEN NULL;
END
$$;

-- Work that one process at a time does: his until then, by the database's clock, and for as long as his session lives, see
-- `infrastructure/src/leases.rs`.
CREATE TABLE leases (
    name         text        NOT NULL,
    holder       uuid        NOT NULL,
    holder_pid   integer     NOT NULL,
    leased_until timestamptz NOT NULL,
    CONSTRAINT leases_name PRIMARY KEY (name)
);

-- What one transaction at a time may do: it locks the row. That takes a right to update it, and an advisory lock would be
-- anybody's.
CREATE TABLE locks (
    name text NOT NULL,
    CONSTRAINT locks_name PRIMARY KEY (name)
);
INSERT INTO locks VALUES ('checkpoint'), ('video decision'), ('video seat'), ('workflow seat');
