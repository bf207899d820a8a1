SELECT request_id, task_id, created_at, status, error_code, error_message, model_id, worker_id, tokens_used,
       cost_usd, duration_ms, confidence, confidence_source, attempts, simulated, prompt, output
FROM responses
WHERE request_id = $1::uuid OR task_id = $2
ORDER BY created_at DESC
LIMIT 1
