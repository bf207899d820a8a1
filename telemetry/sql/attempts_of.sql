SELECT attempt, created_at, worker_id, backend, model_id, outcome, error_code, error_message, duration_ms, ttft_ms,
       queue_ms, prompt_tokens, completion_tokens, cost_usd, confidence
FROM attempts
WHERE request_id = $1
ORDER BY attempt
