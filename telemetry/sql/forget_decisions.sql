-- Of requests whose answer is not in the books.
DELETE FROM decisions WHERE task_id = $1 AND created_at < $2 RETURNING 1
