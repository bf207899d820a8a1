-- Who was considered for a request and why the winner won. Rows are many and soon of no interest, so they are kept by the
-- day and for days. There is no default partition and none for foreign ids: what fits no day is not kept.
CREATE TABLE decisions (
    request_id uuid NOT NULL,
    attempt    integer NOT NULL,
    task_id    text NOT NULL,
    created_at timestamptz NOT NULL,
    manager_id text NOT NULL,
    why        text,
    policy     text NOT NULL,
    weights    jsonb NOT NULL,
    wishes     jsonb,
    winner     text,
    model_id   text,
    candidates jsonb NOT NULL,
    considered integer NOT NULL,
    PRIMARY KEY (request_id, attempt)
) PARTITION BY RANGE (request_id);
COMMENT ON TABLE decisions IS 'Told without a guarantee: what was decided while nobody listened is not here.';
COMMENT ON COLUMN decisions.attempt IS 'The attempt that it led to; one more than there are when nobody could be asked.';
COMMENT ON COLUMN decisions.policy IS 'By which it was decided; in wishes is the one that was asked for.';
COMMENT ON COLUMN decisions.candidates IS 'The best of those considered, the winner first, then by score.';
COMMENT ON COLUMN decisions.considered IS 'How many there were.';
CREATE INDEX decisions_task_id ON decisions (task_id);

-- As make_partitions, for days.
CREATE FUNCTION make_decision_days(days timestamptz[]) RETURNS SETOF text
LANGUAGE plpgsql SECURITY DEFINER
AS $$
DECLARE
    start timestamptz;
    name  text;
BEGIN
    PERFORM pg_advisory_xact_lock(1651862636, 1);
    FOR start IN SELECT DISTINCT date_trunc('day', day, 'UTC') FROM unnest(days) AS day ORDER BY 1 LOOP
        name := 'decisions' || to_char(start AT TIME ZONE 'UTC', '_YYYY_MM_DD');
        CONTINUE WHEN to_regclass(name) IS NOT NULL;
        EXECUTE format('CREATE TABLE %I (LIKE decisions INCLUDING ALL)', name);
        EXECUTE format('ALTER TABLE decisions ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       name, uuidv7_floor(start), uuidv7_floor(start + interval '24 hours'));
        RETURN NEXT name;
    END LOOP;
END
$$;
COMMENT ON FUNCTION make_decision_days IS 'Makes what is missing for the days of these moments, and returns its names.';
REVOKE EXECUTE ON FUNCTION make_decision_days FROM PUBLIC;

DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION make_decision_days SET search_path = %I, pg_temp', current_schema());
END
$$;

CREATE OR REPLACE FUNCTION grant_books() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'bullpen_recorder') THEN
        GRANT SELECT, INSERT, UPDATE ON responses, attempts TO bullpen_recorder;
        GRANT SELECT, INSERT ON feedback, worker_events, grades, dead_letters, decisions TO bullpen_recorder;
        GRANT SELECT ON schema_migrations TO bullpen_recorder;
        GRANT EXECUTE ON FUNCTION make_partitions, make_decision_days TO bullpen_recorder;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO bullpen_recorder', current_schema());
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'bullpen_reader') THEN
        GRANT SELECT ON responses, attempts, feedback, worker_events, grades, dead_letters, decisions, schema_migrations,
            model_performance, model_error_rate, model_cost, model_scorecard TO bullpen_reader;
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO bullpen_reader', current_schema());
    END IF;
END
$$;
SELECT grant_books();
