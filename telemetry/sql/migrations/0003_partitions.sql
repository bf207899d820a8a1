-- Responses and attempts by the month in which they were asked. A request_id is a UUIDv7, whose first 48 bits are unix
-- milliseconds, so its ranges are months, and the keys stay what they were. What anybody else made up as an id has a
-- home too: before 2024 or from 2050 on there is one partition each, and any month between is made when it is met. There
-- is no default partition: with one, a month could not be added or taken away without locking everybody out.

CREATE FUNCTION uuidv7_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (lpad(to_hex(floor(least(greatest(extract(epoch FROM moment) * 1000, 0), 281474976710655))::bigint), 12, '0')
        || repeat('0', 20))::uuid;
COMMENT ON FUNCTION uuidv7_floor IS 'The smallest UUIDv7 of that millisecond: what was asked since then is not below it.';

CREATE FUNCTION uuidv7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN to_timestamp(('x' || lpad(left(replace(id::text, '-', ''), 12), 16, '0'))::bit(64)::bigint / 1000.0);
COMMENT ON FUNCTION uuidv7_time IS 'When a UUIDv7 was made; of any other id some time or other.';

DROP VIEW model_scorecard, model_cost, model_error_rate, model_performance;
ALTER TABLE responses RENAME TO responses_0002;
ALTER TABLE attempts RENAME TO attempts_0002;
ALTER TABLE responses_0002 RENAME CONSTRAINT responses_pkey TO responses_0002_pkey;
ALTER TABLE attempts_0002 RENAME CONSTRAINT attempts_pkey TO attempts_0002_pkey;
DROP INDEX responses_created_at, responses_task_id, responses_model, responses_failed, attempts_created_at;

CREATE TABLE responses (
    request_id        uuid PRIMARY KEY,
    task_id           text NOT NULL,
    created_at        timestamptz NOT NULL,
    stored_at         timestamptz NOT NULL DEFAULT now(),
    status            text NOT NULL CHECK (status IN ('ok', 'error')),
    error_code        text,
    error_message     text,
    model_id          text,
    backend           text,
    worker_id         text,
    manager_id        text,
    policy            text NOT NULL,
    priority          text NOT NULL,
    prompt_tokens     bigint,
    completion_tokens bigint,
    cached_tokens     bigint,
    cache_write_tokens bigint,
    reasoning_tokens  bigint,
    tokens_used       bigint,
    cost_usd          numeric,
    price             jsonb,
    duration_ms       double precision NOT NULL,
    ttft_ms           double precision,
    queue_ms          double precision,
    confidence        double precision,
    confidence_source text,
    finish_reason     text,
    attempts          integer NOT NULL,
    streamed          boolean NOT NULL,
    resumed           boolean NOT NULL,
    replayed          boolean NOT NULL,
    simulated         boolean NOT NULL,
    content           text NOT NULL DEFAULT 'full' CHECK (content IN ('full', 'redacted', 'hash', 'none')),
    tenant            text GENERATED ALWAYS AS (coalesce(metadata ->> 'tenant', '')) STORED,
    prompt            text,
    output            text,
    context           jsonb NOT NULL,
    metadata          jsonb NOT NULL
) PARTITION BY RANGE (request_id);
COMMENT ON COLUMN responses.cost_usd IS 'All attempts together. NULL: the cost of one of them is unknown, which is not zero.';
COMMENT ON COLUMN responses.cached_tokens IS 'Among prompt_tokens: read from the provider''s cache.';
COMMENT ON COLUMN responses.cache_write_tokens IS 'Among prompt_tokens: written to the provider''s cache.';
COMMENT ON COLUMN responses.reasoning_tokens IS 'Among completion_tokens.';
COMMENT ON COLUMN responses.content IS 'How much of prompt, output and context is kept; none also when it was too old.';
-- What is added up by day and by tenant is in the index: the rows are wide, because people's words are in them.
CREATE INDEX responses_created_at ON responses (created_at DESC) INCLUDE (request_id, tenant, tokens_used, cost_usd);
CREATE INDEX responses_task_id ON responses (task_id);
CREATE INDEX responses_model ON responses (model_id, created_at DESC);
CREATE INDEX responses_tenant ON responses (tenant, created_at DESC);
CREATE INDEX responses_failed ON responses (created_at DESC) WHERE status = 'error';

