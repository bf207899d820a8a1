-- How the models do, from their own tries: an answer that came late because another model failed first does not
-- count against the one that gave it. Hours and days are UTC's.

CREATE VIEW model_performance AS
SELECT model_id,
       date_trunc('hour', created_at, 'UTC') AS hour,
       count(*) AS answers,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
       sum(completion_tokens) / nullif(sum(duration_ms) FILTER (WHERE completion_tokens IS NOT NULL) / 1000, 0)
           AS tokens_per_second
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
       date_trunc('day', created_at, 'UTC') AS day,
       count(*) FILTER (WHERE outcome = 'ok') AS answers,
       sum(prompt_tokens) AS prompt_tokens,
       sum(completion_tokens) AS completion_tokens,
       sum(cost_usd) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL AND outcome <> 'refused') AS unpriced
FROM attempts
GROUP BY model_id, day;

-- A judgement names a task, and callers reuse their names: it is of the last answer before it.
CREATE VIEW model_scorecard AS
WITH answered AS (
    SELECT model_id,
           count(*) AS answers,
           avg(confidence) AS confidence,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
           max(created_at) AS last_answer
    FROM attempts
    WHERE outcome = 'ok'
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
), spent AS (
    SELECT model_id, sum(cost_usd) AS cost_usd, sum(unpriced)::bigint AS unpriced
    FROM model_cost
    GROUP BY model_id
)
SELECT e.model_id,
       coalesce(a.answers, 0) AS answers,
       e.attempts,
       e.error_rate,
       a.confidence,
       j.feedback,
       coalesce(j.judgements, 0) AS judgements,
       a.p50_ms,
       a.p95_ms,
       s.cost_usd,
       s.unpriced,
       s.cost_usd / nullif(a.answers, 0) AS cost_per_answer,
       a.last_answer
FROM model_error_rate e
JOIN spent s USING (model_id)
LEFT JOIN answered a USING (model_id)
LEFT JOIN judged j USING (model_id);
