-- For rows that met none: their months may be long past, or their ids no UUIDv7.
SELECT make_partitions(array_agg(uuidv7_time((told ->> 'request_id')::uuid))) AS name FROM json_array_elements($1) AS told
