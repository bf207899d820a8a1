-- A page in the order of the key. $5: with the words; $6: how many; $7, $8: the last row's key.
SELECT a.request_id, a.attempt, a.task_id, a.created_at, a.stored_at, coalesce(r.tenant, '') AS tenant,
       {figures},
       CASE WHEN $5 THEN a.error_message END AS error_message
FROM attempts a
LEFT JOIN responses r ON r.request_id = a.request_id AND r.request_id >= $7
WHERE a.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND a.created_at >= $1 AND a.created_at < $2
  AND ($3::text IS NULL OR coalesce(r.tenant, '') = $3)
  AND ($4::text IS NULL OR a.model_id = $4)
  AND (a.request_id, a.attempt) > ($7, $8)
ORDER BY a.request_id, a.attempt
LIMIT $6
