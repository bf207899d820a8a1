-- The newest request whose id ends like this, as `bullpen responses` shows it; walks back from the newest one.
SELECT request_id, 0 AS others
FROM responses
WHERE right(request_id::text, length($1::text)) = $1::text
ORDER BY created_at DESC
LIMIT 1
