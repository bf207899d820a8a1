-- As export_responses. A judgement names a task: it is of the last answer before it, as in the view model_scorecard.
SELECT f.feedback_id, f.created_at, f.task_id, answer.request_id, answer.tenant, answer.model_id, f.score, f.source,
       CASE WHEN $5 THEN f.comment END AS comment
FROM feedback f
LEFT JOIN LATERAL (
    SELECT r.request_id, r.tenant, r.model_id
    FROM responses r
    WHERE r.task_id = f.task_id AND r.status = 'ok'
    ORDER BY r.created_at > f.created_at, r.created_at DESC
    LIMIT 1
) AS answer ON true
WHERE f.created_at >= $1 AND f.created_at < $2
  AND ($3::text IS NULL OR answer.tenant = $3)
  AND ($4::text IS NULL OR answer.model_id = $4)
  AND f.feedback_id > $7
ORDER BY f.feedback_id
LIMIT $6
