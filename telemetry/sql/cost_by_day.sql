-- Requests are found by when they were asked, months by their ids; a clock may be wrong, and a job waits, for days.
SELECT to_char(day AT TIME ZONE 'UTC', 'YYYY-MM-DD') AS key, requests, tokens, cost_usd, unpriced
FROM (
    SELECT date_bin('1 day', created_at, '2000-01-01Z') AS day,
           count(*) AS requests,
           sum(tokens_used) AS tokens,
           sum(cost_usd) AS cost_usd,
           count(*) - count(cost_usd) AS unpriced
    FROM responses
    WHERE created_at >= coalesce($1::timestamptz, '-infinity')
      AND (request_id >= (SELECT uuidv7_floor(coalesce($1, '-infinity') - interval '7 days'))
           OR request_id < uuidv7_floor('2024-01-01Z'))
    GROUP BY day
) AS spent
ORDER BY cost_usd DESC NULLS LAST, key
