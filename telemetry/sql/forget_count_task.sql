SELECT (SELECT count(*) FROM responses WHERE task_id = $1 AND created_at < $2) AS responses,
       (SELECT count(*) FROM attempts a JOIN responses r USING (request_id)
         WHERE r.task_id = $1 AND r.created_at < $2) AS attempts,
       (SELECT count(*) FROM feedback WHERE task_id = $1 AND created_at < $2) AS feedback,
       (SELECT count(*) FROM decisions WHERE task_id = $1 AND created_at < $2) AS decisions
