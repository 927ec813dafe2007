-- The keys that content is sealed with, and which processes are alive.

-- One key a subject. It is wrapped by a master key that is not in the database. A destroyed key leaves its row behind,
-- so that no new one is made in its place: what it sealed stays erased, and nothing more is sealed for the subject.
CREATE TABLE subject_keys (
    subject       text COLLATE "C" NOT NULL,
    key_id        uuid             NOT NULL,
    -- Nonce, ciphertext and tag of AES-256-GCM over the 32 bytes of the key, with the subject as associated data.
    wrapped_key   bytea,
    -- Names the master key, says nothing about it.
    master_key_id text             NOT NULL,
    created_at    timestamptz      NOT NULL DEFAULT now(),
    destroyed_at  timestamptz,
    CONSTRAINT subject_keys_subject PRIMARY KEY (subject),
    CONSTRAINT subject_keys_key_id UNIQUE (key_id),
    CONSTRAINT subject_keys_is_kept_or_destroyed CHECK ((wrapped_key IS NULL) = (destroyed_at IS NOT NULL)),
    CONSTRAINT subject_keys_wrapped_key_length CHECK (octet_length(wrapped_key) = 60)
);

-- The processes that may have requests running. All times are the database's.
CREATE TABLE nodes (
    node         text        NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    started_at   timestamptz NOT NULL,
    CONSTRAINT nodes_node PRIMARY KEY (node)
);
