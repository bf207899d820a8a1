-- The request with this id, else the newest whose task bears this name, and how many others bear it.
SELECT request_id, count(*) OVER () - 1 AS others
FROM (
    SELECT request_id, created_at FROM responses WHERE request_id = $1::uuid OR task_id = $2
    UNION ALL
    SELECT request_id, created_at FROM decisions WHERE request_id = $1::uuid OR task_id = $2
) AS known
GROUP BY request_id
ORDER BY request_id = $1::uuid DESC, min(created_at) DESC
LIMIT 1
