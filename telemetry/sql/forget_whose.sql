SELECT request_id FROM responses WHERE request_id = ANY ($1::uuid[]) AND tenant = $2 AND created_at < $3