CREATE TABLE attempts (
    request_id        uuid NOT NULL,
    attempt           integer NOT NULL,
    task_id           text NOT NULL,
    created_at        timestamptz NOT NULL,
    stored_at         timestamptz NOT NULL DEFAULT now(),
    worker_id         text NOT NULL,
    backend           text NOT NULL,
    model_id          text NOT NULL,
    epoch             text,
    outcome           text NOT NULL CHECK (outcome IN (
        'ok', 'failed', 'refused', 'cancelled', 'uncertain', 'late_discarded', 'hedged_loser', 'truncated')),
    error_code        text,
    error_message     text,
    duration_ms       double precision NOT NULL,
    ttft_ms           double precision,
    queue_ms          double precision,
    prompt_tokens     bigint,
    completion_tokens bigint,
    cached_tokens     bigint,
    cache_write_tokens bigint,
    reasoning_tokens  bigint,
    cost_usd          numeric,
    price             jsonb,
    confidence        double precision,
    simulated         boolean NOT NULL,
    PRIMARY KEY (request_id, attempt)
) PARTITION BY RANGE (request_id);
COMMENT ON COLUMN attempts.price IS 'The price at that time. NULL: unknown.';
COMMENT ON COLUMN attempts.cached_tokens IS 'Among prompt_tokens: read from the provider''s cache.';
COMMENT ON COLUMN attempts.cache_write_tokens IS 'Among prompt_tokens: written to the provider''s cache.';
COMMENT ON COLUMN attempts.reasoning_tokens IS 'Among completion_tokens.';
CREATE INDEX attempts_created_at ON attempts (created_at DESC);

CREATE TABLE responses_before PARTITION OF responses
    FOR VALUES FROM (MINVALUE) TO ('018cc251-f400-0000-0000-000000000000');
CREATE TABLE responses_after PARTITION OF responses
    FOR VALUES FROM ('024bce5c-f000-0000-0000-000000000000') TO (MAXVALUE);
CREATE TABLE attempts_before PARTITION OF attempts
    FOR VALUES FROM (MINVALUE) TO ('018cc251-f400-0000-0000-000000000000');
CREATE TABLE attempts_after PARTITION OF attempts
    FOR VALUES FROM ('024bce5c-f000-0000-0000-000000000000') TO (MAXVALUE);

-- A new table is made beside and attached empty: that locks nobody out, as PARTITION OF would. Runs as who owns the tables,
-- so that a recorder needs no right but this one.
CREATE FUNCTION make_partitions(months timestamptz[]) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    parent text;
    start  timestamptz;
    until  timestamptz;
    name   text;
BEGIN
    PERFORM pg_advisory_xact_lock(1651862636, 1);
    FOR start IN SELECT DISTINCT date_trunc('month', month, 'UTC') FROM unnest(months) AS month ORDER BY 1 LOOP
        until := (start AT TIME ZONE 'UTC' + interval '1 month') AT TIME ZONE 'UTC';
        CONTINUE WHEN start < '2024-01-01Z' OR start >= '2050-01-01Z';
        FOREACH parent IN ARRAY ARRAY['responses', 'attempts'] LOOP
            name := parent || to_char(start AT TIME ZONE 'UTC', '_YYYY_MM');
            CONTINUE WHEN to_regclass(name) IS NOT NULL;
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, parent);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                           parent, name, uuidv7_floor(start), uuidv7_floor(until));
            RETURN NEXT name;
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION make_partitions IS 'Makes what is missing for the months of these moments, and returns its names.';
REVOKE EXECUTE ON FUNCTION make_partitions FROM PUBLIC;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION make_partitions SET search_path = %I, pg_temp', current_schema());
    PERFORM make_partitions(ARRAY(
        SELECT DISTINCT date_trunc('month', uuidv7_time(request_id), 'UTC')
        FROM (SELECT request_id FROM responses_0002 UNION ALL SELECT request_id FROM attempts_0002) AS known
        UNION
        SELECT date_trunc('month', now(), 'UTC') + number * interval '1 month' FROM generate_series(0, 3) AS number
    ));
