DELETE FROM dead_letters
USING unnest($1::bigint[], $2::bytea[]) AS done (stream_seq, digest)
WHERE dead_letters.stream_seq = done.stream_seq AND dead_letters.digest = done.digest
