-- What the accountant reads. A failure is an attempt that gave no answer though it was not refused or cancelled.

CREATE VIEW model_performance AS
SELECT model_id,
       date_trunc('hour', created_at) AS hour,
       count(*) AS answers,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
       percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
       sum(completion_tokens) / nullif(sum(duration_ms) / 1000, 0) AS tokens_per_second
FROM responses
WHERE status = 'ok'
GROUP BY model_id, hour;

CREATE VIEW model_error_rate AS
SELECT model_id,
       count(*) AS attempts,
       count(*) FILTER (WHERE outcome IN ('failed', 'uncertain', 'truncated')) AS failures,
       count(*) FILTER (WHERE outcome IN ('failed', 'uncertain', 'truncated'))::double precision
           / nullif(count(*) FILTER (WHERE outcome NOT IN ('refused', 'cancelled')), 0) AS error_rate
FROM attempts
GROUP BY model_id;

CREATE VIEW model_cost AS
SELECT model_id,
       date_trunc('day', created_at) AS day,
       count(*) FILTER (WHERE outcome = 'ok') AS answers,
       sum(prompt_tokens) AS prompt_tokens,
       sum(completion_tokens) AS completion_tokens,
       sum(cost_usd) AS cost_usd,
       count(*) FILTER (WHERE cost_usd IS NULL) AS unpriced
FROM attempts
GROUP BY model_id, day;

CREATE VIEW model_scorecard AS
WITH answered AS (
    SELECT model_id,
           count(*) AS answers,
           avg(confidence) AS confidence,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_ms) AS p50_ms,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) AS p95_ms,
           max(created_at) AS last_answer
    FROM responses
    WHERE status = 'ok'
    GROUP BY model_id
), judged AS (
    SELECT r.model_id, avg(f.score) AS feedback, count(*) AS judgements
    FROM feedback f
    JOIN responses r USING (task_id)
    WHERE r.status = 'ok'
    GROUP BY r.model_id
), spent AS (
    SELECT model_id, sum(cost_usd) AS cost_usd, sum(unpriced) AS unpriced
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
LEFT JOIN answered a USING (model_id)
LEFT JOIN judged j USING (model_id)
LEFT JOIN spent s USING (model_id);
