-- How each model did in pieces of $4 seconds, by its own tries; what failed is as in the view model_error_rate.
SELECT date_bin(make_interval(secs => $4), a.created_at, '2000-01-01Z') AS start,
       a.model_id,
       count(*) FILTER (WHERE a.outcome = 'ok') AS answers,
       count(*) FILTER (WHERE a.outcome IN ('failed', 'uncertain', 'late_discarded', 'truncated')) AS failures,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY a.ttft_ms) FILTER (WHERE a.outcome = 'ok') AS first_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY a.duration_ms) FILTER (WHERE a.outcome = 'ok') AS whole_ms,
       percentile_cont(0.5) WITHIN GROUP (ORDER BY a.queue_ms) FILTER (WHERE a.outcome = 'ok') AS queue_ms,
       sum(a.completion_tokens) FILTER (WHERE a.outcome = 'ok')
           / nullif(sum(a.duration_ms) FILTER (WHERE a.outcome = 'ok' AND a.completion_tokens IS NOT NULL) / 1000, 0)
           AS tokens_per_second,
       avg(a.confidence) FILTER (WHERE a.outcome = 'ok') AS confidence
FROM attempts a
LEFT JOIN responses r ON $3::text IS NOT NULL AND r.request_id = a.request_id
    AND r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
WHERE a.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND a.created_at >= $1 AND a.created_at < $2
  AND ($3::text IS NULL OR r.tenant = $3)
GROUP BY 1, 2
ORDER BY 1, 2
LIMIT 5000
