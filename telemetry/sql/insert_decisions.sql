INSERT INTO decisions (
    request_id, attempt, task_id, created_at, manager_id, why, policy, weights, wishes, winner, model_id, candidates,
    considered
)
SELECT
    request_id, attempt, task_id, created_at, manager_id, why, policy, weights, wishes, winner, model_id, candidates,
    considered
FROM json_populate_recordset(NULL::decisions, $1)
ORDER BY request_id, attempt
ON CONFLICT DO NOTHING
