-- A row that is there stays as it is, but for a cost that was unknown until a late word about an attempt told it.
INSERT INTO responses (
    request_id, task_id, created_at, status, error_code, error_message, model_id, backend, worker_id,
    manager_id, policy, priority, prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens,
    reasoning_tokens, tokens_used, cost_usd, price, duration_ms, ttft_ms, queue_ms, confidence, confidence_source,
    finish_reason, attempts, streamed, resumed, replayed, simulated, prompt, output, context, metadata, content
)
SELECT
    request_id, task_id, created_at, status, error_code, error_message, model_id, backend, worker_id,
    manager_id, policy, priority, prompt_tokens, completion_tokens, cached_tokens, cache_write_tokens,
    reasoning_tokens, tokens_used, cost_usd, price, duration_ms, ttft_ms, queue_ms, confidence, confidence_source,
    finish_reason, attempts, streamed, resumed, replayed, simulated, prompt, output, context, metadata, content
FROM (
    SELECT DISTINCT ON (request_id) *
    FROM json_populate_recordset(NULL::responses, $1)
    ORDER BY request_id, cost_usd IS NULL
) AS known
ON CONFLICT (request_id) DO UPDATE SET
    cost_usd = excluded.cost_usd
WHERE responses.cost_usd IS NULL AND excluded.cost_usd IS NOT NULL
