SELECT request_id, task_id, created_at, status, error_code, error_message, model_id, worker_id, tokens_used,
       cost_usd, duration_ms, confidence, confidence_source, attempts, simulated, prompt, output
FROM responses
WHERE created_at >= coalesce($2::timestamptz, '-infinity')
  AND request_id >= uuidv7_floor(coalesce($2::timestamptz, '-infinity') - interval '1 day')
  AND ($3::boolean IS NOT TRUE OR status = 'error')
  AND ($4::text IS NULL OR model_id = $4)
  AND ($5::text IS NULL OR tenant = $5)
ORDER BY created_at DESC
LIMIT $1
