-- A log of $1 requests of a thousand accounts: each request is reserved for, accepted, settled and completed.
CREATE OR REPLACE FUNCTION fill_log(requests bigint) RETURNS void LANGUAGE plpgsql AS $fill$
DECLARE
    at     timestamptz := '2026-11-01T00:00:00Z';
    head   bytea := decode(repeat('00', 32), 'hex');
    leaf   bytea;
    entry  record;
    next   bigint := 0;
    sealed text := repeat('c2VhbGVk', 60);
BEGIN
    FOR entry IN
        SELECT e.* FROM (
            SELECT a AS nth, 0::bigint AS part, 'account' AS type, 'account-' || a AS id, p AS sequence, kind, payload
            FROM generate_series(0, 999) AS a, LATERAL (VALUES
                (1::bigint, 'AccountOpened', '{"AccountOpened":{"opened_at":"2026-11-01T00:00:00Z"}}'),
                (2, 'CreditsGranted', '{"CreditsGranted":{"grant_id":"first","amount_microcredits":1000000000000,"available_microcredits":1000000000000,"expires_at":null,"reason":"a benchmark","actor":"finance","granted_at":"2026-11-01T00:00:00Z"}}')
            ) AS v (p, kind, payload)
            UNION ALL
            SELECT 1000 + r, part, type, id, sequence, kind, payload
            FROM (SELECT r, 'account-' || r % 1000 AS account, r / 1000 AS k,
                         '0199' || lpad(to_hex(r), 8, '0') || '-request' AS request,
                         1000000000000 - 20000 * (r / 1000) AS available
                  FROM generate_series(0, requests - 1) AS r) AS r, LATERAL (VALUES
                (1, 'account', account, 3 + 2 * k, 'CreditsReserved', format('{"CreditsReserved":{"reservation_id":"%s","amount_microcredits":50000,"available_microcredits":%s,"reserved_at":"2026-11-01T00:00:00Z"}}', request, available - 50000)),
                (2, 'request', request, 1, 'RequestAccepted', format('{"RequestAccepted":{"account":"%s","user":"ann","kind":"chat","provider":"auto","model":"gpt-6-luna","stream":true,"input_tokens_estimate":10,"max_output_tokens":100,"reserved_microcredits":50000,"price_id":"openai/gpt-6-luna@2026-11-22","node":"n1","deadline_at":"2026-11-01T00:00:00Z","accepted_at":"2026-11-01T00:00:00Z","prompt":{"subject":"%s","month":"2026-11-01","sealed":"%s"}}}', account, account, sealed)),
                (3, 'account', account, 4 + 2 * k, 'CreditsSettled', format('{"CreditsSettled":{"reservation_id":"%s","charged_microcredits":20000,"released_microcredits":30000,"uncovered_microcredits":0,"available_microcredits":%s,"price_id":"openai/gpt-6-luna@2026-11-22","cost_picousd":20000000,"settled_at":"2026-11-01T00:00:00Z"}}', request, available - 20000)),
                (4, 'request', request, 2, 'RequestCompleted', format('{"RequestCompleted":{"asked":{"account":"%s","user":"ann","kind":"chat","provider":"auto","model":"gpt-6-luna"},"client_left":false,"outcome":{"provider":"openai","model":"gpt-6-luna","usage":{"input":10,"cachedInput":0,"cacheWrite":0,"cacheWrite1h":0,"output":65,"reasoning":0},"estimated":false,"charge":{"price_id":"openai/gpt-6-luna@2026-11-22","cost_picousd":20000000,"list_microcredits":20000,"amount_microcredits":20000},"finish_reason":"stop","attempts":[],"first_chunk_ms":163,"duration_ms":1300,"answer":{"subject":"%s","month":"2026-11-01","sealed":"%s"},"ended_at":"2026-11-01T00:00:00Z"}}}', account, account, sealed))
            ) AS v (part, type, id, sequence, kind, payload)
        ) AS e ORDER BY nth, part, sequence
    LOOP
        next := next + 1;
        leaf := event_leaf_hash(entry.type, entry.id, entry.sequence, entry.kind, '1.0', entry.payload::json,
                                '{"actor":"ann","correlationId":"0199","node":"n1"}', NULL);
        head := sha256(head || int8send(next) || int8send((extract(epoch FROM at) * 1000000)::bigint) || leaf);
        INSERT INTO events VALUES (entry.type, entry.id, entry.sequence, entry.kind, '1.0', entry.payload::json,
                                   '{"actor":"ann","correlationId":"0199","node":"n1"}', next, at, NULL, leaf, head);
    END LOOP;
END
$fill$;