END
$$;

INSERT INTO responses (
    request_id, task_id, created_at, stored_at, status, error_code, error_message, model_id, backend, worker_id,
    manager_id, policy, priority, prompt_tokens, completion_tokens, tokens_used, cost_usd, price, duration_ms, ttft_ms,
    queue_ms, confidence, confidence_source, finish_reason, attempts, streamed, resumed, replayed, simulated, prompt,
    output, context, metadata
)
SELECT request_id, task_id, created_at, stored_at, status, error_code, error_message, model_id, backend, worker_id,
       manager_id, policy, priority, prompt_tokens, completion_tokens, tokens_used, cost_usd, price, duration_ms, ttft_ms,
       queue_ms, confidence, confidence_source, finish_reason, attempts, streamed, resumed, replayed, simulated, prompt,
       output, context, metadata
FROM responses_0002;
INSERT INTO attempts (
    request_id, attempt, task_id, created_at, stored_at, worker_id, backend, model_id, epoch, outcome, error_code,
    error_message, duration_ms, ttft_ms, queue_ms, prompt_tokens, completion_tokens, cost_usd, confidence, simulated
)
SELECT request_id, attempt, task_id, created_at, stored_at, worker_id, backend, model_id, epoch, outcome, error_code,
       error_message, duration_ms, ttft_ms, queue_ms, prompt_tokens, completion_tokens, cost_usd, confidence, simulated
FROM attempts_0002;
DROP TABLE responses_0002, attempts_0002;

-- How the models do, from their own tries: an answer that came late because another model failed first does not
-- count against the one that gave it. Hours and days are UTC's (date_bin does not look up what a time zone is, row by row).

CREATE VIEW model_performance AS
SELECT model_id,
       date_bin('1 hour', created_at, '2000-01-01Z') AS hour,
       count(*) AS answers,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
       sum(completion_tokens) / nullif(sum(duration_ms) FILTER (WHERE completion_tokens IS NOT NULL) / 1000, 0)
           AS tokens_per_second,
       percentile_cont(0.99) WITHIN GROUP (ORDER BY duration_ms) AS p99_ms
FROM attempts
WHERE outcome = 'ok'
GROUP BY model_id, hour;

-- A worker that refused did not try, and one that was told to stop did not fail.
CREATE VIEW model_error_rate AS
SELECT model_id,
       count(*) AS attempts,
       count(*) FILTER (WHERE failed) AS failures,
       count(*) FILTER (WHERE failed)::double precision
           / nullif(count(*) FILTER (WHERE failed OR outcome = 'ok'), 0) AS error_rate
FROM (
    SELECT model_id, outcome, outcome IN ('failed', 'uncertain', 'late_discarded', 'truncated') AS failed
    FROM attempts
) AS tried
GROUP BY model_id;

CREATE VIEW model_cost AS
SELECT model_id,
       date_bin('1 day', created_at, '2000-01-01Z') AS day,
       count(*) FILTER (WHERE outcome = 'ok') AS answers,
       sum(prompt_tokens) AS prompt_tokens,
       sum(completion_tokens) AS completion_tokens,
       sum(cost_usd) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL AND outcome <> 'refused') AS unpriced,
       sum(cached_tokens) AS cached_tokens,
       sum(cache_write_tokens) AS cache_write_tokens,
       sum(reasoning_tokens) AS reasoning_tokens
FROM attempts
GROUP BY model_id, day;

