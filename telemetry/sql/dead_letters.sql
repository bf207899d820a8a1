SELECT stream_seq, digest, created_at, subject, reason, body
FROM dead_letters
WHERE (created_at, stream_seq, digest) > ($1::timestamptz, $2::bigint, $3::bytea)
ORDER BY created_at, stream_seq, digest
LIMIT $4
