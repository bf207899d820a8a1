-- As export_responses, though there is neither a tenant nor a word of a caller's in it.
SELECT grade_id, created_at, model_id, worker_id, grade, previous, reasons
FROM grades
WHERE created_at >= $1 AND created_at < $2
  AND $3::text IS NULL AND $5::boolean IS NOT NULL
  AND ($4::text IS NULL OR model_id = $4)
  AND grade_id > $7
ORDER BY grade_id
LIMIT $6
