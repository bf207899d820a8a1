-- error_code NULL: answered.
SELECT date_trunc($4, r.created_at, 'UTC') AS start, r.error_code, count(*) AS requests,
       count(*) FILTER (WHERE r.simulated) AS simulated
FROM responses r
WHERE r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND r.created_at >= $1 AND r.created_at < $2
  AND ($3::text IS NULL OR r.tenant = $3)
GROUP BY start, r.error_code
ORDER BY start, r.error_code
