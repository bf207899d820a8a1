-- The newest request with this id, or whose task bears this name; of one tenant, or of all. Those that are not booked yet
-- are known by their decisions, which name no tenant.
SELECT request_id
FROM (
    SELECT request_id, created_at
    FROM responses
    WHERE (request_id = $1::uuid OR task_id = $2) AND ($3::text IS NULL OR tenant = $3)
    UNION ALL
    SELECT request_id, created_at
    FROM decisions
    WHERE (request_id = $1::uuid OR task_id = $2) AND $3::text IS NULL
) AS known
ORDER BY request_id = $1::uuid DESC, created_at DESC
LIMIT 1
