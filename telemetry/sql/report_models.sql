-- How each model did in the period, by its own tries; what failed is as in the view model_error_rate.
WITH tried AS (
    SELECT a.model_id,
           count(*) AS attempts,
           count(*) FILTER (WHERE a.outcome = 'ok') AS answers,
           count(*) FILTER (WHERE a.outcome IN ('failed', 'uncertain', 'late_discarded', 'truncated')) AS failures,
           percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY a.duration_ms)
               FILTER (WHERE a.outcome = 'ok') AS times,
           avg(a.confidence) FILTER (WHERE a.outcome = 'ok') AS confidence,
           sum(a.prompt_tokens)::bigint AS prompt_tokens,
           sum(a.completion_tokens)::bigint AS completion_tokens,
           sum(a.cost_usd) AS cost_usd,
           count(*) FILTER (WHERE a.cost_usd IS NULL AND a.outcome <> 'refused') AS unpriced
    FROM attempts a
    LEFT JOIN responses r ON $3::text IS NOT NULL AND r.request_id = a.request_id
        AND r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
    WHERE a.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
      AND a.created_at >= $1 AND a.created_at < $2
      AND ($3::text IS NULL OR coalesce(r.tenant, '') = $3)
    GROUP BY a.model_id
), judged AS (
    SELECT answer.model_id, avg(f.score) AS feedback, count(*) AS judgements
    FROM feedback f
    CROSS JOIN LATERAL (
        SELECT r.model_id, r.tenant
        FROM responses r
        WHERE r.task_id = f.task_id AND r.status = 'ok'
        ORDER BY r.created_at > f.created_at, r.created_at DESC
        LIMIT 1
    ) AS answer
    WHERE f.created_at >= $1 AND f.created_at < $2 AND ($3::text IS NULL OR answer.tenant = $3)
    GROUP BY answer.model_id
)
SELECT t.model_id, t.attempts, t.answers,
       t.failures::double precision / nullif(t.failures + t.answers, 0) AS error_rate,
       t.times[1] AS p50_ms,
       t.times[2] AS p95_ms,
       t.confidence,
       j.feedback,
       coalesce(j.judgements, 0) AS judgements,
       t.prompt_tokens, t.completion_tokens, t.cost_usd, t.unpriced,
       t.cost_usd / nullif(t.answers, 0) AS cost_per_answer
FROM tried t
LEFT JOIN judged j USING (model_id)
ORDER BY t.cost_usd DESC NULLS LAST, t.answers DESC, t.model_id
