-- The keys that content is sealed with, and which processes are alive.

-- Whose content there is. The row is locked by whoever makes a key for the subject and by whoever erases it, so that no
-- key can come after the erasure.
CREATE TABLE subjects (
    subject   text COLLATE "C" NOT NULL,
    -- From then on nothing is sealed for the subject any more.
    erased_at timestamptz,
    CONSTRAINT subjects_subject PRIMARY KEY (subject)
);

-- One key for each subject and month, so that what is too old can be erased alone. It is wrapped by a master key that is
-- not in the database. A destroyed key leaves its row behind, so that no new one is made in its place: what it sealed
-- stays erased.
CREATE TABLE subject_keys (
    subject       text COLLATE "C" NOT NULL,
    -- The first day of the month, in UTC.
    month         date             NOT NULL,
    key_id        uuid             NOT NULL,
    -- Nonce, ciphertext and tag of AES-256-GCM over the 32 bytes of the key, with subject and month as associated data.
    wrapped_key   bytea,
    -- Names the master key, says nothing about it.
    master_key_id text             NOT NULL,
    created_at    timestamptz      NOT NULL DEFAULT now(),
    destroyed_at  timestamptz,
    CONSTRAINT subject_keys_subject_month PRIMARY KEY (subject, month),
    CONSTRAINT subject_keys_subject FOREIGN KEY (subject) REFERENCES subjects (subject),
    CONSTRAINT subject_keys_key_id UNIQUE (key_id),
    CONSTRAINT subject_keys_is_of_a_month CHECK (extract(day FROM month) = 1),
    CONSTRAINT subject_keys_is_kept_or_destroyed CHECK ((wrapped_key IS NULL) = (destroyed_at IS NOT NULL)),
    CONSTRAINT subject_keys_wrapped_key_length CHECK (octet_length(wrapped_key) = 60)
);

-- Every node hears of it, whoever did it, and forgets the keys that it has in memory. The subject is told where all that
-- is the subject's was erased.
CREATE FUNCTION announce_erasure() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('erasures', CASE WHEN TG_LEVEL = 'ROW' THEN to_jsonb(NEW) ->> 'subject' ELSE '' END);
    RETURN NULL;
END
$$;

CREATE TRIGGER subjects_are_erased AFTER INSERT OR UPDATE ON subjects
    FOR EACH ROW WHEN (NEW.erased_at IS NOT NULL) EXECUTE FUNCTION announce_erasure();
CREATE TRIGGER subject_keys_are_changed AFTER UPDATE OR DELETE ON subject_keys
    FOR EACH STATEMENT EXECUTE FUNCTION announce_erasure();

-- The processes that may have requests running. All times are the database's.
CREATE TABLE nodes (
    node         text        NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    started_at   timestamptz NOT NULL,
    CONSTRAINT nodes_node PRIMARY KEY (node)
);
