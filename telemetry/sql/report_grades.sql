-- Every change in the period, and before it the grade that each had when it began; the newest $3 if there are more.
SELECT created_at, model_id, worker_id, grade, previous, reasons
FROM (
    SELECT g.created_at, g.model_id, g.worker_id, g.grade, g.previous, g.reasons
    FROM grades g
    WHERE g.created_at >= $1 AND g.created_at < $2
    UNION ALL
    (SELECT DISTINCT ON (g.model_id, g.worker_id)
            g.created_at, g.model_id, g.worker_id, g.grade, g.previous, g.reasons
     FROM grades g
     WHERE g.created_at < $1
     ORDER BY g.model_id, g.worker_id, g.created_at DESC)
) AS known
ORDER BY created_at DESC
LIMIT $3
