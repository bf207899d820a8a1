SELECT request_id, task_id, created_at, status, error_code, error_message, model_id, worker_id, tokens_used,
       cost_usd, duration_ms, confidence, confidence_source, attempts, simulated, prompt, output,
       backend, manager_id, policy, priority, replayed, resumed
FROM responses
WHERE request_id = $1
