-- What was said beside a judgement is emptied when it is too old, as other words are: a recorder may do that, and only that.
CREATE OR REPLACE FUNCTION grant_books() RETURNS void
LANGUAGE plpgsql
AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'bullpen_recorder') THEN
        GRANT SELECT, INSERT, UPDATE ON responses, attempts TO bullpen_recorder;
        GRANT SELECT, INSERT ON feedback, worker_events, grades, dead_letters, decisions TO bullpen_recorder;
        GRANT UPDATE (comment) ON feedback TO bullpen_recorder;
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
