SELECT r.model_id AS key,
       count(*) AS requests,
       sum(r.tokens_used) AS tokens,
       sum(r.cost_usd) AS cost_usd,
       count(*) FILTER (WHERE r.cost_usd IS NULL) AS unpriced
FROM responses r
WHERE r.created_at >= coalesce($1::timestamptz, '-infinity')
GROUP BY 1
ORDER BY cost_usd DESC NULLS LAST, 1
