-- Of the requests of a period; money as it is booked with each, and how many have a cost that nobody knows.
SELECT count(*) AS requests,
       count(*) FILTER (WHERE status = 'error') AS errors,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY duration_ms) FILTER (WHERE status = 'ok') AS whole_ms,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY ttft_ms) FILTER (WHERE status = 'ok') AS first_ms,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY queue_ms) AS queue_ms,
       sum(tokens_used)::bigint AS tokens,
       sum(cost_usd) AS cost_usd,
       count(*) - count(cost_usd) AS unpriced
FROM responses
WHERE created_at >= $1 AND created_at < $2
  AND request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND ($3::text IS NULL OR tenant = $3)
