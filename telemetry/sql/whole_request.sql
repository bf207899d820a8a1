SELECT request_id, task_id, kind, created_at, stored_at, status, error_code, error_message, model_id, backend, worker_id,
       manager_id, tenant, policy, priority, prompt_tokens, completion_tokens, cached_tokens, reasoning_tokens, tokens_used,
       cost_usd, duration_ms, ttft_ms, queue_ms, confidence, confidence_source, finish_reason, attempts, streamed, resumed,
       replayed, simulated, content, left(prompt, 200000) AS prompt, left(output, 200000) AS output
FROM responses
WHERE request_id = $1
