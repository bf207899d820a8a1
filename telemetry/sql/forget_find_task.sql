-- The next batch, going back in time, of a task's requests; when $3 is false only those that still have words to forget.
SELECT request_id, task_id, created_at
FROM responses r
WHERE task_id = $1 AND created_at < $2 AND created_at <= $5
  AND ($3 OR content <> 'none' OR error_message IS NOT NULL OR metadata - 'tenant' <> '{}'
       OR EXISTS (SELECT FROM attempts a WHERE a.request_id = r.request_id AND a.error_message IS NOT NULL)
       OR EXISTS (SELECT FROM feedback f WHERE f.task_id = r.task_id AND f.comment IS NOT NULL))
ORDER BY created_at DESC
LIMIT $4
