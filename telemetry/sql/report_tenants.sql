-- The first $4 by cost; the others as one row without a name, `tenants` of them.
WITH asked AS (
    SELECT r.tenant,
           count(*) AS requests,
           count(*) FILTER (WHERE r.status = 'error') AS errors
    FROM responses r
    WHERE r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
      AND r.created_at >= $1 AND r.created_at < $2
      AND ($3::text IS NULL OR r.tenant = $3)
    GROUP BY 1
), spent AS (
    SELECT coalesce(r.tenant, '') AS tenant,
           sum(coalesce(a.prompt_tokens, 0) + coalesce(a.completion_tokens, 0))::bigint AS tokens,
           sum(a.cost_usd) AS cost_usd,
           count(*) FILTER (WHERE a.cost_usd IS NULL AND a.outcome <> 'refused') AS unpriced
    FROM attempts a
    LEFT JOIN responses r ON r.request_id = a.request_id
        AND r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
    WHERE a.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
      AND a.created_at >= $1 AND a.created_at < $2
      AND ($3::text IS NULL OR coalesce(r.tenant, '') = $3)
    GROUP BY 1
), ranked AS (
    SELECT tenant, coalesce(requests, 0) AS requests, coalesce(errors, 0) AS errors, coalesce(tokens, 0) AS tokens,
           cost_usd, coalesce(unpriced, 0) AS unpriced,
           row_number() OVER (ORDER BY cost_usd DESC NULLS LAST, requests DESC NULLS LAST, tenant) AS place
    FROM asked FULL JOIN spent USING (tenant)
)
SELECT CASE WHEN place <= $4 THEN tenant END AS tenant,
       count(*) AS tenants,
       sum(requests)::bigint AS requests,
       sum(errors)::bigint AS errors,
       sum(tokens)::bigint AS tokens,
       sum(cost_usd) AS cost_usd,
       sum(unpriced)::bigint AS unpriced
FROM ranked
GROUP BY least(place, $4 + 1), 1
ORDER BY least(place, $4 + 1)
