INSERT INTO feedback (
    task_id, score, source, comment, feedback_id, created_at
)
SELECT
    task_id, score, source, comment, feedback_id, created_at
FROM json_populate_recordset(NULL::feedback, $1)
ORDER BY feedback_id
ON CONFLICT DO NOTHING
