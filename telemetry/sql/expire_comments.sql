-- As expire_content: judgements stay, what was said beside them goes.
WITH due AS MATERIALIZED (
    SELECT feedback_id
    FROM feedback
    WHERE feedback_id > $1 AND created_at < $2 AND comment IS NOT NULL
    ORDER BY feedback_id
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE feedback f
SET comment = NULL
FROM due
WHERE f.feedback_id = due.feedback_id
RETURNING f.feedback_id AS last
