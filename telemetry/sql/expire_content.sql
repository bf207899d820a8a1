-- The next $3 requests after $1 that were asked before $2 and whose words are still there; figures and the tenant stay.
WITH due AS MATERIALIZED (
    SELECT request_id
    FROM responses
    WHERE request_id > $1 AND created_at < $2
      AND (content <> 'none' OR error_message IS NOT NULL OR metadata - 'tenant' <> '{}')
      AND (request_id < (SELECT uuidv7_floor($2 + interval '1 day')) OR request_id >= uuidv7_floor('2050-01-01Z'))
    ORDER BY request_id
    LIMIT $3
    FOR UPDATE SKIP LOCKED
)
UPDATE responses r
SET prompt = NULL, output = NULL, error_message = NULL, context = '{}', content = 'none',
    metadata = jsonb_strip_nulls(jsonb_build_object('tenant', metadata -> 'tenant'))
FROM due
WHERE r.request_id = due.request_id
RETURNING r.request_id AS last
