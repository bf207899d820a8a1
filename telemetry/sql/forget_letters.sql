-- They could not be parsed, so only the names that stand in them say which request they belong to.
DELETE FROM dead_letters
WHERE created_at < coalesce($2::timestamptz, 'infinity')
  AND EXISTS (SELECT FROM unnest($1::bytea[]) AS name WHERE position(name IN body) > 0)
RETURNING 1
