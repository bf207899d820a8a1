-- Months that ended before $1, the oldest first, and what takes them away. A detachment that was interrupted is finished;
-- a table that is detached already has only to be dropped.
SELECT month.relname::text AS name,
       pg_has_role(month.relowner, 'USAGE') AS ours,
       CASE WHEN i.inhdetachpending THEN format('ALTER TABLE %I DETACH PARTITION %I FINALIZE', parent.relname, month.relname)
            WHEN i.inhrelid IS NOT NULL
            THEN format('ALTER TABLE %I DETACH PARTITION %I CONCURRENTLY', parent.relname, month.relname)
       END AS detach,
       format('DROP TABLE %I', month.relname) AS drop
FROM pg_class month
LEFT JOIN pg_inherits i ON i.inhrelid = month.oid
LEFT JOIN pg_class parent ON parent.oid = i.inhparent
WHERE month.relkind = 'r'
  AND month.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'responses'::regclass)
  AND month.relname ~ '^(responses|attempts)_[0-9]{4}_[0-9]{2}$'
  AND (to_timestamp(right(month.relname::text, 7) || ' 00+00', 'YYYY_MM HH24TZH') AT TIME ZONE 'UTC' + interval '1 month')
      AT TIME ZONE 'UTC' <= $1
ORDER BY right(month.relname::text, 7), month.relname
