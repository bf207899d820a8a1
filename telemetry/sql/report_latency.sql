-- Of answers, as their callers waited for them. The row without a start is of the whole period.
SELECT start, times[1] AS p50_ms, times[2] AS p95_ms, times[3] AS p99_ms
FROM (
    SELECT date_trunc($4, r.created_at, 'UTC') AS start,
           percentile_cont(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY r.duration_ms) AS times
    FROM responses r
    WHERE r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
      AND r.created_at >= $1 AND r.created_at < $2 AND r.status = 'ok'
      AND ($3::text IS NULL OR r.tenant = $3)
    GROUP BY GROUPING SETS ((1), ())
) AS measured
WHERE times IS NOT NULL
ORDER BY start
