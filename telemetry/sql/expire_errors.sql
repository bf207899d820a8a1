-- As expire_content: the errors of failed attempts may quote the prompt. From $1 on: a request may have several.
WITH due AS MATERIALIZED (
    SELECT request_id, attempt
    FROM attempts
    WHERE request_id >= $1 AND created_at < $2 AND error_message IS NOT NULL
      AND (request_id < (SELECT uuidv7_floor($2 + interval '1 day')) OR request_id >= uuidv7_floor('2050-01-01Z'))
    ORDER BY request_id, attempt
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE attempts a
SET error_message = NULL
FROM due
WHERE a.request_id = due.request_id AND a.attempt = due.attempt
RETURNING a.request_id AS last
