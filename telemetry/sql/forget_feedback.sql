-- What was said of a task whose answer is not in the books.
DELETE FROM feedback WHERE task_id = $1 AND created_at < $2 RETURNING 1
