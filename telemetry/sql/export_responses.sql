-- A page in the order of the key. $5: with the words; $6: how many; $7: the last row's key.
SELECT r.request_id, r.task_id, r.created_at, r.stored_at, r.tenant,
       {figures},
       CASE WHEN $5 THEN r.error_message END AS error_message,
       CASE WHEN $5 THEN r.prompt END AS prompt,
       CASE WHEN $5 THEN r.output END AS output,
       CASE WHEN $5 THEN r.context END AS context,
       CASE WHEN $5 THEN r.metadata END AS metadata
FROM responses r
WHERE r.request_id >= uuidv7_floor($1::timestamptz - interval '1 day')
  AND r.created_at >= $1 AND r.created_at < $2
  AND ($3::text IS NULL OR r.tenant = $3)
  AND ($4::text IS NULL OR r.model_id = $4)
  AND r.request_id > $7
ORDER BY r.request_id
LIMIT $6
