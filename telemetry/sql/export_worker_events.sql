-- As export_responses, though there is neither a tenant nor a model nor a word of a caller's in it.
SELECT event_id, created_at, worker_id, backend, epoch, state, previous, reason, detail
FROM worker_events
WHERE created_at >= $1 AND created_at < $2
  AND $3::text IS NULL AND $4::text IS NULL AND $5::boolean IS NOT NULL
  AND event_id > $7
ORDER BY event_id
LIMIT $6
