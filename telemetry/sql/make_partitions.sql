SELECT make_partitions(array_agg($1::timestamptz + number * interval '1 month')) AS name FROM generate_series(0, $2) AS number
