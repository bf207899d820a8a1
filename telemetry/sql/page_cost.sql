-- From the attempts, as every sum of money in the report: what no request is booked for yet has no tenant here.
SELECT to_char(date_trunc('day', a.created_at, 'UTC'), 'YYYY-MM-DD') AS day,
       a.model_id,
       r.tenant,
       count(DISTINCT a.request_id) AS requests,
       coalesce(sum(a.prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(a.completion_tokens), 0)::bigint AS completion_tokens,
       sum(a.cost_usd) AS cost_usd,
       sum(a.cost_usd) FILTER (WHERE a.simulated) AS simulated_usd,
       count(*) FILTER (WHERE a.cost_usd IS NULL AND a.outcome <> 'refused') AS unpriced
FROM attempts a
LEFT JOIN responses r ON r.request_id = a.request_id AND r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
WHERE a.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND a.created_at >= $1 AND a.created_at < $2
  AND ($3::text IS NULL OR r.tenant = $3)
GROUP BY 1, 2, 3
ORDER BY 1 DESC, cost_usd DESC NULLS LAST, 2, 3
LIMIT 2000
