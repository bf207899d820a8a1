INSERT INTO dead_letters (stream_seq, subject, reason, body)
SELECT *
FROM unnest($1::bigint[], $2::text[], $3::text[], $4::bytea[])
ON CONFLICT DO NOTHING
