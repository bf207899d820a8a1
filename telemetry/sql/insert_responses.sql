INSERT INTO responses (
    request_id, task_id, created_at, status, error_code, error_message, model_id, backend, worker_id,
    manager_id, policy, priority, prompt_tokens, completion_tokens, tokens_used, cost_usd, price,
    duration_ms, ttft_ms, queue_ms, confidence, confidence_source, finish_reason, attempts, streamed,
    resumed, replayed, simulated, prompt, output, context, metadata
)
SELECT
    request_id, task_id, created_at, status, error_code, error_message, model_id, backend, worker_id,
    manager_id, policy, priority, prompt_tokens, completion_tokens, tokens_used, cost_usd, price,
    duration_ms, ttft_ms, queue_ms, confidence, confidence_source, finish_reason, attempts, streamed,
    resumed, replayed, simulated, prompt, output, context, metadata
FROM json_populate_recordset(NULL::responses, $1)
ON CONFLICT DO NOTHING
