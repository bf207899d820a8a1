-- From the attempts, as every sum of money in the report: so all of them agree.
SELECT date_trunc($4, a.created_at, 'UTC') AS start,
       a.model_id,
       sum(a.prompt_tokens)::bigint AS prompt_tokens,
       sum(a.completion_tokens)::bigint AS completion_tokens,
       sum(a.cost_usd) AS cost_usd,
       sum(a.cost_usd) FILTER (WHERE a.simulated) AS simulated_usd,
       count(*) FILTER (WHERE a.cost_usd IS NULL AND a.outcome <> 'refused') AS unpriced
FROM attempts a
LEFT JOIN responses r ON $3::text IS NOT NULL AND r.request_id = a.request_id
    AND r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
WHERE a.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND a.created_at >= $1 AND a.created_at < $2
  AND ($3::text IS NULL OR coalesce(r.tenant, '') = $3)
GROUP BY start, a.model_id
ORDER BY start, a.model_id
