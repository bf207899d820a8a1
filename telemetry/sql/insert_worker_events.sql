INSERT INTO worker_events (
    event_id, created_at, worker_id, backend, epoch, state, previous, reason, detail
)
SELECT
    event_id, created_at, worker_id, backend, epoch, state, previous, reason, detail
FROM json_populate_recordset(NULL::worker_events, $1)
ORDER BY event_id
ON CONFLICT DO NOTHING