-- A judgement names a task, and callers reuse their names: it is of the last answer before it. Percentiles are those of
-- counts in buckets, each 4 % longer than the one before: at most so far from the exact ones, which a million rows would
-- have to be sorted for.
CREATE VIEW model_scorecard AS
WITH counted AS (
    SELECT model_id,
           floor(ln(greatest(duration_ms, 0.001)) * 25) AS bucket,
           count(*) FILTER (WHERE outcome = 'ok') AS answers,
           count(*) AS attempts,
           count(*) FILTER (WHERE outcome IN ('failed', 'uncertain', 'late_discarded', 'truncated')) AS failures,
           sum(confidence) FILTER (WHERE outcome = 'ok') AS confidence,
           count(confidence) FILTER (WHERE outcome = 'ok') AS confident,
           avg(duration_ms) FILTER (WHERE outcome = 'ok') AS ms,
           sum(cost_usd) AS cost_usd,
           count(*) FILTER (WHERE cost_usd IS NULL AND outcome <> 'refused') AS unpriced,
           max(created_at) FILTER (WHERE outcome = 'ok') AS last_answer
    FROM attempts
    GROUP BY model_id, bucket
), placed AS (
    SELECT *, sum(answers) OVER (PARTITION BY model_id ORDER BY bucket) / nullif(sum(answers) OVER (PARTITION BY model_id), 0)
              AS place
    FROM counted
), tried AS (
    SELECT model_id,
           sum(answers)::bigint AS answers,
           sum(attempts)::bigint AS attempts,
           sum(failures)::bigint AS failures,
           sum(confidence) / nullif(sum(confident), 0)::double precision AS confidence,
           min(ms) FILTER (WHERE place >= 0.5) AS p50_ms,
           min(ms) FILTER (WHERE place >= 0.95) AS p95_ms,
           min(ms) FILTER (WHERE place >= 0.99) AS p99_ms,
           sum(cost_usd) AS cost_usd,
           sum(unpriced)::bigint AS unpriced,
           max(last_answer) AS last_answer
    FROM placed
    GROUP BY model_id
), judged AS (
    SELECT answer.model_id, avg(f.score) AS feedback, count(*) AS judgements
    FROM feedback f
    CROSS JOIN LATERAL (
        SELECT r.model_id
        FROM responses r
        WHERE r.task_id = f.task_id AND r.status = 'ok'
        ORDER BY r.created_at > f.created_at, r.created_at DESC
        LIMIT 1
    ) AS answer
    GROUP BY answer.model_id
)
SELECT t.model_id,
       t.answers,
       t.attempts,
       t.failures::double precision / nullif(t.failures + t.answers, 0) AS error_rate,
       t.confidence,
       j.feedback,
       coalesce(j.judgements, 0) AS judgements,
       t.p50_ms,
       t.p95_ms,
       t.cost_usd,
       t.unpriced,
       t.cost_usd / nullif(t.answers, 0) AS cost_per_answer,
       t.last_answer,
       t.p99_ms
FROM tried t
LEFT JOIN judged j USING (model_id);

-- Two roles that nobody can log in with; docs/operations.md says how to make users of them. Who may not make roles keeps
-- everything, and the books work all the same.
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['bullpen_recorder', 'bullpen_reader'] LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_roles WHERE rolname = role);
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', role);
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'there is no role %: somebody with CREATEROLE can make it', role;
            WHEN duplicate_object OR unique_violation THEN
                NULL;  -- another database of this server made it just now
        END;
    END LOOP;
END
$$;

CREATE FUNCTION grant_books() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'bullpen_recorder') THEN
        GRANT SELECT, INSERT, UPDATE ON responses, attempts TO bullpen_recorder;
        GRANT SELECT, INSERT ON feedback, worker_events, grades, dead_letters TO bullpen_recorder;
        GRANT SELECT ON schema_migrations TO bullpen_recorder;
        GRANT EXECUTE ON FUNCTION make_partitions TO bullpen_recorder;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO bullpen_recorder', current_schema());
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'bullpen_reader') THEN
        GRANT SELECT ON responses, attempts, feedback, worker_events, grades, dead_letters, schema_migrations,
            model_performance, model_error_rate, model_cost, model_scorecard TO bullpen_reader;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO bullpen_reader', current_schema());
    END IF;
END
$$;
COMMENT ON FUNCTION grant_books IS 'Gives bullpen_recorder and bullpen_reader their rights; for when they were made later.';
REVOKE EXECUTE ON FUNCTION grant_books FROM PUBLIC;
SELECT grant_books();
