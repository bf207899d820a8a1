-- An operator decides, for one worker or for all that have this model; "by_hand false" gives it back to the books.
-- Who has answered, but has no grade yet, gets one by that.
INSERT INTO grades (model_id, worker_id, grade, previous, reasons, by_hand)
SELECT model_id, worker_id, coalesce($3, grade), grade, to_jsonb(ARRAY[$4]), $5
FROM (
    SELECT DISTINCT ON (model_id, worker_id) model_id, worker_id, grade
    FROM grades
    WHERE model_id = $1 AND ($2::text IS NULL OR worker_id = $2)
    ORDER BY model_id, worker_id, created_at DESC
) AS latest
FULL JOIN (
    SELECT DISTINCT model_id, worker_id
    FROM attempts
    WHERE model_id = $1 AND ($2::text IS NULL OR worker_id = $2) AND created_at > now() - interval '1 day'
) AS seen USING (model_id, worker_id)
WHERE coalesce($3, grade) IS NOT NULL
RETURNING model_id, worker_id, grade, previous
