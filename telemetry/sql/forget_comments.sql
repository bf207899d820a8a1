UPDATE feedback SET comment = NULL WHERE task_id = $1 AND created_at < $2 AND comment IS NOT NULL RETURNING 1
