-- A row that is there stays as it is, but for an attempt that was given up on and turned out to have been computed after
-- all, or that told late what it had used.
INSERT INTO attempts (
    request_id, attempt, task_id, created_at, worker_id, backend, model_id, epoch, outcome, error_code,
    error_message, duration_ms, ttft_ms, queue_ms, prompt_tokens, completion_tokens, cached_tokens,
    cache_write_tokens, reasoning_tokens, cost_usd, price, confidence, simulated
)
SELECT
    request_id, attempt, task_id, created_at, worker_id, backend, model_id, epoch, outcome, error_code,
    error_message, duration_ms, ttft_ms, queue_ms, prompt_tokens, completion_tokens, cached_tokens,
    cache_write_tokens, reasoning_tokens, cost_usd, price, confidence, simulated
FROM (
    SELECT DISTINCT ON (request_id, attempt) *
    FROM json_populate_recordset(NULL::attempts, $1)
    ORDER BY request_id, attempt, (outcome IN ('late_discarded', 'hedged_loser') AND confidence IS NOT NULL) DESC,
        cost_usd IS NULL
) AS newest
ON CONFLICT (request_id, attempt) DO UPDATE SET
    outcome = excluded.outcome,
    ttft_ms = excluded.ttft_ms,
    queue_ms = excluded.queue_ms,
    prompt_tokens = excluded.prompt_tokens,
    completion_tokens = excluded.completion_tokens,
    cached_tokens = excluded.cached_tokens,
    cache_write_tokens = excluded.cache_write_tokens,
    reasoning_tokens = excluded.reasoning_tokens,
    cost_usd = excluded.cost_usd,
    confidence = excluded.confidence,
    simulated = excluded.simulated
WHERE (
        attempts.confidence IS NULL
        AND attempts.outcome IN ('uncertain', 'cancelled', 'failed', 'refused', 'hedged_loser')
        AND excluded.outcome IN ('late_discarded', 'hedged_loser')
        AND excluded.confidence IS NOT NULL
    )
    OR (attempts.cost_usd IS NULL AND excluded.cost_usd IS NOT NULL)
