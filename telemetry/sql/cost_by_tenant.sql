-- As cost_by_day.
SELECT tenant AS key,
       count(*) AS requests,
       sum(tokens_used) AS tokens,
       sum(cost_usd) AS cost_usd,
       count(*) - count(cost_usd) AS unpriced
FROM responses
WHERE created_at >= coalesce($1::timestamptz, '-infinity')
  AND (request_id >= (SELECT uuidv7_floor(coalesce($1, '-infinity') - interval '7 days'))
       OR request_id < uuidv7_floor('2024-01-01Z'))
GROUP BY tenant
ORDER BY cost_usd DESC NULLS LAST, key
