-- Days that ended before $1, as partitions_due has the months.
SELECT day.relname::text AS name,
       pg_has_role(day.relowner, 'USAGE') AS ours,
       CASE WHEN i.inhdetachpending THEN format('ALTER TABLE decisions DETACH PARTITION %I FINALIZE', day.relname)
            WHEN i.inhrelid IS NOT NULL THEN format('ALTER TABLE decisions DETACH PARTITION %I CONCURRENTLY', day.relname)
       END AS detach,
       format('DROP TABLE %I', day.relname) AS drop
FROM pg_class day
LEFT JOIN pg_inherits i ON i.inhrelid = day.oid
WHERE day.relkind = 'r'
  AND day.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'decisions'::regclass)
  AND day.relname ~ '^decisions_[0-9]{4}_[0-9]{2}_[0-9]{2}$'
  AND to_timestamp(right(day.relname::text, 10) || ' 00+00', 'YYYY_MM_DD HH24TZH') + interval '24 hours' <= $1
ORDER BY day.relname
