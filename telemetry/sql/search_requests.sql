-- A page of requests, the newest first, from after the place ($9, $10) on. The words are cut: one request has them whole.
SELECT request_id, task_id, kind, created_at, status, error_code, left(error_message, 300) AS error_message, model_id,
       backend, worker_id, tenant, policy, priority, tokens_used, cost_usd, duration_ms, ttft_ms, queue_ms, confidence,
       attempts, streamed, resumed, simulated, left(prompt, 200) AS prompt, left(output, 200) AS output
FROM responses
WHERE ($1::text IS NULL OR tenant = $1)
  AND created_at >= coalesce($2::timestamptz, '-infinity')
  AND created_at < coalesce($3::timestamptz, 'infinity')
  AND ($4::text IS NULL OR task_id = $4 OR request_id = $5::uuid)
  AND ($6::text IS NULL OR model_id = $6)
  AND ($7::text IS NULL OR worker_id = $7)
  AND ($8::text IS NULL OR status = $8)
  AND ($9::timestamptz IS NULL OR (created_at, request_id) < ($9, $10::uuid))
  AND ($11::text IS NULL OR error_code = $11)
  AND ($12::text IS NULL OR prompt ILIKE $12 OR output ILIKE $12)
ORDER BY created_at DESC, request_id DESC
LIMIT $13
