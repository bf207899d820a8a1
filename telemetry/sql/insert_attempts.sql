INSERT INTO attempts (
    request_id, attempt, task_id, created_at, worker_id, backend, model_id, epoch, outcome, error_code,
    error_message, duration_ms, ttft_ms, queue_ms, prompt_tokens, completion_tokens, cost_usd,
    confidence, simulated
)
SELECT
    request_id, attempt, task_id, created_at, worker_id, backend, model_id, epoch, outcome, error_code,
    error_message, duration_ms, ttft_ms, queue_ms, prompt_tokens, completion_tokens, cost_usd,
    confidence, simulated
FROM json_populate_recordset(NULL::attempts, $1)
ON CONFLICT DO NOTHING
