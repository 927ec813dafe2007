-- Who may do what. The roles are groups that nobody can log in as; they are given to logins. They belong to the whole server, so
-- their names are not known here: `infrastructure/src/roles.rs` has them, and calls these functions whenever somebody migrates.
-- Only the owner can: they have the rights of whoever calls them.

-- What auditors read: views of tables whose own names they cannot say. PostgreSQL has some commands wait for an exclusive lock
-- before it looks whether they are allowed (CREATE RULE is one), so whoever can name a table can have everybody wait for those
-- who read it.
CREATE SCHEMA audit;
COMMENT ON SCHEMA audit IS 'What auditors read of the log and of what proves it';

-- Whether there is the role: it is made where it is not and the caller may do so.
CREATE FUNCTION make_role(role text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
        EXECUTE format('CREATE ROLE %I NOLOGIN', role);
    END IF;
    RETURN true;
EXCEPTION
    -- Somebody else has just made it, for another database of the same server.
    WHEN duplicate_object OR unique_violation THEN RETURN true;
    WHEN insufficient_privilege THEN RETURN false;
END
$$;

-- Gives the roles exactly their rights to what the owner of the log has here. A role that there is not is null.
CREATE FUNCTION grant_rights(service text, finance text, auditor text, writer text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    entry  record;
    rights record;
    owner  constant oid := (SELECT relowner FROM pg_class WHERE oid = 'events'::regclass);
BEGIN
    BEGIN
        -- Nobody makes anything here that could be taken for ours, or names what is here, because he can connect.
        REVOKE ALL ON SCHEMA public FROM PUBLIC;
    EXCEPTION
        WHEN insufficient_privilege THEN RAISE WARNING 'the schema public belongs to somebody else';
    END;
    -- Made anew only where something has changed: that waits for whoever reads it.
    FOR entry IN
        SELECT v.name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
               array_agg(a.attname::text ORDER BY a.attnum) AS wanted
        FROM unnest(ARRAY['events', 'contents', 'checkpoints', 'subscriptions', 'subjects', 'subject_keys']) AS v (name)
        JOIN pg_attribute a ON a.attrelid = to_regclass('public.' || v.name) AND a.attnum > 0 AND NOT a.attisdropped
        WHERE a.attname <> 'wrapped_key'
        GROUP BY v.name
    LOOP
        IF entry.wanted IS DISTINCT FROM (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute a
                                          WHERE a.attrelid = to_regclass('audit.' || entry.name) AND a.attnum > 0) THEN
            EXECUTE format('DROP VIEW IF EXISTS audit.%I', entry.name);
            EXECUTE format('CREATE VIEW audit.%I AS SELECT %s FROM public.%I', entry.name, entry.columns, entry.name);
        END IF;
    END LOOP;
    FOR entry IN
        SELECT n.nspname AS schema, c.relname AS name, c.oid::regclass AS what
        FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname IN ('public', 'read', 'read_next', 'work', 'rows', 'audit') AND c.relkind IN ('r', 'v')
          AND c.relowner = owner
    LOOP
        FOR rights IN
            SELECT role, granted FROM (VALUES
                -- It appends through the functions alone.
                (service, CASE WHEN entry.schema = 'audit' OR entry.name IN ('log_lock', 'append_probe') THEN NULL
                               WHEN entry.name IN ('events', '_sqlx_migrations') THEN 'SELECT'
                               WHEN entry.name = 'checkpoints' THEN 'SELECT, INSERT'
                               WHEN entry.name = 'contents' THEN 'SELECT, DELETE'
                               ELSE 'SELECT, INSERT, UPDATE, DELETE' END),
                (finance, CASE WHEN entry.schema = 'read' THEN 'SELECT' END),
                -- The log and what proves it, and what was made of it. Sealed content, but no key.
                (auditor, CASE WHEN entry.schema IN ('read', 'audit') THEN 'SELECT' END),
                -- A program that uses cqrs-es on its own. The place in the log is not its to say.
                (writer, CASE WHEN entry.schema <> 'public' THEN NULL
                              WHEN entry.name = 'events' THEN
                                  'SELECT, INSERT (aggregate_type, aggregate_id, sequence, event_type, event_version, '
                                  'payload, metadata, command_id)'
                              WHEN entry.name = 'snapshots' THEN 'SELECT, INSERT, UPDATE, DELETE' END)
            ) AS r (role, granted) WHERE role IS NOT NULL
        LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', entry.what, rights.role);
            IF rights.granted IS NOT NULL THEN
                EXECUTE format('GRANT %s ON %s TO %I', rights.granted, entry.what, rights.role);
            END IF;
        END LOOP;
        -- Nobody has any right because he can connect.
        EXECUTE format('REVOKE ALL ON %s FROM PUBLIC', entry.what);
    END LOOP;
    FOR entry IN
        SELECT p.oid::regprocedure AS what FROM pg_proc p
        WHERE p.pronamespace = 'public'::regnamespace AND p.proowner = owner
          -- What an extension brings along is not ours.
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')
    LOOP
        EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', entry.what);
        IF service IS NOT NULL THEN
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO %I', entry.what, service);
        END IF;
    END LOOP;
    FOR rights IN
        SELECT role, unnest(schemas) AS schema FROM (VALUES
            (service, ARRAY['public', 'read', 'read_next', 'work', 'rows']),
            (finance, ARRAY['read']),
            (auditor, ARRAY['audit', 'read']),
            (writer, ARRAY['public'])
        ) AS r (role, schemas) WHERE role IS NOT NULL
    LOOP
        -- The schema public may be somebody else's, who lets everybody use it.
        IF NOT has_schema_privilege(rights.role, rights.schema, 'USAGE') THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', rights.schema, rights.role);
        END IF;
    END LOOP;
END
$$;

-- Limits what one reader of the views may take from everybody else: how long a statement takes, a lock is waited for, and a
-- transaction sits idle, and how many connections a login has. PostgreSQL reads such settings of the login alone and not of its
-- groups, so each login that is given the role has them, where it has none of its own. A session can set the times otherwise.
-- Those that the caller may not limit.
CREATE FUNCTION limit_readers(finance text, auditor text, service text) RETURNS TABLE (login text) LANGUAGE plpgsql AS $$
DECLARE
    reader  record;
    setting record;
BEGIN
    FOR reader IN
        SELECT r.rolname, r.rolconfig, r.rolcanlogin, r.rolconnlimit,
               pg_has_role(r.oid, (SELECT oid FROM pg_roles WHERE rolname = finance), 'USAGE') AS reads_views
        FROM pg_roles r
        -- Not who is the service too, nor who has only made the role and may give it away.
        WHERE EXISTS (SELECT FROM pg_roles g WHERE g.rolname IN (finance, auditor) AND pg_has_role(r.oid, g.oid, 'USAGE'))
          AND NOT r.rolsuper
          AND NOT EXISTS (SELECT FROM pg_roles s WHERE s.rolname = service AND pg_has_role(r.oid, s.oid, 'USAGE'))
    LOOP
        BEGIN
            FOR setting IN
                SELECT name, value FROM (VALUES
                    ('statement_timeout', '60s'),
                    ('idle_in_transaction_session_timeout', '60s'),
                    ('lock_timeout', '5s')
                ) AS s (name, value)
                -- Who verifies the log reads all of it, and holds nothing that is changed.
                WHERE (reader.reads_views OR s.name <> 'statement_timeout')
                  AND NOT EXISTS (SELECT FROM unnest(reader.rolconfig) AS own (setting)
                                  WHERE own.setting LIKE s.name || '=%')
            LOOP
                EXECUTE format('ALTER ROLE %I SET %I = %L', reader.rolname, setting.name, setting.value);
            END LOOP;
            IF reader.rolcanlogin AND reader.rolconnlimit < 0 THEN
                EXECUTE format('ALTER ROLE %I CONNECTION LIMIT 10', reader.rolname);
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                login := reader.rolname;
                RETURN NEXT;
            -- Somebody else does it just now, for another database of the same server.
            WHEN internal_error THEN NULL;
        END;
    END LOOP;
END
$$;
