SELECT attempt, task_id, created_at, manager_id, why, policy, weights, wishes, winner, model_id, candidates, considered
FROM decisions
WHERE request_id = $1
ORDER BY attempt
