-- Nobody could read them, so nobody knows whose they are but by the names that stand in them.
DELETE FROM dead_letters
WHERE created_at < coalesce($2::timestamptz, 'infinity')
  AND EXISTS (SELECT FROM unnest($1::bytea[]) AS name WHERE position(name IN body) > 0)
RETURNING 1
